from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TextColumn

from fewbits.console import LineProgress, RichProgress, stderr_progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def line_progress(clock: Clock) -> tuple[LineProgress, list[str]]:
    lines: list[str] = []
    return LineProgress(lines.append, clock, lambda: "12:00:00"), lines


def test_lines_tell_stage_trial_and_time_left() -> None:
    clock = Clock()
    progress, lines = line_progress(clock)
    progress.stage("search", 4)
    clock.now = 20.0
    progress.advance("score 0.98")
    progress.say("kept the first plan")
    progress.stage("accept")
    clock.now = 21.0
    progress.end()
    assert lines == [
        "12:00:00 search: 4 steps",
        "12:00:00 search: 1/4, about 1 min 00 s left, score 0.98",
        "12:00:00 kept the first plan",
        "12:00:00 search: 1/4 in 20 s",
        "12:00:00 accept",
        "12:00:00 accept: 1.0 s",
    ]


def test_many_fast_steps_do_not_flood_a_log() -> None:
    clock = Clock()
    progress, lines = line_progress(clock)
    progress.stage("calibrate", 10_000)
    for _ in range(10_000):
        clock.now += 0.01
        progress.advance()
    progress.end()
    assert len(lines) <= 2 + 100 / 10


def test_a_terminal_shows_stage_and_count_and_keeps_finished_stages() -> None:
    clock = Clock()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, highlight=False, markup=False)
    columns = [
        TextColumn("{task.description} {task.fields[count]} {task.fields[left]} {task.fields[note]}", markup=False)
    ]
    with Bars(*columns, console=console, auto_refresh=False) as bars:
        progress = RichProgress(bars, clock)
        progress.stage("search [1]", 3)
        clock.now = 5.0
        progress.advance("score 0.98")
        bars.refresh()
        progress.say("a line with [brackets]")
        progress.end()
    shown = screen.getvalue()
    assert "search [1] 1/3 about 10 s left score 0.98" in shown
    assert "a line with [brackets]" in shown
    assert "search [1]: 1/3 in 5.0 s" in shown


def test_a_long_note_leaves_room_for_the_time_left() -> None:
    clock = Clock()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, highlight=False, markup=False)
    columns = [TextColumn("{task.fields[left]} {task.fields[note]}", markup=False)]
    with Bars(*columns, console=console, auto_refresh=False) as bars:
        progress = RichProgress(bars, clock)
        progress.stage("search", 3)
        clock.now = 5.0
        progress.advance("score 0.98 and " + "more " * 40)
        bars.refresh()
    line = next(line for line in screen.getvalue().splitlines() if "left" in line)
    assert "about 10 s left score 0.98" in line
    assert "more " * 10 not in line


def test_progress_goes_to_stderr_and_never_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with stderr_progress() as progress:
        progress.stage("search", 1)
        progress.advance("[bold]note[/bold]")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "search: 1/1 in" in captured.err
