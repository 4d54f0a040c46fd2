"""A quantised array: codes, scales, and the format that gives them meaning."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Generic, Protocol, TypeVar

from fewbits.errors import DataError
from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import KMeansFormat
from fewbits.formats.scaled import Element, Format, NestedScale, PowerOfTwoScale, ScaledFormat, element_of


class HasShape(Protocol):
    """An array of numpy or a tensor of torch."""

    @property
    def shape(self) -> Shape:
        """Size along every axis."""
        ...


A = TypeVar("A", bound=HasShape)


@dataclass(frozen=True, slots=True, eq=False)
class QTensor(Generic[A]):
    """Codes of `format` with their scales. `A` is ``numpy.ndarray`` or ``torch.Tensor``.

    Shape laws, checked on construction:

    - ``codes.shape`` is the shape of the array; one code per element. Integer formats: the stored integer
      (int8 or int16, uint8 or uint16). Float formats: the bit pattern (uint8, uint16, uint32). Lists of
      levels: the place in the list, lowest value first (uint8, uint16).
    - ``scale.shape`` is ``ceil(shape / tile)`` along every axis, the tile being the granularity's; ``()`` for a
      format without scales. float32; what the format stores, so for NVFP4 still to be multiplied by
      `tensor_scale`.
    - ``zero_point.shape == scale.shape``, int32; zeros unless the format is asymmetric; the middle code for
      symmetric unsigned integers with real scales.
    - ``tensor_scale.shape == ()``, float32; 1 unless scales are nested.
    - ``table.shape == scale.shape + (2**bits,)`` for k-means, float32, ascending; ``(0,)`` otherwise.

    `dtype` names the type of the array that was quantised (``float32``, ``bfloat16``), which is what
    `dequantize` gives back.
    """

    codes: A
    scale: A
    zero_point: A
    tensor_scale: A
    table: A
    format: Format
    dtype: str

    def __post_init__(self) -> None:
        _check("scale", self.scale, self.scale_shape)
        _check("zero_point", self.zero_point, self.scale_shape)
        _check("tensor_scale", self.tensor_scale, ())
        element = element_of(self.format)
        fitted = isinstance(element, KMeansFormat)
        _check("table", self.table, (*self.scale_shape, 1 << element.bits) if fitted else (0,))

    @property
    def shape(self) -> Shape:
        """Shape of the array."""
        return tuple(self.codes.shape)

    @property
    def tile(self) -> Shape:
        """What shares one scale; the whole array for a format without scales."""
        return self.format.granularity.tile(self.shape) if isinstance(self.format, ScaledFormat) else self.shape

    @property
    def scale_shape(self) -> Shape:
        """Shape that the scales must have."""
        return tiles(self.shape, self.tile) if isinstance(self.format, ScaledFormat) else ()

    @property
    def padding(self) -> Shape:
        """How many zeros fill up the last tile along each axis."""
        return tuple(-size % max(step, 1) for size, step in zip(self.shape, self.tile, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes when packed: codes in whole bytes, scales in their storage format."""
        codes, table = -(-prod(self.shape) * self.format.bits // 8), prod(self.table.shape) * 4
        if not isinstance(self.format, ScaledFormat):
            return codes + table
        count, kind = prod(self.scale_shape), self.format.scale
        if isinstance(kind, NestedScale):
            return codes + -(-count * kind.block.bits // 8) + 4
        bits = kind.storage.bits if isinstance(kind, PowerOfTwoScale) else 32
        zero_points = -(-count * self.format.bits // 8) if self.format.asymmetric else 0
        return codes + -(-count * bits // 8) + zero_points + table


def code_type(element: Element) -> str:
    """Name of the type of number that codes of `element` are."""
    if isinstance(element, IntFormat) and element.signed:
        return "int8" if element.bits <= 8 else "int16"
    return "uint8" if element.bits <= 8 else "uint16" if element.bits <= 16 else "uint32"


def _check(what: str, array: HasShape, shape: Shape) -> None:
    if tuple(array.shape) != shape:
        raise DataError(f"{what} of a quantised array has shape {shape}, not {tuple(array.shape)}")
