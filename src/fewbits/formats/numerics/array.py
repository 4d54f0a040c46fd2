"""Rounding, encoding and decoding of numpy arrays: the twin of `fewbits.formats.numerics.scalar`, with the same bits.

Whatever the working type, three facts make plain floating-point arithmetic exact here: a step is a power of two, so
that dividing by it and multiplying with it only move the exponent; a quotient ``|y| / step`` stays below
``2**(mantissa_bits + 1)``; and the difference of a number and its integer part is representable. Formats whose
smallest normal number is subnormal as float32 are computed in float64.

Sources: IEEE 754-2019, section 4.3 (rounding); OCP 8-bit Floating Point Specification v1.0, section 5.2 (overflow).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.floating import FloatFormat, Specials
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat
from fewbits.formats.numerics.codebook import thresholds
from fewbits.formats.qtensor import code_type
from fewbits.formats.rounding import Overflow, Rounding
from fewbits.formats.scaled import Element

F = TypeVar("F", np.float32, np.float64)
Array = NDArray[Any]

# Few enough elements that a handful of temporaries stay in the cache of a core.
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class _Working:
    """The layout of the type that is computed in."""

    float: type[np.float32 | np.float64]
    bits: type[np.uint32 | np.uint64]
    mantissa_bits: int
    bias: int

    @property
    def sign_bit(self) -> int:
        return 1 << (np.dtype(self.bits).itemsize * 8 - 1)

    @property
    def exponent_mask(self) -> int:
        return self.sign_bit - (1 << self.mantissa_bits)

    def power_bits(self, exponent: int) -> int:
        """The bit pattern of ``2**exponent``."""
        return (exponent + self.bias) << self.mantissa_bits


_SINGLE = _Working(np.float32, np.uint32, 23, 127)
_DOUBLE = _Working(np.float64, np.uint64, 52, 1023)


def check_overflow(grid: Grid, overflow: Overflow, name: str = "this format") -> None:
    """Raise FormatError if nothing can stand for an overflow of the format called `name`."""
    if overflow is Overflow.NONSATURATE and not (grid.infinity or grid.nan):
        raise FormatError(f"{name} has neither Inf nor NaN: overflow must saturate")


def round_array(
    y: NDArray[F],
    grid: Grid,
    rounding: Rounding,
    overflow: Overflow,
    noise: NDArray[np.uint32] | None = None,
    low: NDArray[F] | None = None,
    high: NDArray[F] | None = None,
) -> NDArray[F]:
    """Round every element of `y`, float32 or float64, to a value of `grid`; a new array of the same type and shape.

    Rounded once, from the type that `y` has. `noise` holds one 32-bit word per element for stochastic rounding
    (`NoiseKey`). `low` and `high`, which broadcast to `y`, are limits inside those of the grid. NaN stays NaN.
    Raises FormatError if `overflow` cannot be expressed, DataError for another type of `y` or a lack of noise.
    """
    check_overflow(grid, overflow)
    if y.dtype not in (np.float32, np.float64):
        raise DataError(f"arrays to be rounded are float32 or float64, not {y.dtype}")
    if rounding is Rounding.STOCHASTIC and noise is None:
        raise DataError("stochastic rounding needs one word of noise for every element")
    working = _working_type(grid, y.dtype)
    result = np.empty(y.shape, y.dtype)
    words = np.uint32(0) if rounding is not Rounding.STOCHASTIC or noise is None else noise
    limits: tuple[Any, Any] = (grid.low if low is None else low, grid.high if high is None else high)
    types = (working.float, np.uint32, working.float, working.float, working.float)
    with _blocks((y, words, *limits), result, types) as blocks:
        for values, random, lowest, highest, out in blocks:
            _round_magnitudes(values, grid, rounding, random, working, out)
            np.copysign(out, values, out=out)
            if not grid.negative_zero:
                np.add(out, 0, out=out)  # -0 + 0 is +0
            if overflow is Overflow.SATURATE:
                np.maximum(out, lowest, out=out)
                np.minimum(out, highest, out=out)
            else:
                _replace_overflow(out, values, grid, lowest, highest)
    return result


def encode_array(values: Array, element: Element) -> Array:
    """Codes of `values`, floats that are values of `element`; the type of the codes is as in `QTensor`.

    For a codebook the nearest level, of two equally near the lower. NaN becomes the quiet NaN of its sign, if
    the format has signed NaNs. Raises DataError for a NaN or Inf that the format lacks (how many, and where the
    first is), and FormatError for k-means, whose levels are fitted to data.
    """
    if isinstance(element, KMeansFormat):
        raise _no_levels(element)
    _refuse_what_has_no_code(values, element)
    kind: np.dtype[np.integer[Any]] = np.dtype(code_type(element))
    codes: Array
    match element:
        case IntFormat():
            codes = values * 2.0**element.fraction
        case FloatFormat():
            return _encode_float(values, element, kind)
        case BinaryFormat():
            codes = values >= 0
        case TernaryFormat():
            codes = values + 1
        case CodebookFormat():
            levels = np.asarray(element.values, np.float32)
            codes = np.searchsorted(thresholds(levels, np.dtype(np.float64)), values, side="left")
    return np.asarray(codes).astype(kind)


def decode_array(codes: Array, element: Element) -> NDArray[np.float32]:
    """The values of `codes`, float32.

    Raises DataError for a code beyond the last one, and FormatError for k-means, whose levels are fitted to data.
    """
    if isinstance(element, KMeansFormat):
        raise _no_levels(element)
    if isinstance(element, IntFormat):
        return np.asarray(np.multiply(codes, np.float32(2.0**-element.fraction), dtype=np.float32))
    count = _code_count(element)
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < count:
        raise DataError(f"codes of {element} are 0 to {count - 1}; these are {codes.min()} to {codes.max()}")
    match element:
        case FloatFormat():
            if element.bits > 8:
                return _decode_float(codes, element)
            levels = _decode_float(np.arange(count, dtype=np.uint8), element)
        case BinaryFormat():
            levels = np.array([-1, 1], np.float32)
        case TernaryFormat():
            levels = np.array([-1, 0, 1], np.float32)
        case CodebookFormat():
            levels = np.asarray(element.values, np.float32)
    return np.asarray(levels[codes])


def _round_magnitudes(
    values: Array, grid: Grid, rounding: Rounding, noise: Array, working: _Working, out: Array
) -> None:
    """Write to `out` the magnitude of each of `values` rounded to `grid`, whose exponent is unbounded above here."""
    magnitude = np.bitwise_and(values.view(working.bits), working.bits(working.sign_bit - 1))
    power = np.bitwise_and(magnitude, working.bits(working.exponent_mask))
    np.maximum(power, working.bits(working.power_bits(grid.min_exponent)), out=power)
    np.minimum(power, working.bits(working.power_bits(working.bias)), out=power)  # Inf and NaN need a finite step
    step = np.multiply(power.view(working.float), working.float(2.0**-grid.mantissa_bits))
    y = magnitude.view(working.float)
    quotient = np.divide(y, step, out=out)
    match rounding:
        case Rounding.NEAREST_EVEN:
            multiple = np.rint(quotient)
            if grid.mantissa_bits == 0:
                np.copyto(multiple, 1, where=(quotient == 1.5) & _has_even_code(power, grid, working))
        case Rounding.NEAREST_AWAY:
            multiple = np.floor(quotient)
            np.add(multiple, quotient - multiple >= 0.5, out=multiple)
        case Rounding.TOWARD_ZERO:
            multiple = np.floor(quotient)
        case Rounding.FLOOR:
            multiple = np.floor(quotient)
            # Not by the quotient: it underflows for the least magnitudes.
            np.add(multiple, (multiple * step < y) & (values < 0), out=multiple)
        case Rounding.STOCHASTIC:
            multiple = np.floor(quotient)
            threshold = (np.uint32(1 << 24) - (noise >> np.uint32(8))).astype(working.float)
            np.multiply(threshold, working.float(2.0**-24), out=threshold)
            np.add(multiple, quotient - multiple >= threshold, out=multiple)
    np.multiply(multiple, step, out=out)
    if grid.flush:
        np.copyto(out, 0, where=out < grid.min_normal)


def _has_even_code(power: Array, grid: Grid, working: _Working) -> Array:
    """Whether the code of each of `power`, bits of powers of two, is even in a format without mantissa bits.

    Its code is its exponent field; as a multiple of the step, which it is itself, every power would be odd.
    """
    exponent_field = power >> working.bits(working.mantissa_bits)
    ahead = working.bias + grid.min_exponent - int(grid.zero)
    return np.asarray((exponent_field & working.bits(1)) == ahead % 2)


def _replace_overflow(rounded: Array, values: Array, grid: Grid, low: Array, high: Array) -> None:
    """Put Inf or NaN where `rounded` lies beyond the limits; NaN keeps the sign of `values`."""
    signed = grid.low < 0
    above, below = rounded > high, rounded < low
    np.copyto(rounded, np.inf if grid.infinity else np.nan, where=above)
    if not grid.zero:
        np.copyto(rounded, low, where=below & (values >= 0))
        below &= values < 0
    np.copyto(rounded, -np.inf if grid.infinity and signed else -np.nan, where=below)


def _encode_float(values: Array, format: FloatFormat, kind: np.dtype[np.integer[Any]]) -> Array:
    """Codes by moving the bits: the mantissa is cut to its length, the exponent field moved to the format's bias."""
    grid, working, codes = format.grid, _working_type(format.grid, np.float32), np.empty(values.shape, kind)
    dropped, offset, hidden = _shift(format, working)
    sign = 1 << (format.bits - 1)
    with _blocks((values,), codes, (working.float, kind)) as blocks:
        for block, out in blocks:
            magnitude = np.bitwise_and(block.view(working.bits), working.bits(working.sign_bit - 1))
            y = magnitude.view(working.float)
            # A subnormal k * step is laid out like min_normal + k * step, less the hidden bit.
            subnormal = y < grid.min_normal
            y += subnormal * working.float(grid.min_normal)
            code = (magnitude >> dropped) - offset
            code -= subnormal * hidden
            if format.has_infinity:
                np.copyto(code, _infinity_code(format), where=y == np.inf)
            if format.has_nan:
                np.copyto(code, _nan_code(format), where=np.isnan(y))
            if format.signed:
                negative = np.signbit(block) if grid.negative_zero else block < 0
                code |= negative * working.bits(sign)
            out[...] = code
    return codes


