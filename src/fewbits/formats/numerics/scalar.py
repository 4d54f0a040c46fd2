"""Rounding, encoding and decoding of one number: the readable truth that every fast implementation must equal.

All arithmetic is exact (fractions of integers), so that what is written is what happens. It rests on one fact about
these formats: going up in magnitude, the values have consecutive codes. The multiple k of the step among
``2**e <= |v| < 2**(e + 1)`` has the code ``((e - min_exponent) << mantissa_bits) + k``, k including the hidden
bit; a format without zero starts one later. Rounding asks whether that code is even, encoding returns it, and
decoding takes it apart.

Sources: IEEE 754-2019, sections 3.4 (encodings) and 4.3 (rounding); OCP 8-bit Floating Point Specification v1.0,
section 5.2 (overflow after rounding); OCP Microscaling Formats v1.0, section 5.3 (fp6, fp4, int8).
"""

from __future__ import annotations

from fractions import Fraction
from math import copysign, frexp, inf, isfinite, isinf, isnan, nan

from fewbits.errors import DataError, FormatError
from fewbits.formats.floating import FloatFormat, Specials
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat
from fewbits.formats.rounding import Overflow, Rounding

_HALF = Fraction(1, 2)


def round_value(y: float, grid: Grid, rounding: Rounding, overflow: Overflow, noise: int = 0) -> float:
    """The value of `grid` that `y` rounds to; NaN stays NaN.

    The exponent is unbounded above while rounding, and limits are looked at afterwards. `noise` is a word of 32
    random bits for stochastic rounding (`NoiseKey`), of which the upper 24 count: a value that lies the fraction f
    of a step above its lower neighbour (in magnitude) moves up for ``floor(f * 2**24)`` of the ``2**24`` words.

    Raises:
        FormatError: `overflow` is not to saturate and the format has neither Inf nor NaN, whatever `y` is.
    """
    if overflow is Overflow.NONSATURATE and not (grid.infinity or grid.nan):
        raise FormatError("this format has neither Inf nor NaN: overflow must saturate")
    if isnan(y):
        return y
    rounded = y if isinf(y) else _round_finite(y, grid, rounding, noise)
    if rounded > grid.high or rounded < grid.low:
        return _beyond(y, rounded > grid.high, grid, overflow)
    is_negative_zero = rounded == 0 and copysign(1, y) < 0 and grid.negative_zero
    return -0.0 if is_negative_zero else float(rounded)


def encode(value: float, element: IntFormat | FloatFormat) -> int:
    """The code of `value`: a signed number for integers, the bit pattern for floats.

    NaN has one code per sign: the quiet one of IEEE 754 with no other payload, all ones for ``fn``, that of -0 for
    ``fnuz``. A zero without a code of its sign gets the other.

    Raises:
        DataError: `value` is not a value of the format; round it first.
    """
    if isinstance(element, IntFormat):
        return _encode_integer(value, element)
    if isnan(value):
        magnitude = _nan_code(element)
    elif isinf(value):
        magnitude = _infinity_code(element)
    else:
        magnitude = _magnitude_code(value, element)
    if copysign(1, value) > 0 or not (value < 0 or element.grid.negative_zero):
        return magnitude
    if not element.signed:
        raise _no_code(value, element)
    return magnitude | _sign_bit(element)


def decode(code: int, element: IntFormat | FloatFormat) -> float:
    """The value that `code` stands for, NaN with the sign of its code. Flushing is part of rounding, not of this.

    Raises:
        DataError: the format has no such code.
    """
    first, last = (element.qmin, element.qmax) if isinstance(element, IntFormat) else (0, (1 << element.bits) - 1)
    if not first <= code <= last:
        raise DataError(f"codes of {element} are {first} to {last}, not {code}")
    if isinstance(element, IntFormat):
        return code * 2.0**-element.fraction
    negative, magnitude = divmod(code, _sign_bit(element)) if element.signed else (0, code)
    return copysign(_magnitude(magnitude, bool(negative), element), -1 if negative else 1)


def _round_finite(y: float, grid: Grid, rounding: Rounding, noise: int) -> Fraction:
    """`y` rounded to multiples of the step where it lies, without limits."""
    exponent = _exponent(y, grid)
    step = Fraction(2) ** (exponent - grid.mantissa_bits)
    multiple, fraction = divmod(abs(Fraction(y)) / step, 1)
    if _goes_up(fraction, _code(exponent, multiple, grid) % 2 == 1, y < 0, rounding, noise):
        multiple += 1
    magnitude = multiple * step
    if grid.flush and magnitude < grid.min_normal:
        return Fraction(0)
    return -magnitude if y < 0 else magnitude


