"""Models as files: one, and another with weights beside it where they are not in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fewbits.errors import UsageError
from fewbits.models import pack
from fewbits.models.protocol import Artifact
from fewbits.store import Content, Run, RunFile, write_file, write_files

_PART: Final = 1 << 24


def save(artifact: Artifact, path: Path) -> tuple[Path, ...]:
    """Write `artifact` to `path`, its weights to ``NAME.data`` beside it where it has any outside; both whole or not at
    all. The files that were written.

    Raises:
        StorageError: it could not be written.
        UsageError: a file of the original model would be written over, which still needs it.
        ModelError: weights are not where they were any more.
    """
    data = path.with_name(f"{path.name}.data")
    packed = pack(artifact, data.name)
    if not packed.outside:
        write_file(path, packed.content)
        return (path,)
    contents: dict[Path, Content] = {data: packed.weights(), path: packed.content}
    for one in contents:
        if one.resolve() in artifact.reads:
            raise UsageError(f"{one} is a file of the original model, which would be lost; choose another name")
    write_files(contents)
    return tuple(contents)


def write_model(run: Run, artifact: Artifact, model: RunFile, data: RunFile) -> None:
    """Write `artifact` to the files `model` and, where it has weights outside, `data` of `run`. Raises StorageError."""
    packed = pack(artifact, data)
    if packed.outside:
        run.write(data, packed.weights())
    run.write(model, packed.content)


def parts(file: Path) -> Iterator[bytes]:
    """What `file` holds, a little at a time."""
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            yield part
