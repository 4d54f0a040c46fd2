"""Number formats in the words of ml_dtypes, torch and gfloat, and inputs at which casts can go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import copysign, inf, isfinite, isnan, nan
from typing import Any

import ml_dtypes
import numpy as np
import torch
from gfloat import Domain, FormatInfo, RoundMode
from gfloat.formats import format_info_ocp_e8m0
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.formats.floating import FloatFormat, Specials
from fewbits.formats.numerics.scalar import decode
from fewbits.formats.rounding import Rounding

SMALL: Mapping[str, type[np.generic]] = {
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8_e3m4": ml_dtypes.float8_e3m4,
    "e4m3": ml_dtypes.float8_e4m3,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
"""Every float format of 8 bits or fewer that ml_dtypes has."""

WIDE: Mapping[str, type[np.generic]] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}

TORCH: Mapping[str, torch.dtype] = {
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "e8m0": torch.float8_e8m0fnu,
}

GFLOAT_MODES: Mapping[Rounding, RoundMode] = {
    Rounding.NEAREST_EVEN: RoundMode.TiesToEven,
    Rounding.NEAREST_AWAY: RoundMode.TiesToAway,
    Rounding.TOWARD_ZERO: RoundMode.TowardZero,
    Rounding.FLOOR: RoundMode.TowardNegative,
    Rounding.STOCHASTIC: RoundMode.StochasticFastest,  # goes up iff delta + bits / 2**n >= 1, which is our definition
}


def gfloat_info(format: FloatFormat) -> FormatInfo:
    """`format`, signed or e8m0 and without flushing, as gfloat describes formats."""
    if not format.zero:
        return format_info_ocp_e8m0
    high_nans = {Specials.IEEE: (1 << format.mantissa_bits) - 1, Specials.NAN_ONLY: 1}
    return FormatInfo(
        str(format),
        k=format.bits,
        precision=format.mantissa_bits + 1,
        bias=format.bias,
        is_signed=True,
        domain=Domain.Extended if format.has_infinity else Domain.Finite,
        has_nz=format.specials is not Specials.NAN_FOR_NEGATIVE_ZERO,
        num_high_nans=high_nans.get(format.specials, 0),
        has_subnormals=True,
        is_twos_complement=False,
    )


@st.composite
def float_formats(draw: st.DrawFn, max_bits: int = 32, *, signed: bool | None = None) -> FloatFormat:
    """Any float format that can exist, of at most `max_bits` bits, except that flushing is not drawn."""
    exponent_bits = draw(st.integers(1, min(8, max_bits - 2)))
    mantissa_bits = draw(st.integers(0, min(23, max_bits - 1 - exponent_bits)))
    room: list[Specials] = [Specials.NONE]
    if exponent_bits > 1 or mantissa_bits:
        room.append(Specials.NAN_ONLY)
    if exponent_bits > 1 and mantissa_bits:
        room.append(Specials.IEEE)
    is_signed = draw(st.booleans()) if signed is None else signed
    if is_signed:
        room.append(Specials.NAN_FOR_NEGATIVE_ZERO)
    zero = True if is_signed or mantissa_bits else draw(st.booleans())
    specials = draw(st.sampled_from(room))
    # 2**-149 <= 2**(1 - bias - mantissa_bits), and 2**(field - bias) <= 2**127.
    lowest, highest = (1 << exponent_bits) - 1 - 127, 149 + int(zero) - mantissa_bits
    if specials is Specials.IEEE or (specials is Specials.NAN_ONLY and mantissa_bits == 0):
        lowest -= 1
    lowest = max(lowest, -126)
    # Eight bits of exponent and 23 of mantissa reach from end to end of float32 only if a code stands for no number.
    assume(lowest <= highest)
    centre = (1 << (exponent_bits - 1)) - 1
    near = st.integers(max(lowest, centre - 3), max(lowest, min(highest, centre + 3)))
    bias = draw(st.one_of(near, st.integers(lowest, highest)))
    return FloatFormat(exponent_bits, mantissa_bits, bias, specials, signed=is_signed, zero=zero)


def finite_values(format: FloatFormat) -> list[float]:
    """The finite values of all codes, rising, 0 once."""
    values = {value for code in range(1 << format.bits) if isfinite(value := decode(code, format))}
    return sorted(value + 0.0 for value in values)


def neighbourhoods(format: FloatFormat) -> list[float]:
    """Float32 values where a cast can go wrong.

    Every value of `format`, the middle of each two and its float32 neighbours, the same beyond both limits, zeros,
    float32's own limits, Inf and NaN.
    """
    values = finite_values(format)
    beyond = [values[-1] + step * (values[-1] - values[-2]) for step in (1, 2)]
    below = [values[0] - step * (values[1] - values[0]) for step in (2, 1)]
    points: list[float] = []
    for low, high in pairwise([*below, *values, *beyond]):
        middle = np.float32((low + high) / 2)
        points += [low, float(middle), *(float(np.nextafter(middle, np.float32(end))) for end in (-inf, inf))]
    ends = [np.finfo(np.float32).max, np.finfo(np.float32).tiny, np.finfo(np.float32).smallest_subnormal]
    points += [float(beyond[-1]), *(sign * float(end) for end in ends for sign in (1, -1))]
    in_range = [point for point in points if abs(point) <= float(ends[0])]
    return [*in_range, 0.0, -0.0, inf, -inf, nan, -nan]


def random_patterns(format: FloatFormat, count: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """`count` random float32 bit patterns in chunks.

    Half are of any kind, NaN and Inf among them; the others have exponents in the range of `format` or just outside.
    """
    generator = np.random.default_rng(seed)
    lowest = max(format.min_exponent - format.mantissa_bits - 3 + 127, 0)
    highest = min(format.max_exponent + 3 + 127, 255)
    for start in range(0, count, 1 << 20):
        bits = generator.integers(0, 1 << 32, min(1 << 20, count - start), dtype=np.uint32)
        half = bits[: bits.size // 2]
        exponents = generator.integers(lowest, highest + 1, half.size, dtype=np.uint32)
        half[:] = (half & 0x807FFFFF) | (exponents << 23)
        yield bits.view(np.float32)


def same(a: float, b: float) -> bool:
    """Whether two numbers are the same value, -0 being another than 0, and NaN the same as NaN of either sign."""
    return (isnan(a) and isnan(b)) or (a == b and copysign(1, a) == copysign(1, b))


def assert_same(ours: NDArray[Any], theirs: NDArray[Any], inputs: NDArray[Any]) -> None:
    """Assert what `same` says of all elements; the message shows the first that differ."""
    assert ours.shape == theirs.shape
    bits = np.uint32 if ours.dtype == theirs.dtype == np.float32 else np.uint64
    floating = np.float32 if bits is np.uint32 else np.float64
    ours, theirs = ours.astype(floating, copy=False), theirs.astype(floating, copy=False)
    places = np.flatnonzero(ours.view(bits) != theirs.view(bits))
    wrong = places[~(np.isnan(ours[places]) & np.isnan(theirs[places]))]
    rows = [f"{inputs[i]!r}: {ours[i]!r}, oracle {theirs[i]!r}" for i in wrong[:5]]
    assert not wrong.size, f"{wrong.size} of {ours.size} differ, e.g. {'; '.join(rows)}"
