"""Weights out of files that hold nothing but arrays: ``.npz``, ``.npy``, ``.safetensors``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from fewbits.data.batches import Array
from fewbits.errors import DataError
from fewbits.graph import Tensor

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# The names that safetensors gives to types, and numpy's.
_SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class Weights(Protocol):
    """Named arrays of a file, each read when it is asked for."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """What there is, in the order of the file."""

    def read(self, name: str) -> Array:
        """The values of `name`. Raises DataError if they cannot be read."""


@dataclass(frozen=True)
class FileWeights:
    """Weights whose values `_read` fetches from the file, one tensor at a time."""

    tensors: Sequence[Tensor]
    _read: Callable[[str], Array]

    def read(self, name: str) -> Array:
        """See Weights."""
        return self._read(name)


def open_arrays(path: Path) -> FileWeights:
    """The arrays in the ``.npz``, ``.npy`` or ``.safetensors`` file at `path`; its ending says which.

    A ``.npy`` file has one array, under the name of the file, and stays on the disk while it is read.

    Raises:
        DataError: missing, damaged, or not such a file.
    """
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise DataError(
            f"{path}: weights are read from .onnx, .safetensors, .npz and .npy files; a PyTorch checkpoint becomes one "
            "with safetensors.torch.save_file(model.state_dict(), path)"
        )
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the file in it")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        return opener(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_npz(path: Path) -> FileWeights:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [name for name in archive.namelist() if name.endswith(".npy")]
            tensors = tuple(_entry(archive, name, path) for name in entries)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path} is not an .npz file, or is cut off ({error}); write one with numpy.savez(path, name=array)"
        ) from error

    def read(name: str) -> Array:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
                array: Array = np.lib.format.read_array(file, allow_pickle=False)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise DataError(f"{path}: array {name!r} is damaged ({error}); write the file anew") from error
        return array

    return FileWeights(tensors, read)


def _entry(archive: zipfile.ZipFile, name: str, path: Path) -> Tensor:
    with archive.open(name) as file:
        return _header(file, name.removesuffix(".npy"), path)


def _header(file: IO[bytes], name: str, path: Path) -> Tensor:
    try:
        version = np.lib.format.read_magic(file)
        # A later version is only written for structured types with names outside of Latin-1.
        if version not in _HEADERS:
            return Tensor(name, "structured", (), constant=True)
        shape, _, dtype = _HEADERS[version](file)
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: array {name!r} is damaged ({error}); write the file anew") from error
    return Tensor(name, dtype.name, tuple(shape), constant=True)


def _open_npy(path: Path) -> FileWeights:
    with path.open("rb") as file:
        tensor = _header(file, path.stem, path)

    def read(_: str) -> Array:
        try:
            array: Array = np.load(path, mmap_mode="r" if tensor.elements else None, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DataError(f"{path} is damaged ({error}); write the file anew") from error
        return array

    return FileWeights((tensor,), read)


def _open_safetensors(path: Path) -> FileWeights:
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
            tensors = tuple(
                Tensor(name, _type(one.get_dtype()), tuple(one.get_shape()), constant=True)
                for name, one in slices.items()
            )
    except SafetensorError as error:
        raise DataError(f"{path} is not a .safetensors file, or is cut off ({error})") from error

    def read(name: str) -> Array:
        try:
            with safe_open(path, "numpy") as file:
                array: Array = file.get_tensor(name)
        except SafetensorError as error:
            raise DataError(f"{path}: array {name!r} is damaged ({error}); write the file anew") from error
        return array

    return FileWeights(tensors, read)


def _type(name: str) -> str:
    return _SAFETENSORS.get(name, name.lower())


_OPENERS: Mapping[str, Callable[[Path], FileWeights]] = {
    ".npz": _open_npz,
    ".npy": _open_npy,
    ".safetensors": _open_safetensors,
}
