"""Rounding, codes and noise as Triton functions: the bits of `array` and `philox` in `formats.numerics`.

Numbers are float32 of any shape, `S` a `RoundingSpec`, `C` a `CodeSpec`. Bit patterns are handled as int32. Nothing
here relies on a conversion to a narrow float, which Triton's interpreter rounds in its own way, unless `NATIVE`.
Source of the generator: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
"""

# Compile-time values are in capitals, and branches on them cost nothing: Triton compiles what is taken.
# ruff: noqa: N803, PLR0124, SIM108, SIM300
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_INFINITY = tl.constexpr(0x7F800000)
_HIDDEN = tl.constexpr(0x00800000)
_MANTISSA = tl.constexpr(0x007FFFFF)
_KEEP_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def bits_of(x):
    """The pattern of float32, as int32."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    """The float32 of a pattern."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def widen(x, NATIVE: tl.constexpr):
    """float32, bfloat16 or float16 as float32, exactly."""
    if x.dtype == tl.float32:
        wide = x
    elif NATIVE and x.dtype == tl.bfloat16:
        wide = x.to(tl.float32)
    elif NATIVE:
        # The conversion of the hardware forgets the sign of NaN.
        pattern = x.to(tl.int16, bitcast=True).to(tl.int32)
        wide = float_of(bits_of(x.to(tl.float32)) | (pattern & -0x80000000))
    else:
        pattern = x.to(tl.int16, bitcast=True).to(tl.int32)
        if x.dtype == tl.bfloat16:
            wide = float_of(pattern << 16)
        else:
            magnitude = pattern & 0x7FFF
            value = bits_of(float_of(magnitude << 13) * 5.192296858534828e33)  # 2**112: the difference of the biases
            value = tl.where(magnitude >= 0x7C00, (magnitude << 13) | 0x7F800000, value)
            wide = float_of(value | ((pattern >> 15) << 31))
    return wide


@triton.jit
def narrow(r, TYPE: tl.constexpr, HALF: tl.constexpr, HALF_CODE: tl.constexpr, NATIVE: tl.constexpr):
    """float32 as `TYPE`, to nearest even; `HALF` and `HALF_CODE` describe that type if it is narrower."""
    if TYPE == tl.float32:
        result = r
    elif NATIVE:
        if HALF.saturate:
            r = tl.minimum(tl.maximum(r, HALF.low, propagate_nan=_KEEP_NAN), HALF.high, propagate_nan=_KEEP_NAN)
        result = r.to(TYPE)
    else:
        code = encode(round_to_grid(r, 0, HALF.low, HALF.high, HALF), r, 0, HALF_CODE)
        result = code.to(tl.int16).to(TYPE, bitcast=True)
    return result


@triton.jit
def round_to_grid(y, noise, low, high, S: tl.constexpr):
    """`y` as a value of the grid, NaN as it is; `low` and `high` are limits inside those of the grid."""
    if S.by_addition:
        r = _round_by_addition(y, low, high, S)
    else:
        r = _round_patterns(y, noise, S)
    if S.flush:
        r = tl.where(tl.abs(r) < S.min_normal, 0.0, r)
    if S.negative_zero:
        r = float_of(bits_of(r) | (bits_of(y) & -0x80000000))
    elif not S.by_addition:
        r = tl.where(r == 0, 0.0, r)
    if S.saturate:
        if not S.by_addition:
            r = tl.minimum(tl.maximum(r, low), high)
    else:
        above = r > high
        below = r < low
        r = tl.where(above, float("inf") if S.infinity else float("nan"), r)
        if not S.zero:
            r = tl.where(below & (y >= 0), low, r)
            below = below & (y < 0)
        r = tl.where(below, float("-inf") if S.infinity and S.signed else float("nan"), r)
    if not S.by_addition:
        r = tl.where(y != y, y, r)
    return r


@triton.jit
def _round_by_addition(y, low, high, S: tl.constexpr):
    if S.saturate:
        y = tl.minimum(tl.maximum(y, low, propagate_nan=_KEEP_NAN), high, propagate_nan=_KEEP_NAN)
    else:
        y = tl.minimum(tl.maximum(y, -S.bound, propagate_nan=_KEEP_NAN), S.bound, propagate_nan=_KEEP_NAN)
    if S.fixed_step:
        r = (y + S.anchor) - S.anchor
    else:
        # A power of two times 1.5: `y` may have either sign without leaving the anchor's range.
        anchor = float_of(tl.maximum(bits_of(y) & _INFINITY, S.least_power) + S.anchor_offset)
        r = (y + anchor) - anchor
    return r


