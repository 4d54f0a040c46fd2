"""Quantised arrays in safetensors files, in as many bytes as their formats say.

A quantised array ``w`` is stored as several tensors that any reader of safetensors can open:

==================  ==================================================================================================
``w.codes``         Codes of 8, 16 or 32 bits: integers in the array's shape. Others: bytes, packed as
                    `fewbits.formats.numerics.packing` says, in C order.
``w.scale``         One per tile. float32; with power-of-two scales stored as e8m0, and with nested scales, the codes
                    of that format, laid out like ``w.codes``. Missing if the format has no scales.
``w.zero_point``    One per tile, laid out like ``w.codes``. Asymmetric formats only.
``w.tensor_scale``  float32 of shape ``()``. Nested scales only.
``w.table``         float32, the values of each tile. k-means only.
==================  ==================================================================================================

The metadata has one entry, ``fewbits``, a JSON text: ``{"layout": 1, "arrays": {"w": {"format": "mxfp4", "shape":
[64, 32], "dtype": "float32"}}}``, where `dtype` is the type of the array that was quantised. Every tensor that does not
belong to a quantised array is a plain array under its own name. The same arrays always give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fewbits.errors import DataError, FormatError, StorageError
from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.levels import KMeansFormat
from fewbits.formats.numerics.array import decode_array, encode_array
from fewbits.formats.numerics.packing import pack, packed_size, unpack
from fewbits.formats.numerics.scales import middle_code
from fewbits.formats.qtensor import QTensor, code_type
from fewbits.formats.scaled import Format, NestedScale, PowerOfTwoScale, ScaledFormat, element_of
from fewbits.formats.text import format_text, parse

Array = NDArray[Any]

LAYOUT = 1
"""Version of what is described above. A file of a later one is refused."""

_KEY = "fewbits"
_CODES, _SCALE, _ZERO_POINT, _TENSOR_SCALE, _TABLE = ".codes", ".scale", ".zero_point", ".tensor_scale", ".table"
_STRICT = ConfigDict(extra="forbid")
_PLAIN = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
_SHOWN_ERRORS = 3
_MOST_ELEMENTS = 1 << 56  # numpy counts bytes in 63 bits


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the tensors of a quantised array do not say themselves."""

    format: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class _Contents:
    """The quantised arrays of a file, by name."""

    layout: int
    arrays: Mapping[str, _Entry]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class _Version:
    """Of any layout, whatever else it may say."""

    layout: int

    __pydantic_config__ = ConfigDict(extra="ignore")


_CONTENTS = TypeAdapter(_Contents)
_VERSION = TypeAdapter(_Version)


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, QTensor[Array] | Array]) -> None:
    """Write quantised and plain arrays to the safetensors file `path`, whole or not at all.

    Raises DataError for an array that such a file cannot hold (its type, a scale that its format does not have, two
    names that collide), and StorageError if the disk is full or the place is not writable.
    """
    stored: dict[str, Array] = {}
    entries: dict[str, _Entry] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, QTensor):
            parts = {name + part: array for part, array in _stored(name, tensor).items()}
            entries[name] = _Entry(format_text(tensor.format), tensor.shape, tensor.dtype)
        else:
            parts = {name: _plain(name, tensor)}
        if twice := [key for key in parts if key in stored]:
            raise DataError(f"{twice[0]} would be in the file twice, as an array and as a part of one: rename one")
        stored |= parts
    contents = _CONTENTS.dump_json(_Contents(LAYOUT, entries)).decode()
    _write(Path(path), stored, {_KEY: contents})


def load_tensors(path: str | os.PathLike[str]) -> dict[str, QTensor[Array] | Array]:
    """Read what `save_tensors` wrote: name → quantised or plain array, each equal to what was saved bit for bit.

    Quantised arrays come in the order in which they were saved, plain ones after them by name.

    Raises DataError if there is no such file, if it is damaged, not from `save_tensors`, or from a later version.
    """
    contents, stored = _read(Path(path))
    tensors: dict[str, QTensor[Array] | Array] = {}
    for name, entry in contents.arrays.items():
        try:
            tensors[name] = _Parts(name, stored).restored(entry)
        except (FormatError, DataError) as error:
            raise DataError(f"{path}, {name}: {error}") from error
    return {**tensors, **dict(sorted(stored.items()))}


