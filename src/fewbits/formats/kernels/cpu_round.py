"""Rounding a run of float32 values to a grid: selects instead of branches, so that the loops become vector code.

There is a loop for everything (`ANY`), and short ones for what is cast most: saturating, to nearest even or
stochastically, between limits of one magnitude. They clip first, which changes nothing, as limits are on the grid.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numba import typeof as numba_typeof
from numba import types
from numpy.typing import NDArray

from fewbits.formats.grid import Grid
from fewbits.formats.integer import INT8
from fewbits.formats.kernels.cpu_compiled import bits, compiled, compiled_as, number
from fewbits.formats.kernels.cpu_rule import BIAS, MANTISSA_BITS, Rule, is_by_pattern, rule_of
from fewbits.formats.kernels.cpu_vector import prefetch
from fewbits.formats.rounding import Overflow, Rounding

Float32 = NDArray[np.float32]
Words = NDArray[np.uint32]

_MAGNITUDE, _SIGN, _EXPONENT = np.uint32(0x7FFFFFFF), np.uint32(0x80000000), np.uint32(0x7F800000)
_NOTHING = np.uint32(0)
_EIGHT = np.uint32(8)
_WHOLE = np.uint32(0xFF000000)  # of a number with 24 bits behind the binary point
_SIGNED_WHOLE = np.int32(-(1 << 24))
_ALL = np.int32(1 << 24)
_UNIT = np.float32(2.0**-24)
_INVERSE = np.uint32(2 * BIAS << MANTISSA_BITS)  # less the pattern of a power of two: that of its inverse


_STRETCH = 256  # numbers between which is fetched what follows


class Loop(Enum):
    """Which loop rounds."""

    ANY = 0
    EVEN = 1  # floats; an addition that leaves no room for the bits that go
    EVEN_PATTERN = 2  # floats with the exponents of float32: an addition to the bit pattern
    EVEN_INTEGER = 3
    NOISE = 4
    NOISE_PATTERN = 5
    NOISE_INTEGER = 6


class Division(Enum):
    """By what a run is divided before rounding."""

    NONE = 0
    POWERS = 1  # of two, between 2**-126 and 2**126: what is normal and has a normal inverse
    REAL = 2


def loop_for(grid: Grid, rounding: Rounding, overflow: Overflow, *, integers: bool, low: float, high: float) -> Loop:
    """The fastest loop for rounding to `grid` between `low` and `high`."""
    if rounding not in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC) or overflow is not Overflow.SATURATE:
        return Loop.ANY
    stochastic = rounding is Rounding.STOCHASTIC
    if integers:
        if not stochastic:
            return Loop.EVEN_INTEGER
        fixed_point_fits = max(-low, high) < 256 * grid.smallest_step
        return Loop.NOISE_INTEGER if fixed_point_fits else Loop.ANY
    if low != -high or grid.flush or grid.mantissa_bits == 0 or high == 0:
        return Loop.ANY
    if is_by_pattern(grid):
        return Loop.NOISE_PATTERN if stochastic else Loop.EVEN_PATTERN
    dropped = MANTISSA_BITS - grid.mantissa_bits
    if stochastic:
        return Loop.NOISE if grid.mantissa_bits <= 6 else Loop.ANY
    return Loop.EVEN if dropped and np.log2(high) + dropped < BIAS else Loop.ANY


@compiled
def _even(y: np.float32, rule: Rule) -> np.float32:
    magnitude = number(bits(y) & _MAGNITUDE)
    magnitude = rule.high if magnitude > rule.high else magnitude
    power = max(bits(magnitude), rule.least) & _EXPONENT
    magic = number(np.uint32(power + rule.lift))
    rounded = (magnitude + magic) - magic
    return number(bits(rounded) | (bits(y) & _SIGN))


@compiled
def _even_pattern(y: np.float32, rule: Rule) -> np.float32:
    magnitude = bits(y) & _MAGNITUDE
    last = (magnitude >> rule.dropped) & rule.last
    rounded = np.uint32(magnitude + rule.half_less_one + last) & rule.keep
    rounded = min(rounded, bits(rule.high))
    result = number(rounded | (bits(y) & _SIGN))
    return y if magnitude > _EXPONENT else result


@compiled
def _even_integer(y: np.float32, rule: Rule) -> np.float32:
    y = rule.high if y > rule.high else y
    y = rule.low if y < rule.low else y
    return (y + rule.magic) - rule.magic


@compiled
def _noise(y: np.float32, word: np.uint32, rule: Rule) -> np.float32:
    magnitude = number(bits(y) & _MAGNITUDE)
    magnitude = rule.high if magnitude > rule.high else magnitude
    normal = np.uint32(bits(magnitude) + ((word >> _EIGHT) >> rule.noise_shift)) & rule.keep
    # Below, the step is constant: the magnitude as a number with 24 bits behind the point. What lies further behind
    # changes no comparison with noise of 24 bits.
    fixed = np.int32(np.int32(magnitude * rule.noise_steps) + np.int32(word >> _EIGHT)) & _SIGNED_WHOLE
    below = bits(np.float32(np.int32(fixed)) * (rule.step * _UNIT))
    rounded = below if bits(magnitude) < rule.least else normal
    result = number(rounded | (bits(y) & _SIGN))
    return y if np.isnan(y) else result


@compiled
def _noise_pattern(y: np.float32, word: np.uint32, rule: Rule) -> np.float32:
    magnitude = bits(y) & _MAGNITUDE
    rounded = np.uint32(magnitude + ((word >> _EIGHT) >> rule.noise_shift)) & rule.keep
    rounded = min(rounded, bits(rule.high))
    result = number(rounded | (bits(y) & _SIGN))
    return y if magnitude > _EXPONENT else result


@compiled
def _noise_integer(y: np.float32, word: np.uint32, rule: Rule) -> np.float32:
    given = y
    y = rule.high if y > rule.high else y
    y = rule.low if y < rule.low else y
    magnitude = number(bits(y) & _MAGNITUDE)
    fixed = np.uint32(np.uint32(magnitude * rule.noise_steps) + (word >> _EIGHT)) & _WHOLE
    rounded = np.float32(np.uint32(fixed)) * (rule.step * _UNIT)
    result = number(bits(rounded) | (bits(y) & _SIGN))
    return given if np.isnan(given) else result


@compiled
def _in_steps(magnitude: np.float32, beyond: np.float32, rule: Rule) -> np.float32:
    """`magnitude` rounded to a multiple of the constant step: up if more than `beyond` of a step is left."""
    quotient = magnitude * rule.steps
    whole = np.float32(np.floor(quotient))
    return (whole + np.float32(quotient - whole > beyond)) * rule.step


@compiled
def _any(y: np.float32, word: np.uint32, stochastic: bool, low: np.float32, high: np.float32, rule: Rule) -> np.float32:
    given = y
    if rule.integers:
        # So that all that follows is exact.
        y = high if y > high else y
        y = low if y < low else y
    pattern = bits(y)
    magnitude = np.uint32(pattern & _MAGNITUDE)
    sign = np.uint32(pattern ^ magnitude)
    if rule.to_even:
        last = (magnitude >> rule.dropped) & rule.last
        normal = np.uint32(magnitude + rule.half_less_one + last) & rule.keep
        if rule.integers:
            below = bits((y + rule.magic) - rule.magic) & _MAGNITUDE
        else:
            below = bits((number(magnitude) + rule.magic) - rule.magic)
    elif stochastic:
        normal = np.uint32((magnitude + ((word >> _EIGHT) >> rule.noise_shift)) & rule.keep)
        quotient = number(magnitude) * rule.steps
        whole = np.float32(np.floor(quotient))
        up = quotient - whole >= np.float32(_ALL - np.int32(word >> _EIGHT)) * _UNIT
        below = bits((whole + np.float32(up)) * rule.step)
    else:
        negative = sign != _NOTHING
        add = rule.add_negative if negative else rule.add_positive
        normal = np.uint32(magnitude + add) & rule.keep
        below = bits(_in_steps(number(magnitude), rule.beyond_negative if negative else rule.beyond_positive, rule))
    rounded = below if magnitude < rule.least else normal
    rounded = rounded if rounded >= rule.flush else _NOTHING
    y = number(np.uint32(rounded | sign))
    over = high if rule.saturate else rule.over
    under = low if rule.saturate else rule.under
    below_low = y < low
    y = over if y > high else y
    y = under if below_low else y
    return given if np.isnan(given) else y


_TYPEOF: Any = numba_typeof  # itself untyped
_RULE = rule_of(INT8.grid, Rounding.NEAREST_EVEN, Overflow.SATURATE, integers=True, low=-1, high=1)
_FLOATS = types.Array(types.float32, 1, "C")
_WORDS = types.Array(types.uint32, 1, "C")
SIGNATURE = types.void(_FLOATS, _WORDS, _FLOATS, _FLOATS, _FLOATS, _FLOATS, _TYPEOF(_RULE), _FLOATS, types.intp)


@cache
def rounding_loop(loop: Loop, division: Division) -> Any:
    """The compiled loop ``(x, words, steps, times, low, high, rule, out)``.

    It writes `x` divided by `steps`, rounded with the noise `words`, times `times`, to `out`. All are runs of one
    length; what a loop does not need may be empty: `steps` and `times` without division, `words` without noise (no
    noise, for `ANY`), `low` and `high` for limits that are the rule's.
    """
    numbered, divided, powers = loop.value, division is not Division.NONE, division is Division.POWERS
    return compiled_as(SIGNATURE, _written(numbered, divided, powers))


def _written(loop: int, divided: bool, powers: bool) -> Any:
    def run(
        x: Float32,
        words: Words,
        steps: Float32,
        times: Float32,
        low: Float32,
        high: Float32,
        rule: Rule,
        out: Float32,
        soon: int,
    ) -> None:
        limited, stochastic = low.size > 0, words.size > 0
        for first in range(0, x.size, _STRETCH):
            count, start = min(x.size - first, _STRETCH), np.uint64(first)
            for line in range(_STRETCH // 16):
                prefetch(soon + first * 4 + line * 64)
            for place in range(count):
                i = start + np.uint64(place)
                y = x[i]
                if divided:
                    y = y * number(np.uint32(_INVERSE - bits(steps[i]))) if powers else y / steps[i]
                if loop == 1:
                    y = _even(y, rule)
                elif loop == 2:
                    y = _even_pattern(y, rule)
                elif loop == 3:
                    y = _even_integer(y, rule)
                elif loop == 4:
                    y = _noise(y, words[i], rule)
                elif loop == 5:
                    y = _noise_pattern(y, words[i], rule)
                elif loop == 6:
                    y = _noise_integer(y, words[i], rule)
                else:
                    word = words[i] if stochastic else _NOTHING
                    least, most = (low[i], high[i]) if limited else (rule.low, rule.high)
                    y = _any(y, word, stochastic, least, most, rule)
                if divided:
                    y = y * times[i]
                out[i] = y + rule.zero

    return run
