"""Arrays out of an ``.npz`` file."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fewbits.data.batches import Array, Arrays
from fewbits.errors import DataError

_MAGIC = (b"PK", b"\x93N")
"""How a zip archive, and numpy's own format inside one, begin."""
_HOW = "numpy.savez(path, input_name=array, labels=array)"


def load_npz(path: Path) -> dict[str, Array]:
    """All arrays of the file, each loaded once. Pickled objects are refused.

    Raises:
        DataError: missing, not an ``.npz``, cut off or damaged, or an array of Python objects.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; expected an .npz with one array per model input")
    try:
        # Opened here, because numpy leaves a file that it cannot read open.
        with path.open("rb") as file:
            if file.read(len(_MAGIC[0])) not in _MAGIC:
                raise DataError(f"{path} is not an .npz file; write one with {_HOW}")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array; expected an .npz with one array per model input")
            with archive:
                return {name: _read(archive, name, path) for name in archive.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable .npz file ({error}); it may be cut off. Write it with {_HOW}"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> Array:
    try:
        array: Array = archive[name]
    except ValueError as error:
        raise DataError(f"{path}: array {name!r} is refused ({error}); save it as a plain array of numbers") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: array {name!r} is damaged ({error}); write the file anew") from error
    return array


def npz_bytes(arrays: Arrays) -> bytes:
    """The bytes of an .npz file with `arrays`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()