def _stored(name: str, q: QTensor[Array]) -> dict[str, Array]:
    """The tensors of a quantised array."""
    element = element_of(q.format)
    if q.codes.dtype != code_type(element):
        raise DataError(f"{name}: codes of {element} are {code_type(element)}, not {q.codes.dtype}")
    parts = {_CODES: _as_stored(q.codes, element.bits)}
    if isinstance(element, KMeansFormat):
        parts[_TABLE] = q.table.astype(np.float32)
    if not isinstance(q.format, ScaledFormat):
        _expect(name, "scale", q.scale, 1, q.format)
        _expect(name, "zero point", q.zero_point, 0, q.format)
        _expect(name, "tensor scale", q.tensor_scale, 1, q.format)
        return parts
    storage = _scale_storage(q.format)
    parts[_SCALE] = q.scale.astype(np.float32) if storage is None else _encoded(name, q.scale, storage)
    if q.format.asymmetric:
        zero_points = q.zero_point.astype(code_type(element))
        if not np.array_equal(zero_points, q.zero_point):
            raise DataError(f"{name}: a zero point of {format_text(q.format)} is one of its codes; these are beyond")
        parts[_ZERO_POINT] = _as_stored(zero_points, element.bits)
    else:
        _expect(name, "zero point", q.zero_point, middle_code(q.format), q.format)
    if isinstance(q.format.scale, NestedScale):
        parts[_TENSOR_SCALE] = q.tensor_scale.astype(np.float32)
    else:
        _expect(name, "tensor scale", q.tensor_scale, 1, q.format)
    return parts


def _plain(name: str, array: Array) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype.name not in _PLAIN:
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{name} is {kind}; a file holds quantised arrays and numpy arrays of {', '.join(_PLAIN)}")
    if not name or name == "__metadata__":
        raise DataError(f"{name!r} cannot be the name of an array in a safetensors file")
    return array


def _encoded(name: str, scale: Array, storage: FloatFormat) -> Array:
    codes = encode_array(scale, storage)
    if not np.array_equal(decode_array(codes, storage), scale):
        raise DataError(f"{name}: its scales are stored as {storage}, but not all of them are values of it")
    return _as_stored(codes, storage.bits)


def _as_stored(codes: Array, bits: int) -> Array:
    return codes if bits in (8, 16, 32) else pack(codes, bits)


def _expect(name: str, what: str, array: Array, value: int, format: Format) -> None:
    if not (array == value).all():
        raise DataError(f"{name}: the {what} of {format_text(format)} is always {value}, and not stored")


