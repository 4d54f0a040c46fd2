"""The numpy twin against the readable scalar truth, ml_dtypes, and what a caller may pass."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.floating import BF16, E2M1, E4M3, E4M3_FNUZ, E5M2, E8M0, FP16, FP32, TF32, FloatFormat, Specials
from fewbits.formats.grid import Grid
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat
from fewbits.formats.levels import NF4, BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat
from fewbits.formats.numerics import scalar
from fewbits.formats.numerics.array import check_overflow, decode_array, encode_array, round_array
from fewbits.formats.rounding import Overflow, Rounding
from fewbits.formats.text import parse
from random_formats import NUMBERS, float_formats, numbers, probes

Array = NDArray[Any]
Number = IntFormat | FloatFormat
NEAREST, SATURATE, NONSATURATE = Rounding.NEAREST_EVEN, Overflow.SATURATE, Overflow.NONSATURATE

EDGE_WORDS = np.array([0, 0xFF, 0x100, 0x7FFFFFFF, 0x80000000, 0xFFFFFF00, 0xFFFFFFFF], np.uint32)


def same(one: Array, other: Array) -> bool:
    """Equal bit for bit, but for what a NaN carries beside its sign."""
    return bool(np.array_equal(one, other, equal_nan=True) and np.array_equal(np.signbit(one), np.signbit(other)))


def overflows(grid: Grid) -> list[Overflow]:
    return list(Overflow) if grid.nan or grid.infinity else [SATURATE]


def check_against_scalar(element: Number, seed: int, count: int) -> None:
    grid = element.grid
    for dtype in (np.float32, np.float64):
        values = probes(grid, seed, dtype, count)
        words = np.random.default_rng(seed).integers(0, 1 << 32, values.shape, np.uint32)
        words[: EDGE_WORDS.size] = EDGE_WORDS
        for rounding in Rounding:
            for overflow in overflows(grid):
                found = round_array(values, grid, rounding, overflow, words)
                expected = [
                    scalar.round_value(y, grid, rounding, overflow, word)
                    for y, word in zip(values.tolist(), words.tolist(), strict=True)
                ]
                wanted = np.array(expected, dtype)
                assert found.dtype == dtype
                assert same(found, wanted), (rounding, overflow, differences(values, found, wanted))


def differences(values: Array, found: Array, wanted: Array) -> list[tuple[float, float, float]]:
    """The first few values that were not rounded as wanted, with what was found and wanted."""
    rows = zip(values.tolist(), found.tolist(), wanted.tolist(), strict=True)
    return [row for row in rows if repr(row[1]) != repr(row[2])][:5]


@pytest.mark.parametrize("name", NUMBERS)
def test_rounds_as_the_scalar_truth(name: str) -> None:
    check_against_scalar(NUMBERS[name], seed=1, count=20)


@settings(max_examples=60, deadline=None)
@given(numbers(), st.integers(0, 1 << 32))
def test_rounds_to_any_format_as_the_scalar_truth(element: Number, seed: int) -> None:
    check_against_scalar(element, seed, count=2)


@pytest.mark.parametrize("bias", [-5, 2, 3, 100, 149])
@pytest.mark.parametrize("zero", [True, False])
def test_ties_without_mantissa_bits_go_to_the_even_code(bias: int, zero: bool) -> None:
    format = FloatFormat(4, 0, bias, Specials.NONE, signed=zero, zero=zero)
    levels = decode_array(np.arange(16, dtype=np.uint8), format).astype(np.float64)
    ties = ((levels[:-1] + levels[1:]) / 2).astype(np.float32)
    exact = levels[:-1] + levels[1:] == ties.astype(np.float64) * 2  # half of 2**-149 is no float32
    codes = encode_array(round_array(ties, format.grid, NEAREST, SATURATE), format)
    even = np.arange(15) + np.arange(15) % 2
    assert codes[exact].tolist() == even[exact].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_decides_exactly(dtype: type[Any]) -> None:
    # 1 + j / 2**24 of a step goes up for the j largest of the 2**24 words, and for no other.
    steps = np.array([1, 3, 1 << 10, 1 << 20, (1 << 20) - 1])
    bits = 20 if dtype is np.float32 else 24
    parts = steps % (1 << bits)
    values = (1 + parts / 2.0**bits).astype(dtype)
    first = ((1 << 24) - parts * (1 << (24 - bits))).astype(np.uint64) << np.uint64(8)
    at = first.astype(np.uint32)
    grid = INT8.grid
    up = parts > 0
    assert np.array_equal(round_array(values, grid, Rounding.STOCHASTIC, SATURATE, at), 1.0 + up)
    before = (first - np.uint64(1)).astype(np.uint32)
    assert np.array_equal(round_array(values, grid, Rounding.STOCHASTIC, SATURATE, before), np.ones(5))


def test_noise_is_added_to_the_bits_that_are_dropped() -> None:
    rng = np.random.default_rng(3)
    values = rng.uniform(1, 400, 10_000).astype(np.float32)
    words = rng.integers(0, 1 << 32, values.size, np.uint32)
    dropped = np.uint32(20)
    bits = (values.view(np.uint32) + (words >> np.uint32(12))) >> dropped << dropped
    assert same(round_array(values, E4M3.grid, Rounding.STOCHASTIC, SATURATE, words), bits.view(np.float32))


ORACLES: dict[str, type[Any]] = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e4m3": ml_dtypes.float8_e4m3,
    "fp8_e3m4": ml_dtypes.float8_e3m4,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}
OTHER_SATURATING: dict[str, type[Any]] = {
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", [*ORACLES, *OTHER_SATURATING])
def test_a_million_patterns_against_ml_dtypes(name: str) -> None:
    format = FloatFormat.parse(name)
    bits = np.random.default_rng(11).integers(0, 1 << 32, 1_000_000, np.uint32)
    # Half of them where the format has its values.
    span = np.uint32((format.max_exponent - format.min_exponent + format.mantissa_bits + 4) << 23)
    least = np.uint32(max(format.min_exponent - format.mantissa_bits - 2 + 127, 0) << 23)
    bits[::2] = (bits[::2] & np.uint32(0x80000000)) | (least + (bits[::2] & np.uint32(0x7FFFFFFF)) % span)
    values: NDArray[np.float32] = bits.view(np.float32)
    if format is E8M0:
        # ml_dtypes rounds up what lies between 2**-127 and 2**-126 whatever its distance, and has NaN for zero.
        values = values[np.abs(values) >= 2.0**-126]
    if name in OTHER_SATURATING:
        values = values[~np.isnan(values)]  # these have no NaN
    oracle = {**ORACLES, **OTHER_SATURATING}[name]
    overflow = SATURATE if name in OTHER_SATURATING else NONSATURATE
    rounded = round_array(values, format.grid, NEAREST, overflow)
    with np.errstate(all="ignore"):
        wanted = values.astype(oracle)
    codes = encode_array(rounded, format)
    payload = np.isnan(wanted.astype(np.float32))  # numpy's float16 keeps some of the payload of a NaN
    assert np.array_equal(np.isnan(rounded), payload)
    assert np.array_equal(codes[~payload], wanted.view(codes.dtype)[~payload])
    if name != "fp16":
        assert np.array_equal(codes[payload], wanted.view(codes.dtype)[payload])
    assert same(decode_array(codes, format)[~payload], rounded[~payload])


def test_float64_is_rounded_once() -> None:
    # Just above the midpoint of 1 and 1.125; as float32 it is the midpoint, which goes down to the even 1.
    above = np.array([1.0625 + 2.0**-40, -1.0625 - 2.0**-40, 1.0625])
    twice = round_array(above.astype(np.float32), E4M3.grid, NEAREST, SATURATE)
    assert twice.tolist() == [1, -1, 1]
    assert round_array(above, E4M3.grid, NEAREST, SATURATE).tolist() == [1.125, -1.125, 1]


def test_float64_beyond_float32() -> None:
    values = np.array([1e300, -1e300, 1e-300, -5e-324, 2.0**128 * (1 - 2.0**-25)])
    assert round_array(values, FP32.grid, NEAREST, NONSATURATE).tolist() == [math.inf, -math.inf, 0, -0.0, math.inf]
    assert round_array(values, BF16.grid, NEAREST, SATURATE).tolist() == [BF16.max, -BF16.max, 0, -0.0, BF16.max]
    assert round_array(values, INT8.grid, Rounding.FLOOR, SATURATE).tolist() == [127, -128, 0, -1, 127]


def test_floor_of_the_least_numbers_where_the_step_is_large() -> None:
    grid = FloatFormat(4, 3, -60).grid
    for dtype, least in ((np.float32, 2.0**-149), (np.float64, 5e-324)):
        values: Array = np.array([-least, least, -0.0], dtype)
        rounded = round_array(values, grid, Rounding.FLOOR, SATURATE)
        assert rounded.tolist() == [-grid.smallest_step, 0, 0]


def test_signed_zero() -> None:
    zeros = np.array([-0.0, 0.0, -1e-9], np.float32)
    for element, expected in ((E4M3, [True, False, True]), (E4M3_FNUZ, [False] * 3), (INT8, [False] * 3)):
        assert np.signbit(round_array(zeros, element.grid, NEAREST, SATURATE)).tolist() == expected
    assert encode_array(np.array([-0.0], np.float32), E4M3_FNUZ).tolist() == [0]


def test_overflow() -> None:
    values = np.array([448, 464, 464.1, 1e9, np.inf, -480, -np.inf, np.nan], np.float32)
    assert round_array(values, E4M3.grid, NEAREST, SATURATE).tolist()[:7] == [448, 448, 448, 448, 448, -448, -448]
    beyond = round_array(values, E4M3.grid, NEAREST, NONSATURATE)
    assert encode_array(beyond, E4M3).tolist() == [0x7E, 0x7E, 0x7F, 0x7F, 0x7F, 0xFF, 0xFF, 0x7F]
    assert round_array(values * 1000, E5M2.grid, NEAREST, NONSATURATE).tolist()[4:7] == [math.inf, -math.inf, -math.inf]


def test_overflow_of_what_has_no_sign_or_no_zero() -> None:
    values = np.array([-1, -0.0, 0, 2.0**-149, np.inf], np.float32)
    assert round_array(values, E8M0.grid, NEAREST, SATURATE).tolist() == [2.0**-127] * 4 + [2.0**127]
    rounded = round_array(values, E8M0.grid, NEAREST, NONSATURATE)
    assert encode_array(rounded, E8M0).tolist() == [0xFF, 0, 0, 0, 0xFF]
    unsigned = FloatFormat(4, 3, 7, Specials.IEEE, signed=False)
    assert round_array(values, unsigned.grid, NEAREST, SATURATE).tolist() == [0, 0, 0, 0, 240]
    rounded = round_array(values, unsigned.grid, NEAREST, NONSATURATE)
    assert encode_array(rounded, unsigned).tolist() == [0x7C, 0, 0, 0, 0x78]


@pytest.mark.parametrize("element", [INT8, E2M1])
def test_overflow_that_cannot_be_expressed(element: Number) -> None:
    with pytest.raises(FormatError, match="neither Inf nor NaN: overflow must saturate"):
        round_array(np.zeros(3, np.float32), element.grid, NEAREST, NONSATURATE)
    with pytest.raises(FormatError, match=f"^{element} has neither"):
        check_overflow(element.grid, NONSATURATE, str(element))


def test_limits_of_each_element() -> None:
    values = np.array([[-300, -5, 0.4, 5, 300], [-300, -5, 0.4, 5, 300]], np.float32)
    low, high = np.array([[-3], [-255]], np.float32), np.array([[252], [0]], np.float32)
    rounded = round_array(values, UINT8.grid, NEAREST, SATURATE, low=low, high=high)
    assert rounded.tolist() == [[-3, -3, 0, 5, 252], [-255, -5, 0, 0, 0]]
    only_high = round_array(values, E4M3.grid, NEAREST, NONSATURATE, high=np.float32(4) + np.zeros(5, np.float32))
    assert np.isnan(only_high[:, 3:]).all() and only_high[0, 1] == -5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 5)])
def test_shapes(shape: tuple[int, ...], dtype: type[Any]) -> None:
    values = np.full(shape, 1.3, dtype)
    for element in (E4M3, INT8, BF16, E8M0):
        rounded = round_array(values, element.grid, NEAREST, SATURATE)
        codes = encode_array(rounded, element)
        decoded = decode_array(codes, element)
        for array in (rounded, codes, decoded):
            assert isinstance(array, np.ndarray) and array.shape == shape
        assert rounded.dtype == dtype and decoded.dtype == np.float32
        assert np.array_equal(decoded, rounded)
    for levels in (BinaryFormat(), TernaryFormat(), NF4):
        codes = encode_array(np.ones(shape, dtype), levels)
        assert isinstance(codes, np.ndarray) and codes.shape == shape
        assert np.array_equal(decode_array(codes, levels), np.ones(shape))


def test_memory_layouts() -> None:
    rng = np.random.default_rng(5)
    whole = rng.standard_normal((60, 70, 20)).astype(np.float32)
    words = rng.integers(0, 1 << 32, whole.shape, np.uint32)
    expected = round_array(whole, E4M3.grid, Rounding.STOCHASTIC, SATURATE, words)
    codes = encode_array(expected, E4M3)
    layouts: dict[str, tuple[Array, Any]] = {
        "fortran": (np.asfortranarray(whole), np.s_[:]),
        "transposed": (np.ascontiguousarray(whole.transpose(2, 0, 1)).transpose(1, 2, 0), np.s_[:]),
        "every third": (whole[::3, 1::2], np.s_[::3, 1::2]),
        "backwards": (whole[::-1, :, ::-1], np.s_[::-1, :, ::-1]),
    }
    for view, place in layouts.values():
        assert same(round_array(view, E4M3.grid, Rounding.STOCHASTIC, SATURATE, words[place]), expected[place])
        assert np.array_equal(encode_array(np.asfortranarray(expected[place]), E4M3), codes[place])
        assert same(decode_array(codes[place], E4M3), expected[place])
    repeated = np.broadcast_to(whole[0], (3, 70, 20))
    once = round_array(whole[0], E4M3.grid, NEAREST, SATURATE)
    assert same(round_array(repeated, E4M3.grid, NEAREST, SATURATE), np.broadcast_to(once, repeated.shape))


def test_inputs_are_left_alone() -> None:
    values = probes(E4M3.grid, 1, np.float32)
    words = np.arange(values.size, dtype=np.uint32)
    kept, codes = values.copy(), np.arange(256, dtype=np.uint8)
    for array in (values, words, codes):
        array.flags.writeable = False
    for rounding in Rounding:
        rounded = round_array(values, E4M3.grid, rounding, NONSATURATE, words)
        assert not np.shares_memory(rounded, values)
    encode_array(rounded, E4M3)
    decode_array(codes, E4M3)
    assert np.array_equal(values.view(np.uint32), kept.view(np.uint32))


def test_signals_of_the_processor_stay_inside() -> None:
    values = np.concatenate([probes(E4M3.grid, 1, np.float32), np.array([0x7F800001], np.uint32).view(np.float32)])
    words = np.zeros(values.size, np.uint32)
    with np.errstate(all="raise"):
        for element in (E4M3, BF16, E8M0, FP32, INT8):
            for rounding in Rounding:
                rounded = round_array(values, element.grid, rounding, SATURATE, words)
            if isinstance(element, FloatFormat):
                decode_array(encode_array(rounded, element), element)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.complex64, np.bool_])
def test_other_types_are_refused(dtype: type[Any]) -> None:
    with pytest.raises(DataError, match="float32 or float64"):
        round_array(np.zeros(2, dtype), E4M3.grid, NEAREST, SATURATE)


def test_stochastic_rounding_needs_noise() -> None:
    with pytest.raises(DataError, match="noise"):
        round_array(np.zeros(2, np.float32), E4M3.grid, Rounding.STOCHASTIC, SATURATE)


@settings(max_examples=100, deadline=None)
@given(numbers(max_bits=8))
def test_codes_are_those_of_the_scalar_truth(element: Number) -> None:
    if isinstance(element, IntFormat):
        codes = np.arange(element.qmin, element.qmax + 1).astype(np.int8 if element.signed else np.uint8)
    else:
        codes = np.arange(1 << element.bits).astype(np.uint8)
    values = decode_array(codes, element)
    truth = np.array([scalar.decode(code, element) for code in codes.tolist()], np.float32)
    assert same(values, truth)
    back = encode_array(values, element)
    assert back.dtype == codes.dtype
    assert back.tolist() == [scalar.encode(value, element) for value in values.tolist()]
    assert np.array_equal(encode_array(values.astype(np.float64), element), back)


@settings(max_examples=60, deadline=None)
@given(float_formats(), st.integers(0, 1 << 32))
def test_wide_codes_are_those_of_the_scalar_truth(element: FloatFormat, seed: int) -> None:
    values = round_array(probes(element.grid, seed, np.float32, 2), element.grid, NEAREST, SATURATE)
    values = values if element.has_nan else values[~np.isnan(values)]
    codes = encode_array(values, element)
    assert codes.tolist() == [scalar.encode(value, element) for value in values.tolist()]
    decoded, nan = decode_array(codes, element), np.isnan(values)
    assert same(decoded[~nan], values[~nan]) and np.isnan(decoded[nan]).all()


def test_types_of_codes() -> None:
    types: dict[Any, Any] = {
        element: encode_array(np.ones(2, np.float32), element).dtype for element in NUMBERS.values()
    }
    assert types[parse("int4")] == types[INT8] == types[INT8R] == np.int8
    assert types[UINT8] == types[E4M3] == types[E8M0] == np.uint8
    assert types[FP16] == types[BF16] == np.uint16 and types[parse("int16")] == np.int16
    assert types[FP32] == types[TF32] == np.uint32
    assert encode_array(np.ones(2, np.float32), IntFormat(12, signed=False)).dtype == np.uint16


def test_fp32_codes_are_its_bits() -> None:
    bits = np.random.default_rng(9).integers(0, 1 << 32, 100_000, np.uint32)
    bits[:4] = [0, 0x80000000, 1, 0x807FFFFF]
    values = bits.view(np.float32)
    number = ~np.isnan(values)
    assert np.array_equal(encode_array(values, FP32)[number], bits[number])
    assert np.array_equal(decode_array(bits, FP32).view(np.uint32)[number], bits[number])
    assert encode_array(np.array([np.nan, -np.nan], np.float32), FP32).tolist() == [0x7FC00000, 0xFFC00000]


def test_nan_codes() -> None:
    nan = np.array([np.nan, -np.nan], np.float32)
    expected = {"fp8_e5m2": [0x7E, 0xFE], "fp8_e4m3": [0x7F, 0xFF], "fp8_e4m3fnuz": [0x80] * 2, "e8m0": [0xFF] * 2}
    for name, codes in expected.items():
        assert encode_array(nan, FloatFormat.parse(name)).tolist() == codes
    for name in ("fp8_e5m2", "fp8_e4m3"):
        assert np.signbit(decode_array(np.array(expected[name], np.uint8), FloatFormat.parse(name))).tolist() == [0, 1]


@pytest.mark.parametrize("element", [INT8, E2M1, BinaryFormat(), TernaryFormat(), NF4], ids=str)
def test_nan_without_a_code(element: Any) -> None:
    values = np.ones((3, 4), np.float32)
    values[1, 2] = values[2, 0] = np.nan
    with pytest.raises(DataError, match=r"no NaN, but 2 of 12 values are; the first is at \[1, 2\]"):
        encode_array(values, element)


def test_inf_without_a_code() -> None:
    with pytest.raises(DataError, match="fp8_e4m3 has no Inf, but 1 of 1"):
        encode_array(np.array(np.inf, np.float32), E4M3)


def test_codes_beyond_the_last() -> None:
    for element, code in ((E2M1, 16), (TernaryFormat(), 3), (BinaryFormat(), 2), (NF4, 16), (TF32, 1 << 19)):
        with pytest.raises(DataError, match=f"are 0 to {code - 1}; these are 0 to {code}"):
            decode_array(np.array([0, code], np.uint32), element)


def test_k_means_has_no_levels_of_its_own() -> None:
    with pytest.raises(FormatError, match="fitted"):
        encode_array(np.ones(2, np.float32), KMeansFormat(4))
    with pytest.raises(FormatError, match="fitted"):
        decode_array(np.ones(2, np.uint8), KMeansFormat(4))


def test_binary_and_ternary() -> None:
    assert encode_array(np.array([-1, 1, 0.0, -0.0], np.float32), BinaryFormat()).tolist() == [0, 1, 1, 1]
    assert decode_array(np.array([0, 1], np.uint8), BinaryFormat()).tolist() == [-1, 1]
    assert encode_array(np.array([-1, 0, 1.0], np.float32), TernaryFormat()).tolist() == [0, 1, 2]
    assert decode_array(np.array([0, 1, 2], np.uint8), TernaryFormat()).tolist() == [-1, 0, 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=9, unique=True))
def test_codebooks_take_the_nearest_level(levels: list[float]) -> None:
    format = CodebookFormat(tuple(sorted({level + 0.0 for level in levels} | {7.0, 9.0})))
    table = np.array(format.values)
    middle = (table[:-1] + table[1:]) / 2
    values = np.concatenate([table, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf), [-1e39, 1e39]])

    def nearest(value: float) -> int:
        distances = [abs(Fraction(value) - Fraction(level)) for level in format.values]
        return distances.index(min(distances))  # the first of equals: the lower

    assert encode_array(values, format).tolist() == [nearest(value) for value in values.tolist()]
    codes = np.arange(len(format.values), dtype=np.uint8)
    assert np.array_equal(encode_array(decode_array(codes, format), format), codes)
    assert encode_array(np.array([-np.inf, np.inf, 8.0]), format).tolist() == [0, codes[-1], nearest(8.0)]
