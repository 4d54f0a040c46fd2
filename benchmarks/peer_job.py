"""What every quantiser gets, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suite import Arrays


@dataclass(frozen=True)
class Job:
    """The original, where to write, and calibration inputs."""

    model: Path
    out: Path
    inputs: Arrays


@dataclass(frozen=True)
class Made:
    """A form of a model: how it came about, the file that `target` opens, all files that belong to it, the seconds
    and evaluations that it took. Where `failure` is not empty there is no form."""

    settings: str
    path: Path
    target: str
    files: tuple[Path, ...] = ()
    seconds: float = 0.0
    evaluations: int = 0
    failure: str = ""

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.files or (self.path,))


def one_line(error: BaseException) -> str:
    """`error` for a result file."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def save(arrays: Arrays, path: Path) -> None:
    """Write `arrays` as an ``.npz``."""
    np.savez(path, **arrays)  # type: ignore[arg-type]  # for all mypy knows, an array is called allow_pickle
