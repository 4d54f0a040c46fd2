"""A run: a directory that only one process writes, or nothing at all."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fewbits.codes import FILE
from fewbits.errors import RunError, StorageError
from fewbits.files import Content, is_leftover, write_file
from fewbits.record import RunRecord
from fewbits.store.journal import FileLines, Journal, MemoryLines, read_lines
from fewbits.store.lock import lock

Settings = Mapping[str, str]

_ADVICE = "Every finished step is kept; free some space, then run the same command with --resume."


class RunFile(StrEnum):
    """The files of a run; fewbits writes no other."""

    SETTINGS = "settings.json"
    TRIALS = "trials.jsonl"
    PLAN = "plan.json"
    OTHER_PLAN = "other_plan.json"
    CODES = FILE
    MODEL = "model.onnx"
    MODEL_DATA = "model.onnx.data"
    MODULE = "model.pt"
    IR = "model.xml"
    IR_WEIGHTS = "model.bin"
    BEST = "best.onnx"
    BEST_DATA = "best.onnx.data"
    BEST_MODULE = "best.pt"
    BEST_PLAN = "best_plan.json"
    REPORT = "report.txt"
    RECORD = "run.json"


class Folder(Protocol):
    """Where a run's files go."""

    def write(self, file: RunFile, content: Content) -> None:
        """Write all of `content`, or raise StorageError and leave what was there."""

    def remove(self, file: RunFile) -> None:
        """Remove `file` if it is there. Raises StorageError."""

    def close(self) -> None:
        """Let another process write."""


class NoFolder:
    """Writes nothing."""

    def write(self, file: RunFile, content: Content) -> None:
        """See Folder."""

    def remove(self, file: RunFile) -> None:
        """See Folder."""

    def close(self) -> None:
        """See Folder."""


class DiskFolder:
    """A directory whose open journal holds the lock."""

    def __init__(self, path: Path, journal: io.FileIO) -> None:
        self._path = path
        self._journal = journal

    def write(self, file: RunFile, content: Content) -> None:
        """See Folder."""
        write_file(self._path / file, content, _ADVICE)

    def remove(self, file: RunFile) -> None:
        """See Folder."""
        try:
            (self._path / file).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {self._path / file}: {error.strerror or error}") from error

    def close(self) -> None:
        """See Folder."""
        self._journal.close()


@dataclass(frozen=True)
class Run:
    """A run while it is made. A context manager: leaving it lets go of the directory.

    `path` is ``None`` for a run that is kept in memory; `resumed` says whether steps of an earlier
    attempt are in `journal`.
    """

    path: Path | None
    journal: Journal
    folder: Folder
    resumed: bool = False

    @classmethod
    def in_memory(cls) -> Run:
        """A run that writes nothing."""
        return cls(None, Journal(MemoryLines()), NoFolder())

    @classmethod
    def create(
        cls,
        path: Path,
        settings: Settings,
        *,
        force: bool = False,
        resume: bool = False,
        reads: Sequence[Path] = (),
    ) -> Run:
        """Open the directory `path` for a run with `settings`, and lock it.

        An existing directory that is not empty is refused (a run that ended before its first step was
        finished counts as empty), unless `force` (what fewbits wrote there
        is cleared, nothing else) or `resume` (the journal of a run with equal settings is taken
        over; a directory without a run starts a new one). `reads` are files that the run needs:
        clearing one of them is refused.
        Raises RunError if the directory cannot be used so, StorageError if it cannot be written.
        """
        if force and resume:
            raise RunError("choose one: --force starts anew, --resume goes on with what is there")
        try:
            _check(path, settings, force=force, resume=resume, reads=reads)
            path.mkdir(parents=True, exist_ok=True)
            journal = io.FileIO(path / RunFile.TRIALS, "ab+")
            try:
                lock(journal.fileno(), str(path))
                # Another process may have come first between the look and the lock.
                _check(path, settings, force=force, resume=resume, reads=reads)
                if force:
                    _clear(path, journal)
                steps = _take_over(path / RunFile.TRIALS, journal)
                if force or not steps or not (path / RunFile.SETTINGS).exists():
                    write_file(path / RunFile.SETTINGS, _StoredSettings(dict(settings)).to_json(), _ADVICE)
            except BaseException:
                journal.close()
                raise
        except OSError as error:
            raise StorageError(f"cannot work in {path}: {error.strerror or error}") from error
        lines = FileLines(path / RunFile.TRIALS, journal.fileno())
        return cls(path, Journal(lines, steps), DiskFolder(path, journal), resumed=bool(steps))

    def write(self, file: RunFile, content: Content | str) -> None:
        """Write `file` whole or not at all. Raises StorageError."""
        self.folder.write(file, content.encode() if isinstance(content, str) else content)

    def remove(self, file: RunFile) -> None:
        """Remove `file` if it is there. Raises StorageError."""
        self.folder.remove(file)

    def close(self) -> None:
        """Let go of the directory."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_record(path: Path) -> RunRecord:
    """The record of the finished run at `path` (the directory, or its ``run.json``). Raises RunError."""
    file = path if path.name == RunFile.RECORD else path / RunFile.RECORD
    try:
        return RunRecord.from_json(file.read_bytes())
    except FileNotFoundError as error:
        if (file.parent / RunFile.SETTINGS).exists():
            raise RunError(
                f"the run in {file.parent} is not finished ({finished_steps(file.parent)} steps are recorded); "
                "go on with the command that started it and --resume"
            ) from error
        raise RunError(f"{path} is not a run: there is no {file}") from error
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or error}") from error


def finished_steps(path: Path) -> int:
    """How many steps are recorded in the run directory `path`; 0 where there is none."""
    try:
        return (path / RunFile.TRIALS).read_bytes().count(b"\n")
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class _StoredSettings:
    settings: dict[str, str]
    version: int = 1

    __pydantic_config__ = ConfigDict(extra="forbid")

    def to_json(self) -> bytes:
        return _SETTINGS.dump_json(self, indent=2) + b"\n"


_SETTINGS = TypeAdapter(_StoredSettings)


def _check(path: Path, settings: Settings, *, force: bool, resume: bool, reads: Sequence[Path]) -> None:
    """Raise RunError unless a run may work in `path`."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"{path} is a file; a run needs a directory, choose another --out")
    is_run = (path / RunFile.SETTINGS).exists()
    if force:
        _check_clearing(path, is_run=is_run, reads=reads)
    elif resume and is_run:
        _check_same(path, settings)
    elif _is_blank(path):
        return
    elif resume:
        raise RunError(f"{path} holds other files and no run (no {RunFile.SETTINGS}), so there is nothing to resume")
    elif is_run:
        raise RunError(
            f"{path} already holds a run; nothing was changed. Start anew with --force (force=True), "
            "go on with --resume (resume=True), or choose another directory"
        )
    else:
        raise RunError(
            f"{path} exists and is not empty; nothing was changed. Use it anyway with --force (force=True), which "
            "leaves what is there, or choose another directory; --resume is for a directory that holds a run"
        )


