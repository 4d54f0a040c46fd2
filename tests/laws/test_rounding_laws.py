"""Laws of rounding, over every named format and random ones; numpy's implementation stands for all of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.formats.floating import BF16, E2M1, E4M3, E5M2, FP16, FP32, FloatFormat, Specials
from fewbits.formats.grid import Grid
from fewbits.formats.integer import INT8, IntFormat
from fewbits.formats.levels import NF4, BinaryFormat, TernaryFormat
from fewbits.formats.numerics.array import decode_array, encode_array, round_array
from fewbits.formats.numerics.philox import noise
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from random_formats import NUMBERS, numbers, probes

Array = NDArray[Any]
Number = IntFormat | FloatFormat
NEAREST = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)

examples = settings(max_examples=60, deadline=None)
elements = st.sampled_from(sorted(NUMBERS)).map(NUMBERS.__getitem__) | numbers()
seeds = st.integers(0, 1 << 32)
dtypes = st.sampled_from([np.float32, np.float64])
modes = st.sampled_from(Rounding)


def rounded(values: Array, grid: Grid, rounding: Rounding, seed: int = 0) -> Array:
    words = np.random.default_rng(seed).integers(0, 1 << 32, values.shape, np.uint32)
    return round_array(values, grid, rounding, Overflow.SATURATE, words)


def numbers_of(grid: Grid, seed: int, dtype: type[Any]) -> Array:
    values: Array = probes(grid, seed, dtype)
    return values[~np.isnan(values)]


def within(values: Array, grid: Grid) -> Array:
    """Those of `values` that are rounded by distance alone: inside the limits, and not flushed."""
    values = values[(values >= grid.low) & (values <= grid.high)]
    return values[np.abs(values) >= grid.min_normal] if grid.flush else values


def bits(values: Array) -> Array:
    return values.view(np.uint32 if values.dtype == np.float32 else np.uint64)


@examples
@given(elements, seeds, dtypes, modes)
def test_rounding_twice_changes_nothing(element: Number, seed: int, dtype: type[Any], mode: Rounding) -> None:
    once = rounded(numbers_of(element.grid, seed, dtype), element.grid, mode)
    for second in Rounding:
        assert np.array_equal(bits(rounded(once, element.grid, second, seed=1)), bits(once))


@examples
@given(elements, seeds, dtypes, modes)
def test_results_are_values_of_the_format(element: Number, seed: int, dtype: type[Any], mode: Rounding) -> None:
    result = rounded(numbers_of(element.grid, seed, dtype), element.grid, mode)
    assert np.isfinite(result).all()
    decoded = decode_array(encode_array(result, element), element)
    assert np.array_equal(bits(decoded.astype(dtype)), bits(result))
    if isinstance(element, FloatFormat) and not element.subnormals:
        assert not ((result != 0) & (np.abs(result) < element.min_normal)).any()


@examples
@given(elements, seeds, dtypes, modes)
def test_larger_values_are_not_rounded_lower(element: Number, seed: int, dtype: type[Any], mode: Rounding) -> None:
    values = np.sort(numbers_of(element.grid, seed, dtype))
    # Stochastic rounding is a rounding like the others as long as the noise is the same.
    words = np.full(values.shape, seed & 0xFFFFFFFF, np.uint32)
    result = round_array(values, element.grid, mode, Overflow.SATURATE, words)
    assert (result[1:] >= result[:-1]).all()


@examples
@given(elements, seeds, dtypes, modes)
def test_negated_values_are_rounded_to_negated_results(
    element: Number, seed: int, dtype: type[Any], mode: Rounding
) -> None:
    values = with_both_signs(numbers_of(element.grid, seed, dtype), element.grid)
    if mode is not Rounding.FLOOR:
        assert np.array_equal(rounded(-values, element.grid, mode), -rounded(values, element.grid, mode))


@examples
@given(elements, seeds, dtypes)
def test_the_floor_of_negated_values_is_the_ceiling(element: Number, seed: int, dtype: type[Any]) -> None:
    grid = element.grid
    values = within(with_both_signs(numbers_of(grid, seed, dtype), grid), grid)
    floor, ceiling = rounded(values, grid, Rounding.FLOOR), -rounded(-values, grid, Rounding.FLOOR)
    assert ((floor <= values) & (values <= ceiling)).all()
    assert np.array_equal(floor == ceiling, floor == values)


def with_both_signs(values: Array, grid: Grid) -> Array:
    """Those of `values` whose negative lies within the limits as well; all if the limits are symmetric."""
    return values if grid.low == -grid.high else values[np.abs(values) <= min(-grid.low, grid.high)]


@examples
@given(elements, seeds, dtypes)
def test_errors_are_below_a_step_and_half_a_step_for_the_nearest(element: Number, seed: int, dtype: type[Any]) -> None:
    grid = element.grid
    values = within(numbers_of(grid, seed, dtype), grid)
    steps = [step(value, grid) for value in values.tolist()]
    for mode in Rounding:
        found = rounded(values, grid, mode).tolist()
        for value, result, one in zip(values.tolist(), found, steps, strict=True):
            error = abs(Fraction(result) - Fraction(value))
            assert error <= one / 2 if mode in NEAREST else error < one, (mode, value, result)


def step(value: float, grid: Grid) -> Fraction:
    exponent = max(int(np.frexp(value)[1]) - 1, grid.min_exponent) if value else grid.min_exponent
    return Fraction(2) ** (exponent - grid.mantissa_bits)


@examples
@given(elements, seeds, dtypes)
def test_truncation_and_floor_go_one_way(element: Number, seed: int, dtype: type[Any]) -> None:
    grid = element.grid
    values = numbers_of(grid, seed, dtype)
    values = values[values >= grid.low]
    if grid.zero:
        assert (np.abs(rounded(values, grid, Rounding.TOWARD_ZERO)) <= np.abs(values)).all()
    kept = values if not grid.flush else values[(values >= 0) | (np.abs(values) >= grid.min_normal)]
    assert (rounded(kept, grid, Rounding.FLOOR) <= kept).all()


@examples
@given(numbers(max_bits=8), seeds, dtypes)
def test_every_mode_takes_one_of_the_two_neighbours(element: Number, seed: int, dtype: type[Any]) -> None:
    levels = all_levels(element)
    values = np.clip(numbers_of(element.grid, seed, dtype), levels[0], levels[-1]).astype(dtype)
    lower = levels[np.searchsorted(levels, values, side="right") - 1]
    upper = levels[np.searchsorted(levels, values, side="left")]
    for mode in Rounding:
        result = rounded(values, element.grid, mode, seed)
        assert ((result == lower) | (result == upper)).all(), mode
    exact = lower == upper
    assert np.array_equal(rounded(values[exact], element.grid, Rounding.STOCHASTIC, seed), values[exact])


def all_levels(element: Number) -> Array:
    """Every finite value of `element` that results may have, in rising order, float64."""
    if isinstance(element, IntFormat):
        codes = np.arange(element.qmin, element.qmax + 1).astype(np.int8 if element.signed else np.uint8)
    else:
        codes = np.arange(1 << element.bits).astype(np.uint8)
    values = np.unique(decode_array(codes, element).astype(np.float64))
    values = values[np.isfinite(values)]
    return values[(values == 0) | (np.abs(values) >= element.grid.min_normal)] if element.grid.flush else values


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("mode", Rounding)
def test_nan_stays_nan(mode: Rounding, overflow: Overflow) -> None:
    nan = np.array([np.nan, -np.nan], np.float32)
    for element in NUMBERS.values():
        if overflow is Overflow.SATURATE or element.grid.nan:
            words = np.zeros(2, np.uint32)
            assert np.isnan(round_array(nan, element.grid, mode, overflow, words)).all()


# Two-sided test of a mean at 1e-6: |z| below the normal quantile of 1 - 5e-7. Seeds are fixed.
QUANTILE, SAMPLES = 4.8916, 1 << 20
FRACTIONS = (2.0**-16, 0.01, 0.125, 1 / 3, 0.5, 0.75, 0.99, 1 - 2.0**-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("element", "below"),
    [
        (E4M3, 1.0),
        (E4M3, -208.0),
        (E4M3, 3 * 2.0**-9),  # subnormal
        (E4M3, 0.0),
        (E2M1, -4.0),
        (E5M2, 2.0**-16),
        (BF16, 1.0),
        (FP16, -5 * 2.0**-24),
        (INT8, -7.0),
        (FloatFormat(4, 0, 7, Specials.NONE), 2.0),
    ],
    ids=str,
)
def test_stochastic_rounding_keeps_the_mean(element: Number, below: float, dtype: type[Any]) -> None:
    grid = element.grid
    one = float(step(below, grid))
    for tensor, fraction in enumerate(FRACTIONS):
        value = dtype(below + np.copysign(fraction * one, below))
        share = float((abs(Fraction(float(value))) - abs(Fraction(below))) / Fraction(one))  # dtype rounds it
        words = noise(NoiseKey(seed=20_240_229, step=7, tensor=tensor), SAMPLES)
        values = np.full(SAMPLES, value, dtype)
        result = round_array(values, grid, Rounding.STOCHASTIC, Overflow.SATURATE, words)
        goes_up = result != dtype(below)
        assert np.array_equal(np.unique(result[goes_up]), [dtype(below + np.copysign(one, below))])
        deviation = np.sqrt(share * (1 - share) / SAMPLES)
        assert abs(goes_up.mean() - share) <= QUANTILE * deviation, (fraction, goes_up.mean(), share)


def test_stochastic_rounding_never_moves_what_is_exact() -> None:
    words = np.full(256, 0xFFFFFFFF, np.uint32)
    for element in (E4M3, E5M2, INT8):
        codes = np.arange(256).astype(np.uint8).view(np.int8 if element is INT8 else np.uint8)
        values = decode_array(codes, element)
        values = values[np.isfinite(values)]
        result = round_array(values, element.grid, Rounding.STOCHASTIC, Overflow.SATURATE, words[: values.size])
        assert np.array_equal(bits(result), bits(values))


@examples
@given(numbers(max_bits=8))
def test_every_code_is_the_code_of_its_value(element: Number) -> None:
    check_codes(element)


@pytest.mark.parametrize("name", [name for name, element in NUMBERS.items() if element.bits <= 16])
def test_every_code_of_named_formats_is_the_code_of_its_value(name: str) -> None:
    check_codes(NUMBERS[name])


def check_codes(element: Number) -> None:
    if isinstance(element, IntFormat):
        codes = np.arange(element.qmin, element.qmax + 1)
    else:
        codes = np.arange(1 << element.bits)
    values = decode_array(codes.astype(np.uint16 if codes[0] >= 0 else np.int16), element)
    number = ~np.isnan(values)
    assert np.array_equal(encode_array(values[number], element), codes[number])
    nan_codes = encode_array(values[~number], element)
    assert np.unique(nan_codes).size <= 2 and np.isnan(decode_array(nan_codes, element)).all()
    kept = within(values[np.isfinite(values)], element.grid)
    for mode in Rounding:
        assert np.array_equal(bits(rounded(kept, element.grid, mode)), bits(kept))


@pytest.mark.parametrize("element", [BinaryFormat(), TernaryFormat(), NF4], ids=str)
def test_every_code_of_levels_is_the_code_of_its_value(element: Any) -> None:
    codes = np.arange({1: 2, 2: 3, 4: 16}[element.bits], dtype=np.uint8)
    levels = decode_array(codes, element)
    assert (np.diff(levels) > 0).all()
    assert np.array_equal(encode_array(levels, element), codes)


@examples
@given(elements, seeds)
def test_float32_is_rounded_as_the_same_float64(element: Number, seed: int) -> None:
    values = numbers_of(element.grid, seed, np.float32)
    for mode in Rounding:
        narrow, wide = rounded(values, element.grid, mode), rounded(values.astype(np.float64), element.grid, mode)
        assert np.array_equal(bits(narrow.astype(np.float64)), bits(wide))


def test_fp32_is_float32_itself() -> None:
    patterns = np.random.default_rng(2).integers(0, 1 << 32, 100_000, np.uint32).view(np.float32)
    values = patterns[np.isfinite(patterns)]
    for mode in Rounding:
        assert np.array_equal(bits(rounded(values, FP32.grid, mode)), bits(values))
