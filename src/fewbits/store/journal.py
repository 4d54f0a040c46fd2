"""The journal: every finished step of a run with its value, so that no step is done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from fewbits.errors import RunError, StorageError
from fewbits.files import write_all

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry:
    stage: str
    key: str
    value: JsonValue

    __pydantic_config__ = ConfigDict(extra="forbid")


class Lines(Protocol):
    """Where a journal keeps its lines."""

    def append(self, line: bytes) -> None:
        """Keep `line`, which ends with a newline. Raises StorageError."""


class MemoryLines:
    """Keeps nothing beyond what the journal itself remembers."""

    def append(self, line: bytes) -> None:
        """See Lines."""


class FileLines:
    """Lines at the end of an open file, each on the disk before `append` returns."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def append(self, line: bytes) -> None:
        """See Lines."""
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        whole = False
        try:
            write_all(self._descriptor, line)
            whole = True
        except OSError as error:
            raise StorageError(
                f"could not add {len(line)} bytes to {self._path}: {error.strerror or error}. "
                "Every step finished before is kept; free some space, then run the same command with --resume."
            ) from error
        finally:
            if not whole:
                # Also after Ctrl-C: a torn line may only ever be the last one.
                with suppress(OSError):
                    os.ftruncate(self._descriptor, end)


class Journal:
    """Values of finished steps by (stage, key).

    `recorded` holds what earlier attempts left, as JSON texts (see `read_lines`).
    """

    def __init__(self, lines: Lines, recorded: dict[tuple[str, str], str] | None = None) -> None:
        self._lines = lines
        self._values = dict(recorded or {})
        self._part = ""
        self._shared: frozenset[str] = frozenset()

    def part(self, name: str, shared: Collection[str] = ()) -> Journal:
        """The same journal for a part of the run, whose steps are its own but for those of the stages `shared`."""
        found = Journal(self._lines)
        found._values = self._values
        found._part, found._shared = name, frozenset(shared)
        return found

    def _step(self, stage: str, key: str) -> tuple[str, str]:
        return (stage, key) if not self._part or stage in self._shared else (f"{self._part}: {stage}", key)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, step: tuple[str, str]) -> bool:
        return self._step(*step) in self._values

    def step(self, stage: str, key: str, type_: type[T], compute: Callable[[], T]) -> T:
        """The value recorded for (`stage`, `key`); else what `compute` gives, recorded before it is returned.

        `type_` is the value's type: a frozen dataclass, int, float, str, bool, tuple or dict of these.
        The value comes back through its stored form in either case, so that a resumed run sees
        exactly what the first one saw; floats are exact, NaN and infinity included.
        Raises RunError if the recorded value is of another type, StorageError if it cannot be written.
        """
        step, adapter = self._step(stage, key), TypeAdapter(type_)
        if step not in self._values:
            value = adapter.dump_python(compute(), mode="json", warnings="error")
            self._lines.append(json.dumps({"stage": step[0], "key": key, "value": value}).encode() + b"\n")
            self._values[step] = json.dumps(value)
        try:
            return adapter.validate_json(self._values[step])
        except ValidationError as error:
            raise RunError(
                f"the recorded step {stage}/{key} does not hold what this version of fewbits expects "
                f"({error.error_count()} differences); start anew with --force or another directory"
            ) from error


def read_lines(content: bytes, path: Path) -> tuple[dict[tuple[str, str], str], int]:
    """The steps in `content`, as `Journal` takes them, and how many of its bytes are whole lines.

    A last line without a newline was cut off by a kill: it does not count. Raises RunError, naming
    the line, if another one is not a step.
    """
    whole = content.rfind(b"\n") + 1
    steps: dict[tuple[str, str], str] = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError as error:
            raise RunError(
                f"{path} is damaged at line {number}: {line[:60]!r} is not a recorded step. "
                "Delete that line to measure the step again, or start anew with --force."
            ) from error
        steps.setdefault((entry.stage, entry.key), json.dumps(entry.value))
    return steps, whole


_ENTRY = TypeAdapter(_Entry)