def _goes_up(fraction: Fraction, odd: bool, negative: bool, rounding: Rounding, noise: int) -> bool:
    """Whether a magnitude that lies `fraction` of a step above a value, of an `odd` code or not, is rounded up."""
    match rounding:
        case Rounding.NEAREST_EVEN:
            return fraction > _HALF or (fraction == _HALF and odd)
        case Rounding.NEAREST_AWAY:
            return fraction >= _HALF
        case Rounding.TOWARD_ZERO:
            return False
        case Rounding.FLOOR:
            return negative and fraction > 0
        case Rounding.STOCHASTIC:
            return fraction + Fraction(noise >> 8, 1 << 24) >= 1


def _beyond(y: float, above: bool, grid: Grid, overflow: Overflow) -> float:
    """What stands for `y`, which lies `above` the highest value of `grid` or else below the lowest."""
    limit = grid.high if above else grid.low
    too_small = not grid.zero and not above and y >= 0  # for a format without zero: no overflow, the least will do
    if overflow is Overflow.SATURATE or too_small:
        return limit
    reached = grid.infinity and (above or grid.low < 0)  # an unsigned format has no -Inf
    return copysign(inf if reached else nan, y)


def _exponent(y: float, grid: Grid) -> int:
    """Of the power of two that decides the step: e in ``2**e <= |y| < 2**(e + 1)``, but not below `min_exponent`."""
    return max(frexp(y)[1] - 1, grid.min_exponent) if y else grid.min_exponent


def _code(exponent: int, multiple: int, grid: Grid) -> int:
    """The place of ``multiple * 2**(exponent - mantissa_bits)`` among the magnitudes, the least being 0."""
    return ((exponent - grid.min_exponent) << grid.mantissa_bits) + multiple - (0 if grid.zero else 1)


def _encode_integer(value: float, element: IntFormat) -> int:
    if not isfinite(value):
        raise _no_code(value, element)
    code = Fraction(value) * (1 << element.fraction)
    if code.denominator != 1 or not element.qmin <= code <= element.qmax:
        raise _no_code(value, element)
    return int(code)


def _magnitude_code(value: float, element: FloatFormat) -> int:
    """Code of a finite value without its sign."""
    grid = element.grid
    exponent = _exponent(value, grid)
    multiple, rest = divmod(abs(Fraction(value)) * Fraction(2) ** (grid.mantissa_bits - exponent), 1)
    code = _code(exponent, multiple, grid)
    if rest or code < 0 or abs(value) > grid.high:
        raise _no_code(value, element)
    return code


def _magnitude(code: int, negative: bool, element: FloatFormat) -> float:
    """The inverse of `_magnitude_code`, and what the codes beyond the largest number's stand for."""
    largest = _magnitude_code(element.max, element)
    if negative and code == 0 and element.specials is Specials.NAN_FOR_NEGATIVE_ZERO:
        return nan
    if code > largest:
        return inf if element.has_infinity and code == largest + 1 else nan
    field, mantissa = divmod(code, 1 << element.mantissa_bits)
    if field == 0 and element.zero:
        return mantissa * element.min_normal * element.epsilon
    return (1 + mantissa * element.epsilon) * 2.0 ** (field - element.bias)


def _sign_bit(element: FloatFormat) -> int:
    return 1 << (element.bits - 1)


def _infinity_code(element: FloatFormat) -> int:
    """Exponent field of ones, mantissa 0."""
    if not element.has_infinity:
        raise _no_code(inf, element)
    return ((1 << element.exponent_bits) - 1) << element.mantissa_bits


def _nan_code(element: FloatFormat) -> int:
    match element.specials:
        case Specials.IEEE:
            return _infinity_code(element) | 1 << (element.mantissa_bits - 1)
        case Specials.NAN_ONLY:
            return (1 << (element.exponent_bits + element.mantissa_bits)) - 1
        case Specials.NAN_FOR_NEGATIVE_ZERO:
            return _sign_bit(element)
        case Specials.NONE:
            raise _no_code(nan, element)


def _no_code(value: float, element: IntFormat | FloatFormat) -> DataError:
    return DataError(f"{value!r} is not a value of {element}: round it to the format before encoding it")