@triton.jit
def _round_patterns(y, noise, S: tl.constexpr):
    """With the sign of `y`; overflow becomes Inf, or a value beyond the limits."""
    bits = bits_of(y)
    magnitude = bits & _MAGNITUDE
    negative = bits < 0
    # From the least normal number on, the pattern itself is rounded: a carry goes into the exponent, as it should.
    if S.dropped == 0:
        rounded = magnitude
    else:
        odd = (magnitude >> S.dropped) & 1
        if S.mantissa_bits == 0:
            odd = odd ^ S.power_is_odd_code
        if S.nearest_even:
            rounded = magnitude + (S.half - 1) + odd
        elif S.nearest_away:
            rounded = magnitude + S.half
        elif S.floor:
            rounded = magnitude + tl.where(negative, S.tail, 0)
        elif S.stochastic:
            rounded = magnitude + (noise >> (32 - S.dropped)).to(tl.int32)
        else:
            rounded = magnitude
        rounded = tl.where(magnitude < _INFINITY, rounded & ~S.tail, magnitude)
    if S.min_exponent == -126:
        small = rounded  # below the least normal number, float32's patterns have the same step as above it
    elif S.min_exponent > -126:
        significand = (magnitude & _MANTISSA) | tl.where(magnitude >= _HIDDEN, 0x800000, 0)
        exponent = tl.maximum(magnitude >> 23, 1)
        shift = tl.maximum(S.step_shift - exponent, 0)
        count = _shifted(significand, shift, noise, negative, (significand >> tl.minimum(shift, 31)) & 1, S)
        small = bits_of(count.to(tl.float32) * S.step)
    else:
        # The format has steps below float32's least normal number: normalise what is subnormal there.
        scaled = bits_of(float_of(magnitude) * 16777216.0)
        significand = (scaled & _MANTISSA) | tl.where(scaled >= _HIDDEN, 0x800000, 0)
        exponent = (scaled >> 23) - 24
        power = tl.maximum(exponent, S.min_exponent + 127)
        shift = power - exponent + S.dropped
        odd = (significand >> tl.minimum(shift, 31)) & 1
        if S.mantissa_bits == 0:
            odd = tl.where(exponent >= power, (power & 1) ^ S.power_is_odd_code, odd)
        small = _shifted(significand, shift, noise, negative, odd, S) << (power + 22 - S.mantissa_bits)
    rounded = tl.where(magnitude < S.least_power, small, rounded)
    return float_of(rounded | (bits & -0x80000000))


@triton.jit
def _shifted(significand, shift, noise, negative, odd, S: tl.constexpr):
    """`significand`, below 2**24, divided by ``2**shift`` and rounded; `shift` may be as large as it likes."""
    near = tl.minimum(shift, 30)
    one = significand * 0 + 1
    if S.nearest_even:
        count = (significand + ((one << near) >> 1) - tl.where(near > 0, 1 - odd, 0)) >> near
    elif S.nearest_away:
        count = (significand + ((one << near) >> 1)) >> near
    elif S.floor:
        count = (significand + tl.where(negative, (one << near) - 1, 0)) >> near
    elif S.stochastic:
        rest = significand & ((one << near) - 1)
        far = significand >> tl.minimum(tl.maximum(shift - 24, 0), 31)
        fraction = tl.where(shift < 24, rest << tl.maximum(24 - near, 0), far)
        count = (significand >> near) + ((fraction + (noise >> 8).to(tl.int32)) >> 24)
    else:
        count = significand >> near
    return count


@triton.jit
def encode(r, x, zero_point, C: tl.constexpr):
    """Codes, int32, of values `r` of the format; NaN takes its sign from `x`."""
    if C.integer:
        code = (r * C.per_unit).to(tl.int32) + zero_point
    else:
        code = bits_of(tl.abs(r) * C.rebias * C.rebias_more) >> C.shift
        if C.infinity:
            code = tl.where(tl.abs(r) == float("inf"), C.infinity_code, code)
        if C.sign != 0:
            code = code | ((bits_of(r) >> C.sign_shift) & C.sign)
        if C.nan:
            nan = C.nan_code
            if C.nan_is_signed:
                nan = ((bits_of(x) >> C.sign_shift) & C.sign) | C.nan_code
            code = tl.where(r != r, nan, code)
    return code