def _check_clearing(path: Path, *, is_run: bool, reads: Sequence[Path]) -> None:
    ours = [path / file for file in RunFile if (path / file).exists()]
    needed = {file.resolve() for file in reads} & {file.resolve() for file in ours}
    if needed:
        names = ", ".join(sorted(str(file) for file in needed))
        raise RunError(f"--force would clear {names}, which this run reads; choose another directory for --out")
    if ours and not is_run and not _is_blank(path):
        names = ", ".join(file.name for file in ours)
        raise RunError(
            f"{path} holds {names} but no {RunFile.SETTINGS}, so it is not a run that fewbits made and --force "
            "does not clear it; choose another directory for --out"
        )


def _check_same(path: Path, settings: Settings) -> None:
    try:
        before = _SETTINGS.validate_json((path / RunFile.SETTINGS).read_bytes()).settings
    except (OSError, ValidationError) as error:
        raise RunError(
            f"cannot read {path / RunFile.SETTINGS}, so it is unknown whether this is the same run; "
            "start anew with --force or another directory"
        ) from error
    names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if names:
        lines = "\n".join(
            f"  {name}: the run has {_shown(before.get(name))}, now {_shown(settings.get(name))}" for name in names
        )
        raise RunError(
            f"{path} was started with other settings, so its measurements do not apply:\n{lines}\n"
            "Resume with the settings of the run, start anew with --force, or choose another directory."
        )


def _shown(value: str | None) -> str:
    return "nothing" if value is None else repr(value)


def _is_blank(path: Path) -> bool:
    """Whether `path` holds nothing but what a run leaves that ended before its first step was finished."""
    left = [entry for entry in path.iterdir() if not _is_own_leftover(entry)]
    trials = {entry.name: entry.stat().st_size for entry in left if entry.name == RunFile.TRIALS}
    # Settings alone, without the journal, could be anybody's.
    return not left or (trials == {RunFile.TRIALS: 0} and {entry.name for entry in left} <= _FIRST_FILES)


_FIRST_FILES = {str(RunFile.TRIALS), str(RunFile.SETTINGS)}


def _is_own_leftover(path: Path) -> bool:
    return any(is_leftover(path, file) for file in RunFile)


def _clear(path: Path, journal: io.FileIO) -> None:
    # The settings stay until the new ones replace them: a kill in between leaves a run that --force clears again.
    for file in RunFile:
        if file not in (RunFile.TRIALS, RunFile.SETTINGS):
            (path / file).unlink(missing_ok=True)
    journal.truncate(0)


def _take_over(path: Path, journal: io.FileIO) -> dict[tuple[str, str], str]:
    """The steps in `journal`, after cutting off a torn last line and removing torn files."""
    for entry in path.parent.iterdir():
        if _is_own_leftover(entry):
            with suppress(OSError):
                entry.unlink()
    journal.seek(0)
    content = journal.readall()
    steps, whole = read_lines(content, path)
    if whole < len(content):
        journal.truncate(whole)
    return steps
