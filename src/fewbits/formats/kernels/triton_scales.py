"""Scales of tiles as Triton functions: the bits of `fewbits.formats.numerics.scales`. `K` is a `ScaleSpec`, `BLOCK` its
rounding of nested scales."""

# Compile-time values are in capitals, and branches on them cost nothing: Triton compiles what is taken.
# ruff: noqa: N803
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from fewbits.formats.kernels.triton_numerics import bits_of, float_of, round_to_grid

_INFINITY = tl.constexpr(0x7F800000)
_TINY = tl.constexpr(2.0**-126)
_OVERFLOW = tl.constexpr(2.0**128 - 2.0**103)  # the least real number that rounds to an infinite float32


@triton.jit
def ordered_magnitude(x):
    """A number that is the larger the larger the finite ``|x|`` is, and negative for NaN and Inf."""
    return (bits_of(x) & 0x7FFFFFFF) + 0x00800000


@triton.jit
def magnitude_of(ordered):
    """The pattern of the largest ``|x|`` from the largest of `ordered_magnitude`; 0 if nothing was finite."""
    return tl.maximum(ordered - 0x00800000, 0) * tl.where(ordered < 0, 0, 1)


@triton.jit
def scale_of(amax_bits, tensor_scale, K: tl.constexpr, BLOCK: tl.constexpr):
    """The scale, as stored, of tiles whose largest finite magnitude has the pattern `amax_bits`."""
    amax = float_of(amax_bits)
    if K.power_of_two:
        scale = power_of_two(exponent_of(amax_bits, K), K)
    elif K.nested:
        wanted = tl.div_rn(tl.div_rn(amax, tl.full(amax.shape, K.top, tl.float32)), tensor_scale)
        scale = round_to_grid(wanted, 0, BLOCK.low, BLOCK.high, BLOCK)
        scale = tl.maximum(tl.where(amax_bits == 0, K.one, scale), K.min_positive)
        scale = tl.where(scale * tensor_scale == 0, K.one, scale)
    else:
        scale = tl.div_rn(amax, tl.full(amax.shape, K.top, tl.float32))
        scale = tl.where(scale < _TINY, 1.0, tl.minimum(scale, K.largest))
    return scale


@triton.jit
def exponent_of(amax_bits, K: tl.constexpr):
    """The exponent k of the power of two that the rule gives; exact, for subnormal magnitudes too. 0 for 0."""
    normalised = bits_of(amax_bits.to(tl.float32))
    is_subnormal = amax_bits < 0x800000
    exponent = tl.where(is_subnormal, (normalised >> 23) - 276, (amax_bits >> 23) - 127)
    mantissa = tl.where(is_subnormal, normalised, amax_bits) & 0x7FFFFF
    k = exponent - K.emax + tl.where(mantissa > K.carry_above, 1, 0)
    return tl.where(amax_bits == 0, 0, tl.minimum(tl.maximum(k, K.least), 127))


@triton.jit
def power_of_two(k, K: tl.constexpr):
    """``2**k`` for k from -149, or -127 for e8m0, to 127."""
    if K.least >= -127:
        pattern = tl.maximum((k + 127) << 23, 0x400000)
    else:
        pattern = tl.where(k >= -126, (k + 127) << 23, (k * 0 + 1) << tl.minimum(tl.maximum(k + 149, 0), 23))
    return float_of(pattern)


@triton.jit
def quotient_of_power(x, k, K: tl.constexpr):
    """``x / 2**k``, correctly rounded: the inverse is exact."""
    if K.least >= -127:
        y = x * power_of_two(-k, K)
    else:
        # 2**-k may be too large for one factor; the first product is exact or infinite.
        y = x * power_of_two(tl.minimum(-k, 127), K) * power_of_two(tl.maximum(-k - 127, 0), K)
    return y


@triton.jit
def limits_of_power(k, S: tl.constexpr, K: tl.constexpr):
    """Limits for tiles with the scale ``2**k``."""
    low = tl.where(k < K.tight, S.low, tl.where(k == K.tight, K.low_tight, K.low_beyond))
    high = tl.where(k < K.tight, S.high, tl.where(k == K.tight, K.high_tight, K.high_beyond))
    return low, high


@triton.jit
def shrunk(end, scale, S: tl.constexpr):
    """The limit `end`, or the value of largest magnitude whose product with `scale` is a finite float32."""
    wide = scale.to(tl.float64)
    beyond = tl.abs(end.to(tl.float64)) * wide >= _OVERFLOW
    largest = _toward_zero(tl.full(wide.shape, _OVERFLOW, tl.float64) / wide, S)
    before = _toward_zero((largest.to(tl.int64, bitcast=True) - 1).to(tl.float64, bitcast=True), S)
    largest = tl.where(largest * wide >= _OVERFLOW, before, largest).to(tl.float32)
    return tl.where(beyond, tl.where(end < 0, -largest, largest), end)


@triton.jit
def _toward_zero(value, S: tl.constexpr):
    """Positive float64 cut to a multiple of the grid's step."""
    power = value.to(tl.int64, bitcast=True) & 0x7FF0000000000000
    power = tl.maximum(power, (S.min_exponent + 1023) << 52)
    step = power.to(tl.float64, bitcast=True) * S.unit
    return tl.floor(value / step) * step
