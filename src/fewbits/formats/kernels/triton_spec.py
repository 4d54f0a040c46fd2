"""What a Triton kernel is compiled for: frozen numbers, worked out from a format before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import numpy as np

from fewbits.formats.floating import E4M3, E8M0, FloatFormat, Specials
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.scales import Scales, limits, middle_code
from fewbits.formats.rounding import Overflow, Rounding
from fewbits.formats.scaled import NestedScale, PowerOfTwoScale, ScaledFormat, ScaleRule

_BIAS = 127  # of float32, like the other numbers below
_MANTISSA_BITS = 23
_LEAST_EXPONENT = -126
_LARGEST = np.finfo(np.float32).max
_FLOAT32_MAX_EXPONENT = 127


@dataclass(frozen=True, slots=True)
class RoundingSpec:
    """Rounding of float32 to a grid. `least_power` and `anchor_offset` are exponents in float32's bit pattern.

    `by_addition` says that adding and subtracting an anchor of ``1.5 * 2**23`` steps rounds, because the addition
    does (nearest even, and the anchor neither overflows nor is too near). `fixed_step` says that the step is one for
    the whole range, so that the anchor is a constant. `bound` keeps what is added to an anchor in its range where
    overflow must stay visible.
    """

    mantissa_bits: int
    min_exponent: int
    low: float
    high: float
    signed: bool
    flush: bool
    min_normal: float
    zero: bool
    infinity: bool
    nan: bool
    negative_zero: bool
    saturate: bool
    nearest_even: bool
    nearest_away: bool
    floor: bool
    stochastic: bool
    by_addition: bool
    fixed_step: bool
    anchor: float
    anchor_offset: int
    bound: float
    least_power: int
    dropped: int
    half: int
    tail: int
    power_is_odd_code: int
    step_shift: int
    step: float
    unit: float

    @classmethod
    def of(cls, grid: Grid, rounding: Rounding, overflow: Overflow, offset: float = 0.0) -> RoundingSpec:
        """`grid` with limits lowered by `offset`."""
        low, high = grid.low - offset, grid.high - offset
        saturate, signed = overflow is Overflow.SATURATE, grid.low < 0
        dropped = _MANTISSA_BITS - grid.mantissa_bits
        reach = max(abs(low), abs(high))
        reach_exponent = frexp(reach)[1]  # of a power of two that `bound` may reach
        step_exponent = grid.min_exponent - grid.mantissa_bits
        fixed = reach <= 2.0**grid.min_exponent
        by_addition = (
            rounding is Rounding.NEAREST_EVEN
            and 1 <= grid.mantissa_bits <= 21
            and grid.min_exponent >= _LEAST_EXPONENT
            and step_exponent >= _LEAST_EXPONENT
            and reach_exponent + 1 + dropped < _BIAS
            and step_exponent + _MANTISSA_BITS < _BIAS
            and (saturate or (signed and not fixed))
        )
        return cls(
            mantissa_bits=grid.mantissa_bits,
            min_exponent=grid.min_exponent,
            low=low,
            high=high,
            signed=signed,
            flush=grid.flush,
            min_normal=grid.min_normal,
            zero=grid.zero,
            infinity=grid.infinity,
            nan=grid.nan,
            negative_zero=grid.negative_zero,
            saturate=saturate,
            nearest_even=rounding is Rounding.NEAREST_EVEN,
            nearest_away=rounding is Rounding.NEAREST_AWAY,
            floor=rounding is Rounding.FLOOR,
            stochastic=rounding is Rounding.STOCHASTIC,
            by_addition=by_addition,
            fixed_step=fixed,
            anchor=1.5 * 2.0 ** (step_exponent + _MANTISSA_BITS) if by_addition else 0.0,
            anchor_offset=(dropped << _MANTISSA_BITS) | (1 << (_MANTISSA_BITS - 1)),
            bound=2.0**reach_exponent if by_addition else 0.0,
            least_power=max(grid.min_exponent + _BIAS, 1) << _MANTISSA_BITS,
            dropped=dropped,
            half=(1 << dropped) >> 1,
            tail=(1 << dropped) - 1,
            power_is_odd_code=(int(grid.zero) - grid.min_exponent + _BIAS) & 1,
            step_shift=step_exponent + _BIAS + _MANTISSA_BITS,
            step=2.0**step_exponent,
            unit=2.0**-grid.mantissa_bits,
        )


@dataclass(frozen=True, slots=True)
class CodeSpec:
    """How values of a grid and codes go over into each other.

    For integers, codes are multiples of `unit`; for floats, patterns of float32 whose exponent field is moved by
    `rebias` (in two factors where one is no float32). `first` is the value of code 0. `in_hardware`: a GPU that knows
    float8 converts to it.
    """

    integer: bool
    unit: float
    per_unit: float
    rebias: float
    rebias_more: float
    shift: int
    sign: int
    sign_shift: int
    infinity: bool
    infinity_code: int
    nan: bool
    nan_code: int
    nan_is_signed: bool
    first: float
    in_hardware: bool

    @classmethod
    def of(cls, element: IntFormat | FloatFormat) -> CodeSpec:
        """The codes of `element`."""
        if isinstance(element, IntFormat):
            unit = 2.0**-element.fraction
            return cls(True, unit, 1 / unit, 1.0, 1.0, 0, 0, 0, False, 0, False, 0, False, 0.0, False)
        infinity = ((1 << element.exponent_bits) - 1) << element.mantissa_bits
        match element.specials:
            case Specials.IEEE:
                nan = infinity + (1 << (element.mantissa_bits - 1))
            case Specials.NAN_FOR_NEGATIVE_ZERO:
                nan = 1 << (element.bits - 1)
            case _:
                nan = (1 << (element.exponent_bits + element.mantissa_bits)) - 1
        # float32's exponent field becomes the format's; a subnormal of the format becomes one of float32.
        bias = int(element.zero) - element.min_exponent
        first = max(bias - _BIAS, _LEAST_EXPONENT)
        negative_zero_is_nan = element.specials is Specials.NAN_FOR_NEGATIVE_ZERO
        return cls(
            integer=False,
            unit=1.0,
            per_unit=1.0,
            rebias=2.0**first,
            rebias_more=2.0 ** (bias - _BIAS - first),
            shift=_MANTISSA_BITS - element.mantissa_bits,
            sign=_int32(1 << (element.bits - 1)) if element.signed else 0,
            sign_shift=32 - element.bits,
            infinity=element.has_infinity,
            infinity_code=infinity,
            nan=element.has_nan,
            nan_code=_int32(nan),
            nan_is_signed=element.has_nan and element.signed and not negative_zero_is_nan,
            first=0.0 if element.zero else element.min_normal,
            in_hardware=element == E4M3,
        )


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """How a scale follows from the largest finite magnitude of a tile, as `fewbits.formats.numerics.scales` says.

    Powers of two: `carry_above` is the mantissa, of 23 bits, above which the exponent is one higher; `least` is the
    least exponent. From the exponent `tight` on, the product of scale and limit may be infinite: the limits that hold
    there are `low_tight` and `high_tight`, and beyond it `low_beyond` and `high_beyond`. Nested scales: limits shrink
    if the tensor's scale is above `tensor_tight`.
    """

    power_of_two: bool
    nested: bool
    emax: int
    carry_above: int
    least: int
    tight: int
    low_tight: float
    high_tight: float
    low_beyond: float
    high_beyond: float
    top: float
    largest: float
    tensor_top: float
    tensor_tight: float
    min_positive: float
    one: float

    @classmethod
    def of(cls, format: ScaledFormat) -> ScaleSpec:
        """The scales of `format`, whose element is an integer or a float, symmetric."""
        element, kind = format.element, format.scale
        assert isinstance(element, IntFormat | FloatFormat)
        block = kind.block if isinstance(kind, NestedScale) else E4M3
        middle = middle_code(format)
        unit = 2.0**-element.fraction if isinstance(element, IntFormat) else 1.0
        top = element.max - middle * unit
        lowest = (middle - element.qmin) * unit if isinstance(element, IntFormat) else top
        tensor_top = np.float32(block.max * element.max)
        tight = _FLOAT32_MAX_EXPONENT - element.max_exponent
        low, high = _limits_of_powers(format, tight) if isinstance(kind, PowerOfTwoScale) else ((0.0,) * 2,) * 2
        return cls(
            power_of_two=isinstance(kind, PowerOfTwoScale),
            nested=isinstance(kind, NestedScale),
            emax=element.max_exponent,
            carry_above=_carry_above(element, kind.rule) if isinstance(kind, PowerOfTwoScale) else 0,
            least=-149 if isinstance(kind, PowerOfTwoScale) and kind.storage != E8M0 else -127,
            tight=tight,
            low_tight=low[0],
            high_tight=high[0],
            low_beyond=low[1],
            high_beyond=high[1],
            top=float(np.float32(top)),
            largest=float(np.nextafter(_LARGEST / np.float32(max(top, lowest)), np.float32(0))),
            tensor_top=float(tensor_top),
            tensor_tight=float(_LARGEST / tensor_top * np.float32(0.99)),
            min_positive=float(np.float32(block.min_positive)),
            one=min(max(1.0, block.min_positive), block.max),
        )


def nested_rounding(format: ScaledFormat) -> RoundingSpec:
    """How the scales of blocks are rounded where scales are nested."""
    block = format.scale.block if isinstance(format.scale, NestedScale) else E4M3
    return RoundingSpec.of(block.grid, Rounding.NEAREST_EVEN, Overflow.SATURATE)


def _limits_of_powers(format: ScaledFormat, tight: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lower limits with the scales ``2**tight`` and ``2**(tight + 1)``, and the upper ones.

    No rule gives a larger power, since what is scaled is a float32; nor a power above 2**127.
    """
    scale = np.ldexp(np.float32(1), np.minimum([tight, tight + 1], _FLOAT32_MAX_EXPONENT)).astype(np.float32)
    low, high = limits(Scales(scale, np.zeros(2, np.int32), np.ones((), np.float32)), format)
    return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))


def _carry_above(element: IntFormat | FloatFormat, rule: ScaleRule) -> int:
    match rule:
        case ScaleRule.FLOOR:
            return 1 << _MANTISSA_BITS
        case ScaleRule.CEIL:
            return 0
        case ScaleRule.RCEIL:
            return int((frexp(element.max)[0] * 2 - 1) * 2**_MANTISSA_BITS)
        case ScaleRule.EVEN:
            bits = element.mantissa_bits if isinstance(element, FloatFormat) else element.qmax.bit_length() - 1
            if bits >= _MANTISSA_BITS:
                return 1 << _MANTISSA_BITS
            return (1 << _MANTISSA_BITS) - (1 << (_MANTISSA_BITS - 1 - bits)) - 1


def _int32(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits
