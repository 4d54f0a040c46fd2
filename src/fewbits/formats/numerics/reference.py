"""Casts of numpy arrays, composed of scales, rounding and codes: what every faster implementation must equal.

An array is taken to the working type (float32; float64 for float64), divided by the scale of its tile, rounded once
to the element's values, and then either stored as codes or multiplied by the scale again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.checks import check_cast
from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Shape, Tensor, tiles
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat
from fewbits.formats.numerics import codebook
from fewbits.formats.numerics.array import decode_array, encode_array, round_array
from fewbits.formats.numerics.philox import noise
from fewbits.formats.numerics.scales import Scales, limits, per_element, scales_of, widened
from fewbits.formats.numerics.ternary import ternarise
from fewbits.formats.qtensor import QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Element, Format, ScaledFormat, element_of
from fewbits.formats.text import format_text

Array = NDArray[Any]

_TYPES = ("float16", "float32", "float64")
_TERNARY_GRID = IntFormat(2, signed=True, restricted=True).grid


def fake_quantize(
    x: Array,
    format: Format,
    scales: Scales[Array] | None = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    key: NoiseKey | None = None,
) -> Array:
    """`x` rounded to `format`, of x's shape and type of number; NaN stays NaN.

    `scales` ``None`` takes the array's own. With given scales a ternary format takes the nearest of its levels,
    whatever its rule for thresholds; k-means, which fits its levels, does not look at them.

    Raises:
        DataError: `x` is no array of float16, float32 or float64, or `scales` are not one per tile.
        FormatError: `format` does not go with the shape, the rounding, the overflow or a lack of scales or key.
    """
    cast = _cast(x, format, scales, _Way(rounding, overflow, key))
    return _finished(cast.values, cast, x.dtype, overflow)


def quantize(
    x: Array,
    format: Format,
    scales: Scales[Array] | None = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    key: NoiseKey | None = None,
) -> QTensor[Array]:
    """`x` as codes of `format` with their scales; arguments and errors as in `fake_quantize`.

    An element that is given `scales` becomes a format with one scale for the tensor. Raises DataError for NaN that
    has no code: how many there are, and where the first is.
    """
    cast = _cast(x, format, scales, _Way(rounding, overflow, key))
    element = element_of(cast.format)
    if isinstance(element, KMeansFormat):
        _refuse_nan(x, cast.format)
        codes = cast.codes
    else:
        codes = encode_array(cast.values + cast.zeros if cast.scales.zero_point.any() else cast.values, element)
    one = cast.scales
    return QTensor(codes, one.scale, one.zero_point, one.tensor_scale, cast.table, cast.format, x.dtype.name)


def dequantize(q: QTensor[Array]) -> Array:
    """The values that the codes of `q` stand for; shape of the codes, type of the array that was quantised.

    A finite value beyond the largest float16 becomes that, if float16 was quantised. Raises DataError for a type that
    numpy does not have, and for codes that the format does not have.
    """
    if q.dtype not in _TYPES:
        raise DataError(f"codes of an array of {q.dtype} cannot become a numpy array; numpy has {', '.join(_TYPES)}")
    element, dtype = element_of(q.format), np.dtype(q.dtype)
    fitted = isinstance(element, KMeansFormat)
    values = _looked_up(q.table, q.codes, q.tile) if fitted else decode_array(q.codes, element)
    working = np.float64 if dtype == np.float64 else np.float32
    scales = Scales(q.scale, q.zero_point, q.tensor_scale)
    cast = _Cast(values.astype(working, copy=False), q.format, scales, q.table)
    return _finished(cast.values - cast.zeros if q.zero_point.any() else cast.values, cast, dtype, Overflow.SATURATE)


@dataclass(frozen=True, slots=True)
class _Way:
    """How is rounded."""

    rounding: Rounding
    overflow: Overflow
    key: NoiseKey | None

    def round(self, y: Array, grid: Grid, low: Array | None = None, high: Array | None = None) -> Array:
        words = None
        if self.rounding is Rounding.STOCHASTIC and self.key is not None:
            words = noise(self.key, y.size).reshape(y.shape)
        return np.asarray(round_array(y, grid, self.rounding, self.overflow, words, low, high))


@dataclass(frozen=True, slots=True)
class _Cast:
    """An array as values of the element, in the working type and still to be scaled; NaN where the array has NaN."""

    values: Array
    format: Format
    scales: Scales[Array]
    table: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    codes: Array = field(default_factory=lambda: np.zeros(0, np.uint8))  # of k-means, which finds them first

    @property
    def tile(self) -> Shape:
        """What shares one scale."""
        shape = self.values.shape
        return self.format.granularity.tile(shape) if isinstance(self.format, ScaledFormat) else shape

    @property
    def zeros(self) -> Array:
        """For each value what its zero point stands for before it is scaled, in the working type."""
        element = element_of(self.format)
        assert isinstance(element, IntFormat)
        zeros = self.scales.zero_point.astype(self.values.dtype) * self.values.dtype.type(2.0**-element.fraction)
        return per_element(zeros, self.tile, self.values.shape)


def _cast(x: Array, format: Format, scales: Scales[Array] | None, way: _Way) -> _Cast:
    _check(x, format, scales, way)
    element, y = element_of(format), widened(x)
    if isinstance(element, KMeansFormat):
        return _fitted(y, format, element)
    if not isinstance(format, ScaledFormat):
        if scales is None:
            return _Cast(_rounded(y, element, way), format, _no_scales(()))
        format = ScaledFormat(format, Tensor())
    tile = format.granularity.tile(x.shape)
    if scales is None and isinstance(element, TernaryFormat):
        codes, scale = ternarise(y, tile, element.rule)
        values = np.where(np.isnan(y), y, codes.astype(y.dtype))
        return _Cast(values, format, _no_scales(scale.shape, scale))
    if scales is None:
        scales = scales_of(y, format)
    elif scales.scale.shape != (wanted := tiles(x.shape, tile)) or scales.zero_point.shape != wanted:
        raise DataError(f"{format_text(format)} takes scales of shape {wanted} here, not {scales.scale.shape}")
    return _Cast(_rounded_in_tiles(y, format, scales, tile, way), format, scales)


def _rounded_in_tiles(y: Array, format: ScaledFormat, scales: Scales[Array], tile: Shape, way: _Way) -> Array:
    """`y` divided by its scales, and rounded within the limits of each tile."""
    element = format.element
    with np.errstate(all="ignore"):
        y = np.asarray(y / per_element(_steps(scales), tile, y.shape))
    if not isinstance(element, IntFormat | FloatFormat):
        return _rounded(y, element, way)
    low, high = limits(scales, format)
    grid = element.grid
    if isinstance(element, IntFormat):
        # What a zero point shifts may be up to twice as large, and is no multiple of a larger step there.
        grid = Grid(grid.mantissa_bits + 1, grid.min_exponent + 1, grid.low, grid.high)
    elif (low == grid.low).all() and (high == grid.high).all():
        return way.round(y, grid)
    return way.round(y, grid, per_element(low, tile, y.shape), per_element(high, tile, y.shape))


def _rounded(y: Array, element: Element, way: _Way) -> Array:
    """`y` rounded to the values of `element`."""
    if isinstance(element, IntFormat | FloatFormat):
        return way.round(y, element.grid)
    if isinstance(element, TernaryFormat):
        return way.round(y, _TERNARY_GRID)
    if isinstance(element, BinaryFormat):
        levels = np.where(y < 0, y.dtype.type(-1), y.dtype.type(1))
    else:
        assert isinstance(element, CodebookFormat)
        within = np.clip(np.nan_to_num(y, nan=0.0), element.values[0], element.values[-1])
        levels = decode_array(encode_array(within, element), element).astype(y.dtype)
    return np.where(np.isnan(y), y, levels)


def _fitted(y: Array, format: Format, element: KMeansFormat) -> _Cast:
    """`y` as the nearest values of a list that is fitted to each tile."""
    known = format if isinstance(format, ScaledFormat) else ScaledFormat(element, Tensor())
    tile = known.granularity.tile(y.shape)
    with np.errstate(over="ignore"):  # halfway between the lowest numbers, and beyond
        lists = codebook.fit(y, tile, element.bits)
        codes = codebook.indices(y, lists, tile)
    values = np.where(np.isnan(y), y, _looked_up(lists, codes, tile).astype(y.dtype))
    if isinstance(format, ScaledFormat):
        return _Cast(values, format, _no_scales(tiles(y.shape, tile)), lists, codes)
    only = lists.reshape(-1, 1 << element.bits)[0] if y.size else np.zeros(1 << element.bits, np.float32)
    return _Cast(values, format, _no_scales(()), only, codes)


def _looked_up(table: Array, codes: Array, tile: Shape) -> Array:
    """The values at the places `codes` of the lists of their tiles."""
    count = table.shape[-1]
    if codes.size == 0:
        return np.zeros(codes.shape, np.float32)
    if int(codes.max()) >= count:
        raise DataError(f"codes of these lists are 0 to {count - 1}; the largest here is {codes.max()}")
    lists = np.arange(table.size // count).reshape(tiles(codes.shape, tile))
    places = per_element(lists * count, tile, codes.shape) + codes
    return np.asarray(table.reshape(-1)[places])


def _finished(values: Array, cast: _Cast, dtype: np.dtype[Any], overflow: Overflow) -> Array:
    """`values` multiplied by the scales, as `dtype`."""
    element = element_of(cast.format)
    with np.errstate(all="ignore"):
        scaled = np.asarray(values * per_element(_steps(cast.scales), cast.tile, values.shape))
        if dtype == np.float16 and overflow is Overflow.SATURATE:
            largest = np.float32(np.finfo(np.float16).max)
            scaled = np.where(np.isinf(scaled), scaled, np.clip(scaled, -largest, largest))
        result = scaled.astype(dtype, copy=False)
    signed_zero = isinstance(element, FloatFormat) and element.grid.negative_zero
    # Of what has no -0, small negative values must not become -0 when they underflow either.
    return result if signed_zero else np.asarray(result + dtype.type(0))


def _check(x: Array, format: Format, scales: Scales[Array] | None, way: _Way) -> None:
    if x.dtype.name not in _TYPES:
        raise DataError(f"what is cast is an array of {', '.join(_TYPES)}, not of {x.dtype}; convert it with astype")
    check_cast(format, way.rounding, way.overflow, keyed=way.key is not None, with_scales=scales is not None)


def _refuse_nan(x: Array, format: Format) -> None:
    wrong = np.isnan(x)
    if wrong.any():
        first, count = [int(place) for place in np.unravel_index(int(wrong.argmax()), x.shape)], int(wrong.sum())
        raise DataError(
            f"{format_text(format)} has no NaN, but {count} of {x.size} values are; the first is at {first}. "
            "Replace them, or choose a format that has NaN"
        )


def _steps(scales: Scales[Array]) -> Array:
    """What an element is divided by, float32."""
    return np.asarray(scales.scale * scales.tensor_scale)


def _no_scales(shape: Shape, scale: Array | None = None) -> Scales[Array]:
    ones = np.ones(shape, np.float32) if scale is None else scale
    return Scales(ones, np.zeros(shape, np.int32), np.ones((), np.float32))