def _decode_float(codes: Array, format: FloatFormat) -> NDArray[np.float32]:
    """The inverse of `_encode_float`."""
    grid, working, values = format.grid, _working_type(format.grid, np.float32), np.empty(codes.shape, np.float32)
    dropped, offset, hidden = _shift(format, working)
    sign = 1 << (format.bits - 1)
    with _blocks((codes,), values, (working.bits, working.float)) as blocks:
        for block, out in blocks:
            code = block & working.bits(sign - 1) if format.signed else block
            subnormal = (code < hidden) & grid.zero
            magnitude = ((code + subnormal * hidden) + offset) << dropped
            y = magnitude.view(working.float)
            y -= subnormal * working.float(grid.min_normal)
            if format.has_infinity:
                np.copyto(y, np.nan, where=code >= _infinity_code(format))
                np.copyto(y, np.inf, where=code == _infinity_code(format))
            elif format.specials is Specials.NAN_ONLY:
                np.copyto(y, np.nan, where=code == _nan_code(format))
            elif format.specials is Specials.NAN_FOR_NEGATIVE_ZERO:
                np.copyto(y, np.nan, where=block == _nan_code(format))
            if format.signed:
                magnitude |= (block >= sign) * working.bits(working.sign_bit)
            out[...] = y
    return values


