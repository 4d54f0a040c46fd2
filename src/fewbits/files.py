"""Files that are either written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fewbits.errors import StorageError

_SUFFIX = ".partial"


def write_file(
    path: Path, content: bytes, advice: str = "Free some space or choose another place, and try again."
) -> None:
    """Write `content` to `path` under a temporary name beside it, flush it to the disk, then rename.

    Whatever was at `path` before stays untouched until the new content is complete. What is no regular file (a pipe,
    ``/dev/stdout``) is written to as it is: renaming would put a file in its place.
    Raises StorageError, which ends with `advice`, if the disk is full or the place is not writable.
    """
    if path.exists() and not path.is_file():
        _write_there(path, content, advice)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        try:
            _write_through(temporary, content)
            temporary.replace(path)
            _flush_directory(path.parent)
        finally:
            # After the rename there is nothing left to remove.
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise StorageError(
            f"could not write {path} ({len(content):,} bytes): {error.strerror or error}. "
            f"Nothing that was there before was lost. {advice}"
        ) from error


def make_folder(path: Path) -> None:
    """A folder at `path`, with those above it. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"could not make the folder {path}: {error.strerror or error}. Choose another place"
        ) from error


def _write_there(path: Path, content: bytes, advice: str) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            file.write(content)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}. {advice}") from error


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content` to `descriptor` and flush it to the disk. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def is_leftover(path: Path, name: str) -> bool:
    """Whether `path` is a temporary file of `name` that a killed process left behind."""
    return path.name.startswith(f".{name}.") and path.name.endswith(_SUFFIX)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        write_all(file.fileno(), content)


def _flush_directory(path: Path) -> None:
    # A rename is only safe from a power cut once its directory is flushed; not every system lets one be opened.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
