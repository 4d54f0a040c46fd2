"""Converted modules as they are stored."""

from __future__ import annotations

from pathlib import Path

from fewbits.errors import ModelError
from fewbits.models.protocol import TORCH, Artifact, Served
from fewbits.models.pytorch.converted import Converted, opened


def module_of(source: str | Path | bytes | Artifact) -> Converted:
    """The module in an artifact, its bytes or its file. Raises ModelError."""
    match source:
        case Artifact(content=content):
            return opened(content)
        case bytes():
            return opened(source)
        case _:
            return opened(_read(Path(source)))


def served(path: Path) -> Served:
    """The module in the file at `path`, to be run. Raises ModelError."""
    content = _read(path)
    return Served(opened(content).reads, Artifact(content, TORCH))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