def _shift(format: FloatFormat, working: _Working) -> tuple[Any, Any, Any]:
    """Mantissa bits that `working` has more, exponent fields it is ahead (as code), and the hidden bit."""
    ahead = format.min_exponent + working.bias - int(format.zero)
    numbers = (working.mantissa_bits - format.mantissa_bits, ahead << format.mantissa_bits, 1 << format.mantissa_bits)
    dropped, offset, hidden = map(working.bits, numbers)
    return dropped, offset, hidden


def _infinity_code(format: FloatFormat) -> int:
    return ((1 << format.exponent_bits) - 1) << format.mantissa_bits


def _nan_code(format: FloatFormat) -> int:
    """The canonical NaN, positive where there is one of either sign."""
    match format.specials:
        case Specials.IEEE:
            return _infinity_code(format) + (1 << (format.mantissa_bits - 1))
        case Specials.NAN_FOR_NEGATIVE_ZERO:
            return 1 << (format.bits - 1)
        case _:
            return (1 << (format.exponent_bits + format.mantissa_bits)) - 1


def _refuse_what_has_no_code(values: Array, element: Element) -> None:
    has_nan = isinstance(element, FloatFormat) and element.has_nan
    has_infinity = isinstance(element, FloatFormat) and element.has_infinity
    finds = ((has_nan, "NaN", np.isnan), (has_infinity or isinstance(element, CodebookFormat), "Inf", np.isinf))
    for has_code, name, test in finds:
        if has_code:
            continue
        found = test(values)
        if found.any():
            first = tuple(int(i) for i in np.unravel_index(int(np.argmax(found)), found.shape))
            raise DataError(
                f"{element} has no {name}, but {int(np.count_nonzero(found))} of {values.size} values are; "
                f"the first is at {list(first)}. Replace them, or choose a format that has {name}"
            )


def _working_type(grid: Grid, dtype: Any) -> _Working:
    return _DOUBLE if dtype == np.float64 or grid.min_exponent < 1 - _SINGLE.bias else _SINGLE


def _code_count(element: Element) -> int:
    match element:
        case TernaryFormat():
            return 3
        case CodebookFormat():
            return len(element.values)
        case _:
            return 1 << element.bits


def _no_levels(element: KMeansFormat) -> FormatError:
    return FormatError(f"{element} has no levels of its own: they are fitted to each array; quantize the array instead")


@contextmanager
def _blocks(inputs: Sequence[Any], output: Array, types: Sequence[Any]) -> Iterator[Iterator[tuple[Array, ...]]]:
    """Walk over `inputs`, broadcast, and `output` in one-dimensional blocks that are cast to `types`.

    Floating-point signals are off inside: NaN, overflow and underflow are all dealt with.
    """
    access: list[list[Literal["readonly", "writeonly"]]] = [["readonly"] for _ in inputs]
    with (
        np.errstate(all="ignore"),
        np.nditer(
            (*inputs, output),
            ["external_loop", "buffered", "zerosize_ok"],
            [*access, ["writeonly"]],
            op_dtypes=types,
            order="C",
            casting="same_kind",
            buffersize=_BLOCK,
        ) as blocks,
    ):
        yield iter(blocks)
