"""A grid, a rounding and an overflow as the numbers that the compiled loops need."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fewbits.formats.grid import Grid
from fewbits.formats.rounding import Overflow, Rounding

MANTISSA_BITS, BIAS = 23, 127

_FIXED_POINT = 24  # bits of noise that an element takes
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_ALL = 0xFFFFFFFF


class Rule(NamedTuple):
    """Powers are float32, patterns of bits uint32."""

    to_even: np.bool_
    saturate: np.bool_
    integers: np.bool_  # the step is the same everywhere
    dropped: np.uint32  # bits of the mantissa that go
    keep: np.uint32  # mask of the others
    half_less_one: np.uint32
    last: np.uint32  # mask of the last bit that stays; 0 if all do
    lift: np.uint32  # from a power of two to what rounds magnitudes of its exponent, when added and taken away
    add_positive: np.uint32  # what rounding adds to the pattern of a magnitude before the mask
    add_negative: np.uint32
    beyond_positive: np.float32  # a fraction of a step beyond which the magnitude goes up
    beyond_negative: np.float32
    noise_shift: np.uint32  # from 24 bits of noise to the bits that go
    least: np.uint32  # pattern of 2**min_exponent, or 0 where patterns do for subnormals too
    magic: np.float32  # adding it and taking it away rounds to a multiple of the step
    steps: np.float32  # in one
    step: np.float32
    noise_steps: np.float32  # in one, of 2**-24 times the step
    flush: np.uint32  # smaller patterns become zero
    low: np.float32
    high: np.float32
    under: np.float32  # what stands for less than `low` and more than `high`, unless saturating
    over: np.float32
    zero: np.float32  # +0 where -0 is no value, otherwise -0


def can_round(grid: Grid) -> bool:
    """Whether the loops know `grid`.

    It has a zero, its least step and the inverse of it are normal float32 numbers (or it has float32's exponents),
    and where powers of two are neighbours, an even exponent field is one that is even in float32.
    """
    steps_in_one = grid.mantissa_bits - grid.min_exponent
    normal = grid.min_exponent == 1 - BIAS or 0 <= steps_in_one < BIAS
    return grid.zero and normal and (grid.mantissa_bits > 0 or grid.min_exponent % 2 == 0)


def rule_of(grid: Grid, rounding: Rounding, overflow: Overflow, *, integers: bool, low: float, high: float) -> Rule:
    """The numbers for rounding to `grid` between `low` and `high`; `integers` if its step is the same everywhere."""
    dropped = MANTISSA_BITS - grid.mantissa_bits
    unit = (1 << dropped) - 1
    half = (1 << dropped) >> 1
    by_pattern = is_by_pattern(grid) and not integers
    step = 0 if by_pattern else grid.min_exponent - grid.mantissa_bits
    add = {Rounding.NEAREST_AWAY: (half, half), Rounding.FLOOR: (0, unit)}.get(rounding, (0, 0))
    beyond = {Rounding.NEAREST_AWAY: (_BELOW_HALF, _BELOW_HALF), Rounding.FLOOR: (1, 0)}.get(rounding, (1, 1))
    over = np.float32(np.inf if grid.infinity else np.nan)
    # Twice the top bit, so that numbers of either sign keep their step while the sum is formed.
    magic = 1.5 * 2.0 ** (step + MANTISSA_BITS) if integers else 2.0 ** (step + MANTISSA_BITS)
    least = 0 if by_pattern else (grid.min_exponent + BIAS) << MANTISSA_BITS
    with np.errstate(over="ignore"):
        noise_steps = np.float32(2.0 ** (_FIXED_POINT - step))
    return Rule(
        to_even=np.bool_(rounding is Rounding.NEAREST_EVEN),
        saturate=np.bool_(overflow is Overflow.SATURATE),
        integers=np.bool_(integers),
        dropped=np.uint32(dropped),
        keep=np.uint32(_ALL ^ unit),
        half_less_one=np.uint32(max(half - 1, 0)),
        last=np.uint32(min(dropped, 1)),
        lift=np.uint32(dropped << MANTISSA_BITS),
        add_positive=np.uint32(add[0]),
        add_negative=np.uint32(add[1]),
        beyond_positive=np.float32(beyond[0]),
        beyond_negative=np.float32(beyond[1]),
        noise_shift=np.uint32(grid.mantissa_bits + 1),
        least=np.uint32(_ALL if integers else least),
        magic=np.float32(magic),
        steps=np.float32(2.0**-step),
        step=np.float32(2.0**step),
        noise_steps=noise_steps,
        flush=np.uint32((grid.min_exponent + BIAS) << MANTISSA_BITS if grid.flush else 0),
        low=np.float32(low),
        high=np.float32(high),
        under=-over if grid.low < 0 else np.float32(np.nan),
        over=over,
        zero=np.float32(-0.0 if grid.negative_zero else 0.0),
    )


def is_by_pattern(grid: Grid) -> bool:
    """Whether the exponents of `grid` begin where float32's do, so that its subnormals lie as float32's."""
    return grid.min_exponent == 1 - BIAS
