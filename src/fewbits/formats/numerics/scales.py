"""The scales of an array in a scaled format: found in it, or given by the user."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewbits.errors import DataError
from fewbits.formats.floating import E8M0, FloatFormat
from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat
from fewbits.formats.numerics.affine import asymmetric, largest_to_top
from fewbits.formats.numerics.array import round_array
from fewbits.formats.numerics.ternary import binarise, ternarise
from fewbits.formats.qtensor import A
from fewbits.formats.rounding import Overflow, Rounding
from fewbits.formats.scaled import REAL, NestedScale, PowerOfTwoScale, ScaledFormat, ScaleRule

Array = NDArray[Any]
Float32 = NDArray[np.float32]

_ONE = np.float32(1)
_LARGEST = np.finfo(np.float32).max
_TINY = np.finfo(np.float32).tiny
_OVERFLOW = 2.0**128 - 2.0**103  # the least real number that rounds to an infinite float32
_LEAST_EXPONENT = {True: -127, False: -149}  # of e8m0, of float32
_MAX_EXPONENT = 127


@dataclass(frozen=True, slots=True, eq=False)
class Scales(Generic[A]):
    """Scales of an array; shapes as in `QTensor`: one per tile, ``ceil(shape / tile)`` along every axis.

    `scale` float32, as stored; `zero_point` int32, zeros unless asymmetric; `tensor_scale` float32 of shape
    ``()``, 1 unless scales are nested. An element is divided by the float32 product ``scale * tensor_scale``.
    """

    scale: A
    zero_point: A
    tensor_scale: A


def scales_of(x: Array, format: ScaledFormat) -> Scales[Array]:
    """The scales that `format` takes from `x`, an array of float16, float32 or float64 of any shape and layout.

    NaN and Inf are left out; a tile without any other number, or of zeros alone, has scale 1. A k-means format
    has its values in its table, and scale 1. Raises FormatError if x's shape does not go with the granularity.
    """
    element, tile = format.element, format.granularity.tile(x.shape)
    if x.size == 0 or isinstance(element, KMeansFormat):
        return _scales(np.ones(tiles(x.shape, tile), np.float32))
    if isinstance(element, TernaryFormat):
        return _scales(ternarise(widened(x), tile, element.rule)[1])
    if isinstance(element, BinaryFormat):
        return _scales(binarise(widened(x), tile)[1])
    low, high = finite_range(x, tile)
    if format.asymmetric:
        return scales_of_range(low, high, format)
    return scales_of_amax(np.maximum(high, -low), format)


def scales_of_range(low: Float32, high: Float32, format: ScaledFormat) -> Scales[Array]:
    """Scales and zero points of an asymmetric `format` from the least and largest finite number of every tile."""
    assert isinstance(format.element, IntFormat)
    affine = asymmetric(low, high, format.element)
    span = np.maximum(high, 0).astype(np.float64) - np.minimum(low, 0)
    with np.errstate(over="ignore"):
        scale = np.minimum(affine.scale * np.float32(2.0**format.element.fraction), _LARGEST)
        too_small = (span / (format.element.levels - 1)).astype(np.float32) < _TINY
    return _scales(np.where(too_small, _ONE, scale), affine.zero_point)


def scales_of_amax(amax: Float32, format: ScaledFormat) -> Scales[Array]:
    """Scales of a symmetric `format` from `amax`, the largest finite magnitude of every tile (0 if there is none)."""
    element, kind = format.element, format.scale
    assert isinstance(element, IntFormat | FloatFormat | CodebookFormat)
    if isinstance(kind, PowerOfTwoScale):
        assert not isinstance(element, CodebookFormat)
        return _scales(_powers_of_two(amax, element, kind))
    if isinstance(kind, NestedScale):
        return _nested(amax, element.max, kind.block)
    middle = middle_code(format)
    unit = 2.0**-element.fraction if isinstance(element, IntFormat) else 1.0
    top = element.max - middle * unit
    lowest = (middle - element.qmin) * unit if isinstance(element, IntFormat) else top
    with np.errstate(over="ignore"):
        scale = largest_to_top(amax, top, max(top, lowest))
    return _scales(scale, np.full(scale.shape, middle, np.int32))


def middle_code(format: ScaledFormat) -> int:
    """Zero point of a `format` without asymmetry: the middle of unsigned integers with real scales, otherwise 0.

    Fixed point and block formats that are unsigned begin at 0.
    """
    element = format.element
    if format.asymmetric or format.scale != REAL or not isinstance(element, IntFormat) or element.signed:
        return 0
    return (element.qmax + 1) // 2


def check_scales(scale: ArrayLike, zero_point: ArrayLike, format: ScaledFormat, shape: Shape) -> Scales[NDArray[Any]]:
    """A user's scales for an array of `shape`: broadcast to one per tile, float32.

    `zero_point` is 0 unless `format` is asymmetric (the middle code of symmetric unsigned integers is filled in).
    Nested scales are those of the blocks; the scale of the tensor is 1.

    Raises:
        DataError: the shape is none that broadcasts, a scale is not a positive number, or not one that `format`
            stores; a zero point is no code of the format.
    """
    wanted = tiles(shape, format.granularity.tile(shape))
    if isinstance(format.element, KMeansFormat):
        raise DataError("a k-means format is fitted to the array, values and all: pass no scale")
    given = _broadcast(scale, wanted, "scale", format)
    with np.errstate(over="ignore"):
        values = given.astype(np.float32)
    if not (np.isfinite(values) & (values > 0)).all():
        wrong = given[~(np.isfinite(values) & (values > 0))].flat[0]
        raise DataError(f"a scale is a positive, finite float32 number, not {wrong}")
    _check_storage(values, format)
    zeros = _broadcast(zero_point, wanted, "zero_point", format)
    if not format.asymmetric:
        if zeros.any():
            raise DataError("this format has no zero point: write it with /asym, or pass zero_point=0")
        return _scales(values, np.full(wanted, middle_code(format), np.int32))
    assert isinstance(format.element, IntFormat)
    whole = np.rint(zeros)
    if (whole != zeros).any() or (whole < format.element.qmin).any() or (whole > format.element.qmax).any():
        raise DataError(
            f"a zero point of {format.element} is a whole number from {format.element.qmin} to {format.element.qmax}"
        )
    return _scales(values, whole.astype(np.int32))


def per_element(values: Array, tile: Shape, shape: Shape) -> Array:
    """`values`, one per tile, as an array of `shape`; a read-only view where no axis is cut into groups."""
    for axis, (step, size) in enumerate(zip(tile, shape, strict=True)):
        if 1 < step < size:
            values = np.repeat(values, step, axis)[(slice(None),) * axis + (slice(size),)]
    return np.broadcast_to(values, shape)


def limits(scales: Scales[Array], format: ScaledFormat) -> tuple[Float32, Float32]:
    """Lowest and highest value, before it is scaled, that an element may take in each tile.

    These are the element's limits, shifted by the zero point. Where their product with the scale would be an infinite
    float32, it is the value of largest magnitude whose product is finite.
    """
    element = format.element
    assert isinstance(element, IntFormat | FloatFormat)
    grid = element.grid
    unit = 2.0**-element.fraction if isinstance(element, IntFormat) else 1.0
    shift = scales.zero_point * unit
    ends = grid.low - shift, grid.high - shift
    scale = np.asarray(scales.scale * scales.tensor_scale, np.float64)
    low, high = (_shrunk(np.asarray(end, np.float64), scale, element) for end in ends)
    return low, high


def widened(x: Array) -> Array:
    """`x` in the type that it is computed in: float64 for float64, otherwise float32, which holds float16 exactly."""
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32, copy=False)


def finite_range(x: Array, tile: Shape) -> tuple[Float32, Float32]:
    """Least and largest finite number of every tile, as float32; (0, 0) where there is none.

    float64 is rounded to float32, to its finite range. `x` is copied only if it holds NaN or Inf, in which case
    0 stands for them: the least number is then 0 or below, the largest 0 or above.
    """
    low, high = _reduced(np.minimum, x, tile), _reduced(np.maximum, x, tile)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        x = _finite(x)
        low, high = _reduced(np.minimum, x, tile), _reduced(np.maximum, x, tile)
    return _float32(low), _float32(high)


def _powers_of_two(amax: Float32, element: IntFormat | FloatFormat, kind: PowerOfTwoScale) -> Float32:
    mantissa, exponent = np.frexp(amax.astype(np.float64))  # amax = mantissa * 2**exponent, mantissa in [1/2, 1)
    if kind.rule is ScaleRule.RCEIL:
        top, top_exponent = frexp(element.max)
        k = exponent - top_exponent + (mantissa > top)
    else:
        bits = element.mantissa_bits if isinstance(element, FloatFormat) else element.qmax.bit_length() - 1
        next_one = {
            ScaleRule.FLOOR: np.False_,
            ScaleRule.CEIL: mantissa > 0.5,
            ScaleRule.EVEN: mantissa >= 1 - 2.0 ** -(bits + 2),
        }[kind.rule]
        k = exponent - 1 + next_one - element.max_exponent
    k = np.clip(k, _LEAST_EXPONENT[kind.storage == E8M0], _MAX_EXPONENT)
    return np.where(amax == 0, _ONE, np.ldexp(_ONE, k.astype(np.int32)))


def _nested(amax: Float32, top: float, block: FloatFormat) -> Scales[Array]:
    """NVFP4: the tensor's scale takes its largest magnitude to the largest product of block scale and element."""
    with np.errstate(over="ignore", under="ignore"):
        tensor = np.minimum(amax.max() / np.asarray(block.max * top).astype(np.float32), _LARGEST)
        tensor = _ONE if tensor < _TINY else tensor
        wanted = np.asarray(amax / np.float32(top) / tensor, np.float32)
        scale = np.maximum(_rounded(np.where(amax == 0, _ONE, wanted), block), np.float32(block.min_positive))
        scale = np.where(scale * tensor == 0, _rounded(np.ones(amax.shape, np.float32), block), scale)
    return _scales(np.asarray(scale, np.float32), tensor_scale=tensor)


