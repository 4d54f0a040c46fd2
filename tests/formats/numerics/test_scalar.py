"""One number at a time: rounding against its definition by enumeration, overflow case by case, codes and back."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import copysign, frexp, inf, isfinite, isnan, nan, nextafter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fewbits.errors import DataError, FormatError
from fewbits.formats.floating import BF16, E2M1, E4M3, E4M3_FNUZ, E5M2, E8M0, FP16, FP32, FloatFormat
from fewbits.formats.grid import Grid
from fewbits.formats.integer import INT8, UINT8, IntFormat
from fewbits.formats.numerics.scalar import decode, encode, round_value
from fewbits.formats.rounding import Overflow, Rounding
from oracles import SMALL, finite_values, float_formats, same

NEAREST = Rounding.NEAREST_EVEN
SATURATE, NONSATURATE = Overflow.SATURATE, Overflow.NONSATURATE
DETERMINISTIC = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
SMALL_FORMATS = [FloatFormat.parse(text) for text in SMALL]

words = st.integers(0, (1 << 32) - 1)
int_formats = st.builds(
    lambda bits, kind, fraction: IntFormat(bits, kind != "unsigned", kind == "restricted", fraction),
    st.integers(2, 16),
    st.sampled_from(["unsigned", "full", "restricted"]),
    st.integers(0, 20),
)


def floats_near(low: float, high: float) -> st.SearchStrategy[float]:
    """Float64 numbers: of the range and around it, multiples of quarter steps among them, and of any size."""
    return st.one_of(
        st.floats(2 * low, 2 * high, allow_nan=False),
        st.integers(-64, 64).map(lambda quarters: quarters * high / 128),
        st.floats(allow_nan=False, allow_infinity=False),
    )


# Rounding to the values that there are


@given(float_formats(8, signed=True), st.data(), st.sampled_from(DETERMINISTIC))
def test_rounding_takes_the_neighbour_that_its_mode_defines(
    format: FloatFormat, data: st.DataObject, rounding: Rounding
) -> None:
    magnitudes = [value for value in finite_values(format) if value >= 0]
    code_of = {value: code for code, value in enumerate(magnitudes)}
    low, high = data.draw(st.sampled_from(list(pairwise(magnitudes))))
    middle = (low + high) / 2
    exact = st.sampled_from([low, high, middle, nextafter(middle, -inf), nextafter(middle, inf)])
    y = data.draw(st.one_of(exact, st.floats(low, high)))
    down, up = Fraction(y) - Fraction(low), Fraction(high) - Fraction(y)
    negative = data.draw(st.booleans())
    match rounding:
        case Rounding.NEAREST_EVEN:
            expected = min((down, code_of[low] % 2, low), (up, code_of[high] % 2, high))[2]
        case Rounding.NEAREST_AWAY:
            expected = high if up <= down else low
        case Rounding.TOWARD_ZERO:
            expected = low if up else high
        case _:
            expected = high if up == 0 or (negative and down > 0) else low
    result = round_value(-y if negative else y, format.grid, rounding, SATURATE)
    assert abs(result) == expected
    assert same(result, -expected if negative and (expected or format.grid.negative_zero) else expected)


@given(int_formats, st.data(), st.sampled_from(DETERMINISTIC))
def test_integers_round_as_numpy_does(format: IntFormat, data: st.DataObject, rounding: Rounding) -> None:
    y = data.draw(floats_near(format.grid.low, format.grid.high))
    assume(abs(y) < 2.0**900)
    scaled = np.float64(y) * 2.0**format.fraction
    expected = {
        Rounding.NEAREST_EVEN: np.rint(scaled),
        Rounding.NEAREST_AWAY: np.copysign(np.floor(abs(scaled)) + (abs(scaled) % 1 >= 0.5), scaled),
        Rounding.TOWARD_ZERO: np.trunc(scaled),
        Rounding.FLOOR: np.floor(scaled),
    }[rounding]
    clipped = float(np.clip(expected, format.qmin, format.qmax)) * 2.0**-format.fraction
    assert same(round_value(y, format.grid, rounding, SATURATE), clipped + 0.0)


@given(st.floats(width=32, allow_nan=False))
def test_float32_is_its_own_rounding(y: float) -> None:
    for rounding in Rounding:
        assert same(round_value(y, FP32.grid, rounding, NONSATURATE, noise=0xFFFFFFFF), y)


@given(st.floats(allow_nan=False))
def test_float64_is_rounded_once_as_numpy_does(y: float) -> None:
    with np.errstate(over="ignore", under="ignore"):
        assert same(round_value(y, FP32.grid, NEAREST, NONSATURATE), float(np.float64(y).astype(np.float32)))
        assert same(round_value(y, FP16.grid, NEAREST, NONSATURATE), float(np.float64(y).astype(np.float16)))


def test_without_mantissa_bits_a_tie_goes_to_the_even_exponent_field() -> None:
    assert [round_value(1.5 * 2.0**k, E8M0.grid, NEAREST, SATURATE) for k in (-127, -126, 0, 1, 2)] == [
        2.0**-127,
        2.0**-125,
        2.0,
        2.0,
        8.0,
    ]
    shifted = FloatFormat.parse("e5m0b16f")  # 1 has field 16, an even one
    assert [round_value(y, shifted.grid, NEAREST, SATURATE) for y in (0.75, 1.5, 3.0)] == [1.0, 1.0, 4.0]
    assert round_value(2.0**-16, shifted.grid, NEAREST, SATURATE) == 0


# Laws


@given(float_formats(16), st.data(), st.sampled_from(list(Rounding)), words)
def test_rounding_is_idempotent(format: FloatFormat, data: st.DataObject, rounding: Rounding, noise: int) -> None:
    y = data.draw(floats_near(-format.max, format.max))
    once = round_value(y, format.grid, rounding, SATURATE, noise)
    assert all(same(round_value(once, format.grid, again, SATURATE, 0xFFFFFFFF), once) for again in Rounding)
    assert same(decode(encode(once, format), format), once)


@given(float_formats(16), st.data(), st.sampled_from(list(Rounding)), words)
def test_rounding_is_monotone(format: FloatFormat, data: st.DataObject, rounding: Rounding, noise: int) -> None:
    near = floats_near(-format.max, format.max)
    low, high = sorted((data.draw(near), data.draw(near)))
    if rounding is Rounding.STOCHASTIC:
        assume(low >= 0)  # one word of noise moves magnitudes, so that it orders each sign on its own
    below, above = (round_value(y, format.grid, rounding, SATURATE, noise) for y in (low, high))
    assert below <= above


@given(float_formats(16, signed=True), st.data(), words)
def test_rounding_mirrors(format: FloatFormat, data: st.DataObject, noise: int) -> None:
    y = data.draw(floats_near(-format.max, format.max))
    for rounding in (mode for mode in Rounding if mode is not Rounding.FLOOR):
        result, mirrored = (round_value(v, format.grid, rounding, SATURATE, noise) for v in (y, -y))
        assert mirrored == -result


@given(float_formats(16, signed=True), st.data())
def test_error_is_half_a_step_at_most_to_nearest_and_below_one_otherwise(
    format: FloatFormat, data: st.DataObject
) -> None:
    y = data.draw(st.floats(-format.max, format.max))
    step = Fraction(2) ** (max(frexp(y)[1] - 1, format.min_exponent) - format.mantissa_bits)
    for rounding in Rounding:
        error = abs(Fraction(round_value(y, format.grid, rounding, SATURATE, 0x9E3779B9)) - Fraction(y))
        nearest = rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
        assert error <= step / 2 if nearest else error < step


# Stochastic rounding


@given(st.integers(1, (1 << 20) - 1), st.integers(0x38800000, 0x47000000), words)
def test_stochastic_rounding_adds_noise_below_the_last_bit_and_truncates(mantissa: int, base: int, noise: int) -> None:
    pattern = np.uint32((base & 0x7F800000) | mantissa)  # a float32 that is a normal number of E5M2
    dropped = 23 - E5M2.mantissa_bits
    added = (int(pattern) + (noise >> (32 - dropped))) >> dropped << dropped
    result = round_value(float(pattern.view(np.float32)), E5M2.grid, Rounding.STOCHASTIC, SATURATE, noise)
    assert result == float(np.uint32(added).view(np.float32))


@given(st.sampled_from(SMALL_FORMATS), st.data(), st.integers(0, 1 << 24))
def test_a_fraction_of_all_noise_words_moves_up(format: FloatFormat, data: st.DataObject, share: int) -> None:
    values = [value for value in finite_values(format) if value >= 0]
    low, high = data.draw(st.sampled_from(list(pairwise(values))))
    y = low + (high - low) * share / 2.0**24  # exact in float64
    least = (1 << 24) - share  # the least 24-bit word that moves y up
    for word in {max(least - 1, 0), min(least, (1 << 24) - 1)}:
        for rest in (0, 255):
            result = round_value(y, format.grid, Rounding.STOCHASTIC, SATURATE, (word << 8) | rest)
            assert result == (high if word >= least or y == high else low)


def test_noise_has_24_bits_that_count() -> None:
    grid, step = E4M3.grid, E4M3.min_positive
    assert round_value(2.0**-24 * step, grid, Rounding.STOCHASTIC, SATURATE, 0xFFFFFF00) == step
    assert round_value(2.0**-25 * step, grid, Rounding.STOCHASTIC, SATURATE, 0xFFFFFFFF) == 0


def test_stochastic_rounding_keeps_the_mean_of_subnormals_too() -> None:
    y = 0.3125 * E4M3.min_positive
    noise = range(0, 1 << 32, 1 << 24)  # every 8-bit prefix once: y is a multiple of 2**-8 of the step
    results = [round_value(y, E4M3.grid, Rounding.STOCHASTIC, SATURATE, word) for word in noise]
    assert sum(results) / len(results) == y
    assert set(results) == {0.0, E4M3.min_positive}


# Flushing, zeros, NaN


def test_flushing_comes_after_rounding() -> None:
    flushing = replace(E4M3, subnormals=False).grid
    least = E4M3.min_normal
    assert round_value(nextafter(least, 0), flushing, NEAREST, SATURATE) == least
    assert round_value(0.9 * least, flushing, NEAREST, SATURATE) == 0
    assert same(round_value(-0.9 * least, flushing, NEAREST, SATURATE), -0.0)
    assert round_value(0.9 * least, E4M3.grid, NEAREST, SATURATE) == 0.875 * least


@pytest.mark.parametrize("y", [-0.0, -1e-45])
def test_zero_keeps_its_sign_where_there_is_a_negative_zero(y: float) -> None:
    for format in (E4M3, E5M2, E2M1, BF16):
        assert same(round_value(y, format.grid, NEAREST, SATURATE), -0.0)
    for other in (E4M3_FNUZ, INT8, UINT8, FloatFormat.parse("ue4m3fn")):
        assert same(round_value(y, other.grid, NEAREST, SATURATE), 0.0)


@pytest.mark.parametrize("overflow", list(Overflow))
@pytest.mark.parametrize("rounding", list(Rounding))
def test_nan_stays_nan_whatever_the_format(rounding: Rounding, overflow: Overflow) -> None:
    for grid in (E4M3.grid, E5M2.grid, E8M0.grid):
        assert isnan(round_value(nan, grid, rounding, overflow))
    assert isnan(round_value(nan, INT8.grid, rounding, SATURATE))


# Overflow


@pytest.mark.parametrize(
    ("text", "y", "saturated", "otherwise"),
    [
        # OCP FP8 v1.0, section 5.2: rounded first, then compared
        ("fp8_e4m3", 464.0, 448.0, 448.0),  # a tie with 480, to the even 448
        ("fp8_e4m3", nextafter(464, inf), 448.0, nan),
        ("fp8_e4m3", -465.0, -448.0, nan),
        ("fp8_e4m3", inf, 448.0, nan),
        ("fp8_e5m2", nextafter(61440, 0), 57344.0, 57344.0),
        ("fp8_e5m2", 61440.0, 57344.0, inf),  # a tie with 65536, which is even
        ("fp8_e5m2", -1e300, -57344.0, -inf),
        ("fp8_e5m2", -inf, -57344.0, -inf),
        ("fp8_e4m3fnuz", 248.0, 240.0, nan),
        ("fp16", 65520.0, 65504.0, inf),
        ("bf16", 3.4e38, BF16.max, inf),
        # unsigned: a negative number lies below the lowest, once it is rounded
        ("ue4m3fn", -1.0, 0.0, nan),
        ("ue4m3fn", -1e-9, 0.0, 0.0),
        ("ue4m3fn", -inf, 0.0, nan),
        ("ue5m2", -1.0, 0.0, nan),
        ("ue5m2", -inf, 0.0, nan),
        ("ue5m2", inf, 57344.0, inf),
        # no zero: what is too small takes the least value, negative numbers have none
        ("e8m0", 0.0, 2.0**-127, 2.0**-127),
        ("e8m0", -0.0, 2.0**-127, 2.0**-127),
        ("e8m0", 2.0**-149, 2.0**-127, 2.0**-127),
        ("e8m0", -1.0, 2.0**-127, nan),
        ("e8m0", -(2.0**-149), 2.0**-127, nan),
        ("e8m0", -inf, 2.0**-127, nan),
        ("e8m0", 3e38, 2.0**127, nan),
        ("e8m0", inf, 2.0**127, nan),
    ],
)
def test_overflow(text: str, y: float, saturated: float, otherwise: float) -> None:
    grid = FloatFormat.parse(text).grid
    assert same(round_value(y, grid, NEAREST, SATURATE), saturated)
    assert same(round_value(y, grid, NEAREST, NONSATURATE), otherwise)


@pytest.mark.parametrize(("rounding", "expected"), [(Rounding.TOWARD_ZERO, 448.0), (Rounding.NEAREST_AWAY, nan)])
def test_overflow_is_judged_after_rounding_in_every_mode(rounding: Rounding, expected: float) -> None:
    assert same(round_value(479.0, E4M3.grid, rounding, NONSATURATE), expected)
    assert isnan(round_value(480.0, E4M3.grid, rounding, NONSATURATE))


def test_nan_of_an_overflow_has_the_sign_of_the_number() -> None:
    assert [copysign(1, round_value(y, E4M3.grid, NEAREST, NONSATURATE)) for y in (1e9, -1e9)] == [1, -1]


@pytest.mark.parametrize("grid", [INT8.grid, UINT8.grid, E2M1.grid, FloatFormat.parse("fp6_e3m2").grid])
@pytest.mark.parametrize("y", [0.0, 1e9, nan])
def test_without_inf_and_nan_overflow_must_saturate_whatever_is_rounded(grid: Grid, y: float) -> None:
    with pytest.raises(FormatError, match="neither Inf nor NaN: overflow must saturate"):
        round_value(y, grid, NEAREST, NONSATURATE)


@pytest.mark.parametrize(("format", "low", "high"), [(INT8, -128, 127), (UINT8, 0, 255), (IntFormat(2, True), -2, 1)])
def test_integers_saturate(format: IntFormat, low: float, high: float) -> None:
    for y in (1e300, inf):
        assert round_value(y, format.grid, NEAREST, SATURATE) == high
        assert round_value(-y, format.grid, NEAREST, SATURATE) == low


# Codes


@pytest.mark.parametrize("text", [*SMALL, "ue4m3fn", "ue5m2", "e4m3fnftz"])
def test_every_code_comes_back(text: str) -> None:
    format = FloatFormat.parse(text)
    codes = range(1 << format.bits)
    back = [encode(decode(code, format), format) for code in codes]
    numbers = [code for code in codes if not isnan(decode(code, format))]
    assert [back[code] for code in numbers] == numbers
    nans = [code for code in codes if isnan(decode(code, format))]
    assert {back[code] for code in nans} <= set(nans)
    assert len({back[code] for code in nans}) == min(len(nans), 1 + format.grid.negative_zero)


@given(float_formats(16), st.data())
def test_codes_of_any_format_come_back_and_rise(format: FloatFormat, data: st.DataObject) -> None:
    code = data.draw(st.integers(0, (1 << format.bits) - 1))
    value = decode(code, format)
    assert isnan(value) or encode(value, format) == code
    largest = encode(format.max, format)
    if 0 < code <= largest:
        assert decode(code - 1, format) < value


@given(int_formats)
def test_codes_of_integers_come_back(format: IntFormat) -> None:
    for code in {format.qmin, format.qmin + 1, -1, 0, 1, format.qmax - 1, format.qmax} & {
        *range(format.qmin, format.qmax + 1)
    }:
        assert decode(code, format) == code / 2**format.fraction
        assert encode(decode(code, format), format) == code
    assert encode(-0.0, format) == 0


@pytest.mark.parametrize(
    ("text", "positive", "negative"),
    [
        ("fp8_e5m2", 0x7E, 0xFE),
        ("fp8_e4m3", 0x7F, 0xFF),
        ("fp8_e4m3fnuz", 0x80, 0x80),
        ("fp8_e5m2fnuz", 0x80, 0x80),
        ("fp8_e3m4", 0x78, 0xF8),
        ("e8m0", 0xFF, 0xFF),
        ("ue5m2", 0x7E, 0x7E),
        ("bf16", 0x7FC0, 0xFFC0),
        ("fp16", 0x7E00, 0xFE00),
        ("fp32", 0x7FC00000, 0xFFC00000),
    ],
)
def test_nan_has_one_code_per_sign(text: str, positive: int, negative: int) -> None:
    format = FloatFormat.parse(text)
    assert (encode(nan, format), encode(-nan, format)) == (positive, negative)
    assert isnan(decode(positive, format)) and isnan(decode(negative, format))


@pytest.mark.parametrize("format", [FP32, FP16])
@given(st.data())
def test_codes_of_float32_and_float16_are_numpys_bit_patterns(format: FloatFormat, data: st.DataObject) -> None:
    y = data.draw(st.floats(width=32 if format is FP32 else 16, allow_nan=False))
    pattern = np.float32(y).view(np.uint32) if format is FP32 else np.float16(y).view(np.uint16)
    assert encode(y, format) == pattern
    assert same(decode(int(pattern), format), y)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("fp8_e4m3", 1.03125),  # between two values
        ("fp8_e4m3", 480.0),
        ("fp8_e4m3", inf),
        ("fp8_e4m3", 2.0**-10),
        ("fp4_e2m1", nan),
        ("fp4_e2m1", -inf),
        ("ue4m3fn", -1.0),
        ("ue5m2", -inf),
        ("e8m0", 0.0),
        ("e8m0", 2.0**-128),
        ("e8m0", -1.0),
    ],
)
def test_what_is_no_value_has_no_code(text: str, value: float) -> None:
    with pytest.raises(DataError, match=f"is not a value of {text}: round it"):
        encode(value, FloatFormat.parse(text))


@pytest.mark.parametrize("value", [0.5, 128.0, -129.0, inf, nan])
def test_what_is_no_integer_of_the_format_has_no_code(value: float) -> None:
    with pytest.raises(DataError, match="is not a value of int8: round it"):
        encode(value, INT8)


@pytest.mark.parametrize(
    ("format", "code", "codes"),
    [
        (E2M1, 16, "0 to 15"),
        (E4M3, -1, "0 to 255"),
        (INT8, 128, "-128 to 127"),
        (IntFormat(8, True, True), -128, "-127 to 127"),
    ],
)
def test_a_code_beyond_the_last_is_refused(format: FloatFormat | IntFormat, code: int, codes: str) -> None:
    with pytest.raises(DataError, match=f"codes of {format} are {codes}, not {code}"):
        decode(code, format)


@given(float_formats(16), st.data())
def test_a_rounded_number_has_a_code(format: FloatFormat, data: st.DataObject) -> None:
    y = data.draw(st.one_of(floats_near(-format.max, format.max), st.sampled_from([inf, -inf])))
    for overflow in Overflow if format.has_nan else (SATURATE,):
        result = round_value(y, format.grid, NEAREST, overflow)
        assert same(decode(encode(result, format), format), result)
        assert overflow is NONSATURATE or isfinite(result)


def test_values_rise_in_steps_of_one_code() -> None:
    for format in SMALL_FORMATS:
        values = [value for value in finite_values(format) if value >= 0]
        assert [encode(value, format) for value in values] == list(range(len(values)))
