from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewbits.errors import RunError, StorageError
from fewbits.measurement import Interval, Latency
from fewbits.store import Journal, Run, RunFile, finished_steps, read_record, write_file
from fewbits.store.journal import MemoryLines

SETTINGS = {"model sha256": "abc", "max loss": "1%", "seed": "0"}


@dataclass(frozen=True, slots=True)
class Found:
    names: tuple[str, ...]
    by_name: dict[str, float]
    inside: Interval


def forbidden() -> float:
    raise AssertionError("a finished step was computed again")


# --- the journal -------------------------------------------------------------------------------


@given(value=st.floats(), key=st.text())
def test_every_float_comes_back_exactly(value: float, key: str) -> None:
    journal = Journal(MemoryLines())
    first = journal.step("search", key, float, lambda: value)
    again = journal.step("search", key, float, forbidden)
    assert (
        math.isnan(first)
        if math.isnan(value)
        else (first == value and math.copysign(1, first) == math.copysign(1, value))
    )
    assert again == first or math.isnan(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    names=st.lists(st.text()).map(tuple),
    by_name=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    value=st.floats(allow_nan=False),
)
def test_a_dataclass_survives_the_disk(
    tmp_path_factory: pytest.TempPathFactory, names: tuple[str, ...], by_name: dict[str, float], value: float
) -> None:
    path = tmp_path_factory.mktemp("run")
    found = Found(names, by_name, Interval(value, -value, math.inf))
    with Run.create(path, SETTINGS) as run:
        assert not run.resumed
        first = run.journal.step("rank", "a", Found, lambda: found)
    with Run.create(path, SETTINGS, resume=True) as run:
        assert run.resumed
        second = run.journal.step("rank", "a", Found, forbidden)
    assert first == second == found


def test_the_first_attempt_sees_what_a_resumed_one_will_see() -> None:
    latency = Latency("a", 1.5, ((0.1, 0.2), (0.3,)))
    assert Journal(MemoryLines()).step("bench", "a", Latency, lambda: latency) == latency
    assert Journal(MemoryLines()).step("bench", "b", tuple[int, ...], lambda: (1, 2)) == (1, 2)


def test_steps_are_told_apart_by_stage_and_key() -> None:
    journal = Journal(MemoryLines())
    assert journal.step("a", "x", int, lambda: 1) == 1
    assert journal.step("b", "x", int, lambda: 2) == 2
    assert journal.step("a", "y", int, lambda: 3) == 3
    assert journal.step("a", "x", int, lambda: 4) == 1
    assert len(journal) == 3
    assert ("a", "x") in journal
    assert ("b", "y") not in journal