def _rounded(values: Float32, format: FloatFormat) -> Float32:
    rounded: Float32 = round_array(values, format.grid, Rounding.NEAREST_EVEN, Overflow.SATURATE)
    return rounded


def _shrunk(end: NDArray[np.float64], scale: NDArray[np.float64], element: IntFormat | FloatFormat) -> Float32:
    """`end`, or the grid's value of largest magnitude below it whose product with `scale` is a finite float32."""
    end = np.broadcast_to(end, scale.shape)
    beyond = np.abs(end) * scale >= _OVERFLOW
    if not beyond.any():
        return end.astype(np.float32)

    def toward_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
        bound = np.full(values.shape, np.inf)
        return round_array(values, element.grid, Rounding.TOWARD_ZERO, Overflow.SATURATE, low=-bound, high=bound)

    # The quotient may have been rounded up to a grid point whose product is just too large: then it is the one below.
    largest = toward_zero(_OVERFLOW / scale)
    largest = np.where(largest * scale >= _OVERFLOW, toward_zero(np.nextafter(largest, 0)), largest)
    return np.where(beyond, np.copysign(largest, end), end).astype(np.float32)


def _reduced(ufunc: np.ufunc, x: Array, tile: Shape) -> Array:
    """`ufunc` over every tile, border tiles included, without a copy of `x`: one value per tile."""
    whole = tuple(axis for axis, (step, size) in enumerate(zip(tile, x.shape, strict=True)) if step >= size > 1)
    x = np.asarray(ufunc.reduce(x, axis=whole, keepdims=True)) if whole else x
    for axis, (step, size) in enumerate(zip(tile, x.shape, strict=True)):
        if 1 < step < size:
            x = _reduced_along(ufunc, x, axis, step)
    return x


