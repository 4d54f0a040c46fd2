"""Rounding a run of float32 values to a grid: integer arithmetic on bit patterns, selects instead of branches.

Above ``2**min_exponent`` rounding is an addition to the bit pattern and a mask (a carry raises the exponent, as it
must); below, where the step is constant, it is arithmetic on ``|y| / step``, which is exact for powers of two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.grid import Grid
from fewbits.formats.kernels.cpu_compiled import bits, compiled, number
from fewbits.formats.rounding import Rounding

Float32 = NDArray[np.float32]

_MANTISSA_BITS, _BIAS = 23, 127
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_NOTHING = np.uint32(0)
_EIGHT = np.uint32(8)
_ALL = np.int32(1 << 24)
_UNIT = np.float32(2.0**-24)
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


class Rule(NamedTuple):
    """A grid, a rounding and an overflow as the numbers that the loops need. Powers are float32, patterns uint32."""

    dropped: np.uint32  # bits of the mantissa that go
    keep: np.uint32  # mask of the others
    half_less_one: np.uint32
    last: np.uint32  # mask of the last bit that stays; 0 if all do
    add_positive: np.uint32  # what rounding adds to the pattern of a magnitude before the mask
    add_negative: np.uint32
    beyond_positive: np.float32  # a fraction of a step beyond which the magnitude goes up
    beyond_negative: np.float32
    noise_shift: np.uint32
    least: np.uint32  # pattern of 2**min_exponent, or 0 where patterns do for subnormals too
    magic: np.float32  # adding it and taking it away rounds to a multiple of the step
    steps: np.float32  # in one
    step: np.float32
    flush: np.uint32  # smaller patterns become zero
    low: np.float32
    high: np.float32
    under: np.float32  # what stands for less than `low` and more than `high`, unless saturating
    over: np.float32
    zero: np.float32  # +0 where -0 is no value, otherwise -0


def can_round(grid: Grid) -> bool:
    """Whether the loops here know `grid`.

    It has a zero, its least step and the inverse of it are normal float32 numbers (or it has float32's exponents),
    and where powers of two are neighbours, an even exponent field is one that is even in float32.
    """
    steps_in_one = grid.mantissa_bits - grid.min_exponent
    normal = grid.min_exponent == 1 - _BIAS or 0 <= steps_in_one < _BIAS
    return grid.zero and normal and (grid.mantissa_bits > 0 or grid.min_exponent % 2 == 0)


def rule_of(grid: Grid, rounding: Rounding, *, integers: bool, low: float, high: float) -> Rule:
    """The numbers for rounding to `grid` between `low` and `high`; `integers` if its step is the same everywhere."""
    dropped = _MANTISSA_BITS - grid.mantissa_bits
    unit = (1 << dropped) - 1
    half = (1 << dropped) >> 1
    by_pattern = grid.min_exponent == 1 - _BIAS and not integers
    step = 0 if by_pattern else grid.min_exponent - grid.mantissa_bits
    add = {Rounding.NEAREST_AWAY: (half, half), Rounding.FLOOR: (0, unit)}.get(rounding, (0, 0))
    beyond = {Rounding.NEAREST_AWAY: (_BELOW_HALF, _BELOW_HALF), Rounding.FLOOR: (1, 0)}.get(rounding, (1, 1))
    signed = grid.low < 0
    over = np.float32(np.inf if grid.infinity else np.nan)
    # Twice the top bit, so that numbers of either sign keep their step while the sum is formed.
    magic = 1.5 * 2.0 ** (step + _MANTISSA_BITS) if integers else 2.0 ** (step + _MANTISSA_BITS)
    return Rule(
        dropped=np.uint32(dropped),
        keep=np.uint32(0xFFFFFFFF ^ unit),
        half_less_one=np.uint32(max(half - 1, 0)),
        last=np.uint32(min(dropped, 1)),
        add_positive=np.uint32(add[0]),
        add_negative=np.uint32(add[1]),
        beyond_positive=np.float32(beyond[0]),
        beyond_negative=np.float32(beyond[1]),
        noise_shift=np.uint32(grid.mantissa_bits + 1),
        least=np.uint32(0 if by_pattern else (grid.min_exponent + _BIAS) << _MANTISSA_BITS),
        magic=np.float32(magic),
        steps=np.float32(2.0**-step),
        step=np.float32(2.0**step),
        flush=np.uint32((grid.min_exponent + _BIAS) << _MANTISSA_BITS if grid.flush else 0),
        low=np.float32(low),
        high=np.float32(high),
        under=-over if signed else np.float32(np.nan),
        over=over,
        zero=np.float32(-0.0 if grid.negative_zero else 0.0),
    )


@compiled
def _in_steps(magnitude: np.float32, negative: bool, word: np.uint32 | None, rule: Rule) -> np.float32:
    """`magnitude` rounded to a multiple of the constant step, by any rounding but to nearest even."""
    quotient = magnitude * rule.steps
    whole = np.float32(np.floor(quotient))
    fraction = quotient - whole
    if word is None:
        up = fraction > (rule.beyond_negative if negative else rule.beyond_positive)
    else:
        up = fraction >= np.float32(_ALL - np.int32(word >> _EIGHT)) * _UNIT
    return (whole + np.float32(up)) * rule.step


@compiled
def round_integers(
    x: Float32,
    words: NDArray[np.uint32] | None,
    to_even: bool | None,
    scale: Float32 | None,
    low: Float32 | None,
    high: Float32 | None,
    times: Float32 | None,
    rule: Rule,
    out: Float32,
) -> None:
    """Write `x` divided by `scale`, rounded to multiples of the step between the limits, times `times`, to `out`.

    All are runs of one length; ``None`` for a scale is 1, for limits the rule's, for words no noise.
    """
    for i in range(x.size):
        y = x[i]
        if scale is not None:
            y = y / scale[i]
        # Limits are multiples of the step, so that clipping first changes nothing, and all that follows is exact.
        top = rule.high if high is None else high[i]
        bottom = rule.low if low is None else low[i]
        y = top if y > top else y
        y = bottom if y < bottom else y
        if to_even is not None:
            y = (y + rule.magic) - rule.magic
        else:
            pattern = bits(y)
            magnitude = np.uint32(pattern & _MAGNITUDE)
            sign = np.uint32(pattern ^ magnitude)
            word = None if words is None else words[i]
            y = number(bits(_in_steps(number(magnitude), sign != _NOTHING, word, rule)) | sign)
        if times is not None:
            y = y * times[i]
        out[i] = y + rule.zero


@compiled
def round_floats(
    x: Float32,
    words: NDArray[np.uint32] | None,
    to_even: bool | None,
    saturate: bool | None,
    flush: bool | None,
    scale: Float32 | None,
    low: Float32 | None,
    high: Float32 | None,
    times: Float32 | None,
    rule: Rule,
    out: Float32,
) -> None:
    """As `round_integers`, where the step doubles with every power of two, and overflow may be Inf or NaN."""
    for i in range(x.size):
        given = x[i]
        y = given
        if scale is not None:
            y = y / scale[i]
        pattern = bits(y)
        magnitude = np.uint32(pattern & _MAGNITUDE)
        sign = np.uint32(pattern ^ magnitude)
        if to_even is not None:
            last = (magnitude >> rule.dropped) & rule.last
            normal = np.uint32((magnitude + rule.half_less_one + last) & rule.keep)
            below = bits((number(magnitude) + rule.magic) - rule.magic)
        elif words is None:
            negative = sign != _NOTHING
            add = rule.add_negative if negative else rule.add_positive
            normal = np.uint32((magnitude + add) & rule.keep)
            below = bits(_in_steps(number(magnitude), negative, None, rule))
        else:
            word = words[i]
            normal = np.uint32((magnitude + ((word >> _EIGHT) >> rule.noise_shift)) & rule.keep)
            below = bits(_in_steps(number(magnitude), False, word, rule))
        rounded = below if magnitude < rule.least else normal
        if flush is not None:
            rounded = rounded if rounded >= rule.flush else _NOTHING
        y = number(np.uint32(rounded | sign))
        top = rule.high if high is None else high[i]
        bottom = rule.low if low is None else low[i]
        if saturate is not None:
            y = top if y > top else y
            y = bottom if y < bottom else y
        else:
            under = y < bottom
            y = rule.over if y > top else y
            y = rule.under if under else y
        if times is not None:
            y = y * times[i]
        y = y + rule.zero
        out[i] = given if np.isnan(given) else y
