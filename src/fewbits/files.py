"""Files that are either written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from fewbits.errors import StorageError

_SUFFIX = ".partial"


Content = bytes | Iterable[bytes]
"""What a file holds: at once, or in parts that are made while they are written."""

_ADVICE = "Free some space or choose another place, and try again."


def write_file(path: Path, content: Content, advice: str = _ADVICE) -> None:
    """Write `content` to `path` under a temporary name beside it, flush it to the disk, then rename.

    Whatever was at `path` before stays untouched until the new content is complete. What is no regular file (a pipe,
    ``/dev/stdout``) is written to as it is: renaming would put a file in its place.
    Raises StorageError, which ends with `advice`, if the disk is full or the place is not writable.
    """
    if path.exists() and not path.is_file():
        _write_there(path, content, advice)
        return
    write_files({path: content}, advice)


def write_files(contents: Mapping[Path, Content], advice: str = _ADVICE) -> None:
    """Write several files that belong together: none is put in its place before all are complete.

    Raises StorageError, which ends with `advice`, if the disk is full or a place is not writable.
    """
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}") for path in contents}
    path = next(iter(contents))
    try:
        try:
            for path, content in contents.items():
                _write_through(temporaries[path], content)
            for path, temporary in temporaries.items():
                temporary.replace(path)
                _flush_directory(path.parent)
        finally:
            # After the rename there is nothing left to remove.
            for temporary in temporaries.values():
                with suppress(OSError):
                    temporary.unlink()
    except OSError as error:
        content = contents[path]
        size = f" ({len(content):,} bytes)" if isinstance(content, bytes) else ""
        raise StorageError(
            f"could not write {path}{size}: {error.strerror or error}. Nothing that was there before was lost. {advice}"
        ) from error


def make_folder(path: Path) -> None:
    """A folder at `path`, with those above it. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"could not make the folder {path}: {error.strerror or error}. Choose another place"
        ) from error


def _write_there(path: Path, content: Content, advice: str) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            for part in _parts(content):
                file.write(part)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}. {advice}") from error


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content` to `descriptor` and flush it to the disk. Raises OSError."""
    _write(descriptor, content)
    os.fsync(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def is_leftover(path: Path, name: str) -> bool:
    """Whether `path` is a temporary file of `name` that a killed process left behind."""
    return path.name.startswith(f".{name}.") and path.name.endswith(_SUFFIX)


def _write_through(path: Path, content: Content) -> None:
    with path.open("wb", buffering=0) as file:
        for part in _parts(content):
            _write(file.fileno(), part)
        os.fsync(file.fileno())


def _parts(content: Content) -> Iterable[bytes]:
    return (content,) if isinstance(content, bytes) else content


def _flush_directory(path: Path) -> None:
    # A rename is only safe from a power cut once its directory is flushed; not every system lets one be opened.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