def _reduced_along(ufunc: np.ufunc, x: Array, axis: int, step: int) -> Array:
    size, last = x.shape[axis], axis == x.ndim - 1
    if last:
        return np.asarray(ufunc.reduceat(x, np.arange(0, size, step), axis))
    # Splitting an axis is a view whatever the strides; reduceat would walk along the slow axis.
    before, end = (slice(None),) * axis, size - size % step
    parts = x[(*before, slice(end))].reshape(*x.shape[:axis], end // step, step, *x.shape[axis + 1 :])
    reduced = np.asarray(ufunc.reduce(parts, axis=axis + 1))
    if end == size:
        return reduced
    rest = ufunc.reduce(x[(*before, slice(end, None))], axis=axis, keepdims=True)
    return np.concatenate([reduced, rest], axis)


def _finite(x: Array) -> Array:
    return np.where(np.isfinite(x), x, x.dtype.type(0))


def _float32(values: Array) -> Float32:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


def _scales(scale: Array, zero_point: Array | None = None, tensor_scale: np.float32 = _ONE) -> Scales[Array]:
    zeros = np.zeros(scale.shape, np.int32) if zero_point is None else zero_point
    return Scales(np.asarray(scale, np.float32), np.asarray(zeros, np.int32), np.asarray(tensor_scale, np.float32))


def _broadcast(values: ArrayLike, shape: Shape, what: str, format: ScaledFormat) -> Array:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{what} is a real number or an array of them, not {array.dtype}")
    try:
        return np.broadcast_to(array, shape)
    except ValueError as error:
        raise DataError(
            f"{what} has shape {array.shape}; {format.granularity} takes one number for each tile, an array of shape "
            f"{shape} or what broadcasts to it"
        ) from error


def _check_storage(values: Float32, format: ScaledFormat) -> None:
    kind = format.scale
    if isinstance(kind, PowerOfTwoScale):
        mantissa, exponent = np.frexp(values)
        fits = (mantissa == 0.5) & (exponent - 1 >= _LEAST_EXPONENT[kind.storage == E8M0])
        wanted = f"a power of two that {kind.storage} holds"
    elif isinstance(kind, NestedScale):
        fits = np.asarray(_rounded(values, kind.block) == values)
        wanted = f"a value of {kind.block}"
    else:
        return
    if not fits.all():
        raise DataError(f"a scale of this format is {wanted}, not {values[~fits].flat[0]}")
