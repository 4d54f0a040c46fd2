"""Files that only live as long as the work: candidates for the measuring processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fewbits.errors import StorageError
from fewbits.models.protocol import Artifact


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards. Raises StorageError if there is no place for one."""
    try:
        folder = TemporaryDirectory(prefix="fewbits-")
    except OSError as error:
        raise StorageError(_sorry("make a temporary folder", error)) from error
    with folder as name:
        yield Path(name)


def part_folder(folder: Path, number: int) -> Path:
    """A folder of its own within `folder` for each but the first (0) of several parts. Raises StorageError."""
    if not number:
        return folder
    found = folder / str(number)
    try:
        found.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(_sorry(f"make the temporary folder {found}", error)) from error
    return found


def scratch_file(path: Path, artifact: Artifact) -> Path:
    """The file of `artifact`: `path`, which is written, or where it lies with its weights beside it. Raises
    StorageError."""
    if artifact.path is not None:
        return artifact.path
    content = artifact.content
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(_sorry(f"write {len(content):,} bytes to the temporary file {path}", error)) from error
    return path


def _sorry(what: str, error: OSError) -> str:
    return f"could not {what}: {error.strerror or error}. Free some space there, or set TMPDIR to a place that has it"
