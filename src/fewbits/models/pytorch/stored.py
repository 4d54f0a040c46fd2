"""Converted modules as they are stored."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fewbits.errors import ModelError
from fewbits.models.protocol import TORCH, Artifact, Served
from fewbits.models.pytorch.converted import Converted, opened, unpickled
from fewbits.models.pytorch.inference import MODULE
from fewbits.models.pytorch.package import package


def module_of(source: str | Path | bytes | Artifact) -> nn.Module:
    """The module in an artifact, its bytes, its file, or the folder of one. Raises ModelError."""
    match source:
        case Artifact(content=content):
            return opened(content)
        case bytes():
            return unpickled(source)
        case _:
            place = Path(source)
            return unpickled(_read(place / MODULE if place.is_dir() else place))


def packaged(source: nn.Module | Artifact | str | Path | bytes, path: Path) -> Path:
    """A converted module, or what `module_of` reads, as a package for C++. Raises ModelError, ToolError."""
    if not isinstance(source, nn.Module):
        return packaged(module_of(source), path)
    if not isinstance(source, Converted):
        raise ModelError(
            f"{type(source).__name__} is no converted module; give Result.module, or open_module of what convert gives"
        )
    return package(source, path)


def served(path: Path) -> Served:
    """The module in the file at `path`, to be run. Raises ModelError."""
    content = _read(path)
    return Served(opened(content).reads, Artifact(content, suffix=TORCH))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