@triton.jit
def round_to_codes(y, x, S: tl.constexpr, C: tl.constexpr):
    """Rounded and encoded at once by the conversion of the hardware, which saturates: float8 E4M3, to nearest even."""
    tl.static_assert(S.by_addition and S.saturate and C.in_hardware)
    code = y.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    # It forgets the sign of NaN; that of everything else is there already.
    return code | ((bits_of(x) >> 24) & 0x80).to(tl.uint8)


@triton.jit
def decode(code, zero_point, C: tl.constexpr):
    """Values, float32, of codes given as int32; the inverse of `encode`."""
    if C.integer:
        r = (code - zero_point).to(tl.float32) * C.unit
    else:
        magnitude = code
        if C.sign != 0:
            magnitude = code & ~C.sign
        r = float_of(magnitude << C.shift) * (1.0 / C.rebias) * (1.0 / C.rebias_more)
        if C.first != 0:
            r = tl.where(magnitude == 0, tl.full([1, 1], C.first, tl.float32), r)
        if C.infinity:
            r = tl.where(magnitude == C.infinity_code, float("inf"), r)
            r = tl.where(magnitude > C.infinity_code, float("nan"), r)
        if C.sign != 0:
            # Not -r, which older versions of Triton take for 0 - r: the sign of zero would be lost.
            r = float_of(bits_of(r) | tl.where((code & C.sign) != 0, -0x80000000, 0))
        if C.nan and not C.infinity:
            if C.nan_is_signed:
                r = tl.where(magnitude == C.nan_code, float("nan"), r)
            else:
                r = tl.where(code == C.nan_code, float("nan"), r)
    return r


@triton.jit
def philox(counter, tensor, step, key_low, key_high):
    """Philox4x32-10 at ``(counter, counter >> 32, tensor, step)``; `counter` is int64, the rest have 32 bits."""
    c0 = counter.to(tl.uint32)
    c1 = (counter >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0) + tensor.to(tl.uint32)
    c3 = tl.zeros_like(c0) + step.to(tl.uint32)
    key_low = key_low.to(tl.uint32)
    key_high = key_high.to(tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = _wide_product(c0, 0xD2511F53)
        high1, low1 = _wide_product(c2, 0xCD9E8D57)
        c0 = high1 ^ c1 ^ key_low
        c1 = low1
        c2 = high0 ^ c3 ^ key_high
        c3 = low0
        key_low = _wrapping_sum(key_low, 0x9E3779B9)
        key_high = _wrapping_sum(key_high, 0xBB67AE85)
    return c0, c1, c2, c3


@triton.jit
def _wide_product(a, B: tl.constexpr):
    wide = a.to(tl.uint64) * B
    return (wide >> 32).to(tl.uint32), wide.to(tl.uint32)


@triton.jit
def _wrapping_sum(a, B: tl.constexpr):
    return (a.to(tl.uint64) + B).to(tl.uint32)


@triton.jit
def noise_at(index, tensor, step, key_low, key_high):
    """The word of noise of every element of int64 `index`; a fourth of what is computed is used."""
    w0, w1, w2, w3 = philox((index >> 6) * 16 + (index & 15), tensor, step, key_low, key_high)
    word = (index >> 4) & 3
    return tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))


@triton.jit
def noise_from(start, COUNT: tl.constexpr, tensor, step, key_low, key_high):
    """The words of `COUNT` elements from `start`, both multiples of 64; everything that is computed is used."""
    counter = start // 4 + tl.arange(0, COUNT // 4).to(tl.int64)
    w0, w1, w2, w3 = philox(counter, tensor, step, key_low, key_high)
    pairs = tl.join(tl.join(w0, w1), tl.join(w2, w3))  # [counter, w & 1, w >> 1]
    blocks = tl.permute(tl.reshape(pairs, [COUNT // 64, 16, 2, 2]), [0, 3, 2, 1])
    return tl.reshape(blocks, [COUNT])