def test_a_step_that_fails_is_not_recorded(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        with pytest.raises(AssertionError):
            run.journal.step("a", "x", float, forbidden)
        assert len(run.journal) == 0
        assert run.journal.step("a", "x", float, lambda: 2.0) == 2.0
    assert finished_steps(tmp_path) == 1


def test_a_recorded_step_of_another_type_says_what_to_do(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.journal.step("a", "x", str, lambda: "text")
    with Run.create(tmp_path, SETTINGS, resume=True) as run, pytest.raises(RunError, match=r"a/x.*--force"):
        run.journal.step("a", "x", Interval, lambda: Interval(1, 0, 2))


@pytest.mark.parametrize("kept", range(1, 40))
def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path: Path, kept: int) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.journal.step("a", "x", int, lambda: 1)
        run.journal.step("a", "y", int, lambda: 2)
    trials = tmp_path / RunFile.TRIALS
    first, second, _ = trials.read_bytes().split(b"\n")
    trials.write_bytes(first + b"\n" + (second + b"\n")[: min(kept, len(second))])
    with Run.create(tmp_path, SETTINGS, resume=True) as run:
        assert len(run.journal) == 1
        assert run.journal.step("a", "x", int, lambda: 9) == 1
        assert run.journal.step("a", "y", int, lambda: 2) == 2
    assert trials.read_bytes() == first + b"\n" + second + b"\n"


@pytest.mark.parametrize(
    "damage", [b"{not json", b'{"stage": "a"}', b"", b'{"stage":"a","key":"b","value":1,"more":2}']
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        for key in "xyz":
            run.journal.step("a", key, int, lambda: 1)
    trials = tmp_path / RunFile.TRIALS
    lines = trials.read_bytes().split(b"\n")
    lines[1] = damage
    trials.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match=r"trials\.jsonl is damaged at line 2"):
        Run.create(tmp_path, SETTINGS, resume=True)
    with Run.create(tmp_path, SETTINGS, force=True) as run:
        assert len(run.journal) == 0


# --- an existing directory ---------------------------------------------------------------------


def test_an_existing_run_is_never_overwritten_and_both_ways_out_are_told(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", SETTINGS) as run:
        run.write(RunFile.MODEL, b"model")
    with pytest.raises(RunError, match=r"(?s)--force.*--resume"):
        Run.create(tmp_path / "run", SETTINGS)
    assert (tmp_path / "run" / RunFile.MODEL).read_bytes() == b"model"


def test_a_directory_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path, SETTINGS)
    with pytest.raises(RunError, match="nothing to resume"):
        Run.create(tmp_path, SETTINGS, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_force_clears_only_what_fewbits_wrote(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.journal.step("a", "x", int, lambda: 1)
        for file in (RunFile.MODEL, RunFile.BEST, RunFile.PLAN, RunFile.REPORT, RunFile.RECORD):
            run.write(file, "old")
    (tmp_path / "notes.txt").write_text("mine")
    with Run.create(tmp_path, {**SETTINGS, "seed": "1"}, force=True) as run:
        assert not run.resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", RunFile.SETTINGS, RunFile.TRIALS]
    with Run.create(tmp_path, {**SETTINGS, "seed": "1"}, resume=True) as run:
        assert len(run.journal) == 0


def test_force_does_not_clear_a_model_that_is_not_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"trained for weeks")
    with pytest.raises(RunError, match=r"model\.onnx.*not a run"):
        Run.create(tmp_path, SETTINGS, force=True)
    assert (tmp_path / "model.onnx").read_bytes() == b"trained for weeks"


def test_force_does_not_clear_the_model_that_is_being_tuned(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.write(RunFile.MODEL, b"model")
    with pytest.raises(RunError, match="which this run reads"):
        Run.create(tmp_path, SETTINGS, force=True, reads=[tmp_path / ".." / tmp_path.name / "model.onnx"])
    assert (tmp_path / RunFile.MODEL).read_bytes() == b"model"


def test_resume_names_every_difference(tmp_path: Path) -> None:
    Run.create(tmp_path, SETTINGS).close()
    with pytest.raises(RunError) as caught:
        Run.create(tmp_path, {"model sha256": "abc", "max loss": "2%", "threads": "4"}, resume=True)
    text = str(caught.value)
    assert "max loss: the run has '1%', now '2%'" in text
    assert "seed: the run has '0', now nothing" in text
    assert "threads: the run has nothing, now '4'" in text
    assert "sha256" not in text


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    with Run.create(tmp_path / "new" / "deep", SETTINGS, resume=True) as run:
        assert not run.resumed
        run.journal.step("a", "x", int, lambda: 1)
    with Run.create(tmp_path / "new" / "deep", SETTINGS, resume=True) as run:
        assert run.resumed


def test_a_run_killed_in_its_first_moment_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / RunFile.TRIALS).touch()
    (tmp_path / ".settings.json.123.partial").write_text('{"sett')
    with Run.create(tmp_path, SETTINGS) as run:
        assert not run.resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == [RunFile.SETTINGS, RunFile.TRIALS]


def test_force_and_resume_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="choose one"):
        Run.create(tmp_path, SETTINGS, force=True, resume=True)


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("file")
    with pytest.raises(RunError, match="is a file"):
        Run.create(tmp_path / "out", SETTINGS, force=True)
    with pytest.raises(StorageError, match="Not a directory"):
        Run.create(tmp_path / "out" / "run", SETTINGS)


def test_a_run_in_memory_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run.in_memory() as run:
        run.write(RunFile.MODEL, b"model")
        assert run.journal.step("a", "x", int, lambda: 1) == 1
        assert run.journal.step("a", "x", int, lambda: 2) == 1
        assert run.path is None
    assert list(tmp_path.iterdir()) == []


# --- one writer at a time ----------------------------------------------------------------------

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and locks")


@posix
def test_two_at_once_are_refused_and_the_lock_ends_with_the_run(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS):
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(RunError, match="another process"):
                Run.create(tmp_path, SETTINGS, **how)
    Run.create(tmp_path, SETTINGS, resume=True).close()


@posix
def test_a_killed_process_leaves_its_steps_and_no_lock(tmp_path: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from fewbits.store import Run
        run = Run.create(Path(sys.argv[1]), {"seed": "0"})
        for key in range(5):
            run.journal.step("a", str(key), float, lambda: key / 3)
        print("ready", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(RunError, match="another process"):
            Run.create(tmp_path / "run", {"seed": "0"}, resume=True)
        child.send_signal(signal.SIGKILL)
    with Run.create(tmp_path / "run", {"seed": "0"}, resume=True) as run:
        assert [run.journal.step("a", str(key), float, forbidden) for key in range(5)] == [key / 3 for key in range(5)]


# --- writing -----------------------------------------------------------------------------------


def full_disk(room: int):
    """An `os.write` for a disk with `room` bytes left."""
    real, left = os.write, [room]

    def write(descriptor: int, content: bytes) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, content[: left[0]])
        left[0] -= written
        return written

    return write


@pytest.mark.parametrize("room", [0, 7])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.write(RunFile.MODEL, b"old")
        before = sorted(tmp_path.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk(room))
            with pytest.raises(StorageError) as caught:
                run.write(RunFile.MODEL, b"n" * 1_234_567)
        text = str(caught.value)
        assert all(part in text for part in ("model.onnx", "1,234,567 bytes", "No space left", "lost", "--resume"))
        assert (tmp_path / RunFile.MODEL).read_bytes() == b"old"
        assert sorted(tmp_path.iterdir()) == before
        run.write(RunFile.MODEL, b"new")
        assert (tmp_path / RunFile.MODEL).read_bytes() == b"new"


def test_a_part_of_a_run_has_steps_of_its_own_but_for_those_that_are_shared(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}) as run:
        part = run.journal.part("other", {"baseline"})
        assert run.journal.step("baseline", "a", int, lambda: 1) == 1
        assert run.journal.step("search", "a", int, lambda: 2) == 2
        assert part.step("baseline", "a", int, lambda: 9) == 1
        assert part.step("search", "a", int, lambda: 3) == 3
        assert ("search", "a") in part and ("search", "b") not in part
    with Run.create(tmp_path / "run", {}, resume=True) as run:
        assert run.journal.part("other", {"baseline"}).step("search", "a", int, lambda: 9) == 3
        assert run.journal.step("search", "a", int, lambda: 9) == 2


@pytest.mark.parametrize("room", [0, 7])
def test_a_full_disk_keeps_the_journal_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.journal.step("a", "x", int, lambda: 1)
        before = (tmp_path / RunFile.TRIALS).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk(room))
            with pytest.raises(StorageError, match="No space left"):
                run.journal.step("a", "y", int, lambda: 2)
        assert (tmp_path / RunFile.TRIALS).read_bytes() == before
        assert run.journal.step("a", "y", int, lambda: 2) == 2