@dataclass(frozen=True, slots=True)
class _Parts:
    """The tensors of the quantised array `name` among those of a file; each is taken out of `stored` once read."""

    name: str
    stored: dict[str, Array]

    def restored(self, entry: _Entry) -> QTensor[Array]:
        """The quantised array. Raises FormatError or DataError if its parts do not go together."""
        format, shape = parse(entry.format), entry.shape
        element = element_of(format)
        if prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
            raise DataError(f"no array has shape {list(shape)}: the file is damaged, or was changed")
        scale_shape = tiles(shape, format.granularity.tile(shape)) if isinstance(format, ScaledFormat) else ()
        codes = self._integers(_CODES, element.bits, shape, code_type(element))
        fitted = isinstance(element, KMeansFormat)
        table = self._floats(_TABLE, (*scale_shape, 1 << element.bits)) if fitted else np.zeros(0, np.float32)
        tensor_scale = np.ones((), np.float32)
        if not isinstance(format, ScaledFormat):
            one, zero = np.ones((), np.float32), np.zeros((), np.int32)
            return QTensor(codes, one, zero, tensor_scale, table, format, entry.dtype)
        scale = self._scale(format, scale_shape)
        if format.asymmetric:
            zero_point = self._integers(_ZERO_POINT, element.bits, scale_shape, code_type(element)).astype(np.int32)
        else:
            zero_point = np.full(scale_shape, middle_code(format), np.int32)
        if isinstance(format.scale, NestedScale):
            tensor_scale = self._floats(_TENSOR_SCALE, ())
        return QTensor(codes, scale, zero_point, tensor_scale, table, format, entry.dtype)

    def _scale(self, format: ScaledFormat, shape: Shape) -> Array:
        storage = _scale_storage(format)
        if storage is None:
            return self._floats(_SCALE, shape)
        return decode_array(self._integers(_SCALE, storage.bits, shape, code_type(storage)), storage)

    def _integers(self, part: str, bits: int, shape: Shape, dtype: str) -> Array:
        if bits in (8, 16, 32):
            return self._take(part, shape, dtype)
        count = prod(shape)
        packed = self._take(part, (packed_size(count, bits),), "uint8")
        return unpack(packed, bits, count, np.dtype(dtype)).reshape(shape)

    def _floats(self, part: str, shape: Shape) -> Array:
        return self._take(part, shape, "float32")

    def _take(self, part: str, shape: Shape, dtype: str) -> Array:
        array = self.stored.pop(self.name + part, None)
        if array is None:
            raise DataError(f"the tensor {self.name + part} is missing: the file is damaged, or was changed")
        if array.shape != shape or array.dtype != dtype:
            raise DataError(
                f"the tensor {self.name + part} should be {dtype} of shape {list(shape)}, but is {array.dtype} of "
                f"shape {list(array.shape)}: the file is damaged, or was changed"
            )
        return array


def _contents(path: Path, metadata: Mapping[str, str]) -> _Contents:
    if _KEY not in metadata:
        raise DataError(
            f"{path} is a safetensors file, but its metadata has no entry {_KEY!r}: fewbits did not write it. "
            "Read it with safetensors"
        )
    try:
        layout = _VERSION.validate_json(metadata[_KEY]).layout
        if layout > LAYOUT:
            raise DataError(
                f"{path} has layout {layout}, and this fewbits reads layouts up to {LAYOUT}: a later version wrote it. "
                "Update fewbits"
            )
        return _CONTENTS.validate_json(metadata[_KEY])
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:_SHOWN_ERRORS]]
        raise DataError(f"{path}: its metadata does not describe quantised arrays; {'; '.join(problems)}") from error


def _read(path: Path) -> tuple[_Contents, dict[str, Array]]:
    try:
        with safe_open(path, framework="numpy") as file:
            contents = _contents(path, file.metadata() or {})
            names = file.keys()
            return contents, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as a safetensors file: {error}") from error


def _write(path: Path, stored: Mapping[str, Array], metadata: dict[str, str]) -> None:
    """Write under a temporary name beside `path`, flush to the disk, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # safetensors stores memory as it lies, so it must lie in C order.
    dense = {name: np.asarray(array, order="C") for name, array in stored.items()}
    try:
        if path.exists() and not path.is_file():
            raise StorageError(f"could not write {path}: it is a folder or a device. Choose another name.")
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(dense, temporary, metadata=metadata)
            temporary.chmod(mode)  # safetensors makes a file for its owner alone
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            # After the rename there is nothing left to remove.
            with suppress(OSError):
                temporary.unlink()
    except (OSError, SafetensorError) as error:
        size = sum(array.nbytes for array in dense.values())
        raise StorageError(
            f"could not write {path} ({size:,} bytes): {error}. Nothing that was there before was lost. "
            "Free some space or choose another place, and try again."
        ) from error


def _scale_storage(format: ScaledFormat) -> FloatFormat | None:
    """The format in which scales are stored as codes; None if as float32."""
    kind = format.scale
    if isinstance(kind, NestedScale):
        return kind.block
    return kind.storage if isinstance(kind, PowerOfTwoScale) and kind.storage.bits < 32 else None
