"""What a person sees while work goes on: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fewbits.progress import Progress
from fewbits.report.words import readable_time, shortened

_SECONDS_BETWEEN_LINES = 10.0
_TITLE_WIDTH = 36
_BAR_WIDTH = 20
_FIXED_WIDTH = _BAR_WIDTH + len("* ") + len(" 0:00:00") + 5


class RichProgress:
    """Progress as a bar: stage, steps done, time so far and time left."""

    def __init__(self, bars: Bars, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars = bars
        self._clock = clock
        self._stage = _Stage("", None, clock())
        self._task: TaskID | None = None

    def stage(self, title: str, total: int | None = None) -> None:
        """See Progress. The stage before stays on the screen as one line with its time."""
        self.end()
        self._stage = _Stage(title, total, self._clock())
        self._task = self._bars.add_task(self._title(), total=total, count=self._stage.count(), left="", note="")

    def advance(self, note: str = "") -> None:
        """See Progress."""
        self._stage.done += 1
        if self._task is not None:
            count, left = self._stage.count(), self._stage.left(self._clock())
            # What does not fit is cut from the note, so that the bar and the time left keep their place.
            room = self._bars.console.width - len(self._title()) - len(count) - len(left) - _FIXED_WIDTH
            self._bars.update(self._task, advance=1, count=count, left=left, note=note[: max(room, 0)])

    def say(self, text: str) -> None:
        """See Progress."""
        self._bars.console.print(Text(text))

    def end(self) -> None:
        """Close the stage at work."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
            self.say(f"  {self._stage.summary(self._clock())}")

    def _title(self) -> str:
        return shortened(self._stage.title, _TITLE_WIDTH)


class LineProgress:
    """Progress as plain lines with the time of day: the start and end of a stage, and in between
    one line every ten seconds at most."""

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._write = write
        self._clock = clock
        self._time_of_day = time_of_day
        self._stage: _Stage | None = None
        self._last = clock()

    def stage(self, title: str, total: int | None = None) -> None:
        """See Progress."""
        self.end()
        self._stage = _Stage(title, total, self._clock())
        self.say(title if total is None else f"{title}: {total} steps")

    def advance(self, note: str = "") -> None:
        """See Progress."""
        now = self._clock()
        if self._stage is None:
            return
        self._stage.done += 1
        if now - self._last >= _SECONDS_BETWEEN_LINES and self._stage.done != self._stage.total:
            parts = (self._stage.count(), self._stage.left(now), note)
            self.say(f"{self._stage.title}: {', '.join(part for part in parts if part)}")

    def say(self, text: str) -> None:
        """See Progress."""
        self._last = self._clock()
        self._write(f"{self._time_of_day()} {text}")

    def end(self) -> None:
        """Close the stage at work."""
        if self._stage is not None:
            self.say(self._stage.summary(self._clock()))
            self._stage = None


@contextmanager
def stderr_progress() -> Iterator[Progress]:
    """Progress on standard error, so that standard output holds results only: a bar if it is a
    terminal, lines if it is not."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_interactive:
        lines = LineProgress(_write_line)
        yield lines
        lines.end()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=console) as bars:
        shown = RichProgress(bars)
        yield shown
        shown.end()


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class _Stage:
    """A stage at work: how far it is, and when it began."""

    def __init__(self, title: str, total: int | None, began: float) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._began = began

    def count(self) -> str:
        """``3/12``, or ``3`` where the total is unknown."""
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"

    def left(self, now: float) -> str:
        """``about 40 s left``, from the mean of the steps so far; empty before the first."""
        if self.total is None or not 0 < self.done < self.total:
            return ""
        return f"about {readable_time((now - self._began) / self.done * (self.total - self.done))} left"

    def summary(self, now: float) -> str:
        """The stage in one line when it is over."""
        steps = f"{self.count()} in " if self.done else ""
        return f"{self.title}: {steps}{readable_time(now - self._began)}"