def test_an_interrupt_in_the_middle_of_a_line_keeps_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def interrupted(descriptor: int, content: bytes) -> int:
        real(descriptor, content[:5])
        raise KeyboardInterrupt

    with Run.create(tmp_path, SETTINGS) as run:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run.journal.step("a", "x", int, lambda: 1)
        assert run.journal.step("a", "y", int, lambda: 2) == 2
    with Run.create(tmp_path, SETTINGS, resume=True) as run:
        assert ("a", "x") not in run.journal
        assert ("a", "y") in run.journal


@posix
def test_a_limit_of_the_system_is_a_storage_error(tmp_path: Path) -> None:
    script = """
        import resource, sys
        from pathlib import Path
        from fewbits.errors import StorageError
        from fewbits.store import write_file
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_file(Path(sys.argv[1]), bytes(5000))
        except StorageError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5,000 bytes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        write_file(tmp_path / "absent" / "file", b"content")


def test_an_interrupt_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_is_readable_by_whoever_the_umask_allows(tmp_path: Path) -> None:
    write_file(tmp_path / "ours", b"content")
    (tmp_path / "plain").write_bytes(b"content")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- reading a run -----------------------------------------------------------------------------


def test_reading_a_run_that_is_not_finished_says_how_to_go_on(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        run.journal.step("a", "x", int, lambda: 1)
    with pytest.raises(RunError, match=r"not finished \(1 steps are recorded\).*--resume"):
        read_record(tmp_path)


def test_reading_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        read_record(tmp_path / "absent")
    (tmp_path / RunFile.RECORD).write_text("{}")
    with pytest.raises(RunError, match="not a finished fewbits run"):
        read_record(tmp_path)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_file(pipe, b"content")
    assert reader.communicate(timeout=30)[0] == b"content"
    assert pipe.is_fifo()
