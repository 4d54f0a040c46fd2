"""Block floating point of HBFP (Drumond et al., arXiv 1804.01526), against the formula of its emulator.

``E = ceil(log2(amax)), u = 2**(E - m); q = clip(round(x / u) * u, -(2**E - u), 2**E - u)``: a mantissa of m bits and a
sign beside it. The emulator adds 1e-8 to the largest magnitude, which empties small tensors, and clips a largest
magnitude that is a power of two. Both are left out here; everywhere else the formats agree.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.formats.numerics.reference import dequantize, fake_quantize, quantize
from fewbits.formats.rounding import NoiseKey, Rounding
from fewbits.formats.text import parse

Float32 = NDArray[np.float32]


def emulator(x: Float32, mantissa_bits: int, eps: float = 1e-8) -> Float32:
    """One tile as the emulator has it."""
    exponent = ceil(log2(float(np.abs(x).max()) + eps))
    unit = 2.0 ** (exponent - mantissa_bits)
    ends = 2.0**exponent - unit
    return np.clip(np.rint(x.astype(np.float64) / unit) * unit, -ends, ends).astype(np.float32)


def is_power_of_two(value: float) -> bool:
    return bool(np.frexp(value)[0] == 0.5)


class TestAgreement:
    @pytest.mark.parametrize("mantissa_bits", [3, 7, 11, 15])
    @pytest.mark.parametrize("size", [24, 64])
    def test_tiles_of_weights(self, mantissa_bits: int, size: int) -> None:
        x = np.random.RandomState(0).standard_normal((100, 130)).astype(np.float32)
        found = fake_quantize(x, parse(f"bfp{mantissa_bits + 1}/tile{size}x{size}"))
        for row in range(0, 100, size):
            for column in range(0, 130, size):
                tile = slice(row, row + size), slice(column, column + size)
                np.testing.assert_array_equal(found[tile], emulator(x[tile], mantissa_bits))

    @settings(max_examples=200)
    @given(
        st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=9),
        st.sampled_from([3, 7, 11]),
    )
    def test_any_tile_whose_largest_is_no_power_of_two(self, values: list[float], mantissa_bits: int) -> None:
        x = np.float32(values)
        amax = float(np.abs(x).max())
        if amax > 2.0**-120 and not is_power_of_two(amax):
            found = fake_quantize(x, parse(f"bfp{mantissa_bits + 1}"))
            np.testing.assert_array_equal(found, emulator(x, mantissa_bits, eps=0))

    def test_one_exponent_for_each_input_of_a_batch(self) -> None:
        x = np.random.RandomState(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
        x *= np.float32([1, 100, 1e-3, 1e6]).reshape(4, 1, 1, 1)
        found = fake_quantize(x, parse("bfp8/channel"))
        for one, whole in zip(found, x, strict=True):
            np.testing.assert_array_equal(one, emulator(whole, 7))

    def test_convolutions_tile_their_two_outer_axes(self) -> None:
        # Weights (out, in, height, width): tiles over the last axes once those are in front.
        x = np.random.RandomState(0).standard_normal((30, 50, 3, 3)).astype(np.float32)
        found = fake_quantize(x.transpose(2, 3, 0, 1), parse("bfp8/tile24x24")).transpose(2, 3, 0, 1)
        np.testing.assert_array_equal(found[:24, 24:48, 1, 2], emulator(x[:24, 24:48, 1, 2], 7))


class TestDefectsOfTheEmulator:
    @pytest.mark.parametrize("largest", [1e-11, 1e-20, 1e-37])
    def test_small_tensors_are_not_emptied(self, largest: float) -> None:
        x = np.linspace(-largest, largest, 33, dtype=np.float32)
        assert not emulator(x, 7).any()
        error = np.abs(fake_quantize(x, parse("bfp8/tensor")) - x).max()
        assert error <= largest * 2.0**-7

    def test_subnormal_numbers_keep_their_exponent(self) -> None:
        x = np.float32([2.0**-140, 3 * 2.0**-149, -(2.0**-149), 0])
        np.testing.assert_array_equal(fake_quantize(x, parse("bfp12")), x)

    @pytest.mark.parametrize("largest", [2.0**-30, 0.5, 1.0, 2.0**40])
    def test_a_power_of_two_is_not_clipped(self, largest: float) -> None:
        x = np.float32([largest, -largest, largest / 3])
        assert emulator(x, 7, eps=0)[0] == largest * (1 - 2.0**-7)
        found = fake_quantize(x, parse("bfp8"))
        np.testing.assert_array_equal(found[:2], x[:2])

    def test_the_exponent_is_exact_at_its_edges(self) -> None:
        # log2 in floating point takes the number below a power of two for that power.
        below = np.nextafter(np.float32(2.0**30), np.float32(0))
        assert log2(float(below)) != 30 and np.log2(below) == 30
        assert quantize(np.float32([below]), parse("bfp8")).scale == 2.0 ** (29 - 6)


class TestMantissas:
    @pytest.mark.parametrize("bits", range(2, 17))
    def test_any_width_has_its_error(self, bits: int) -> None:
        x = np.random.RandomState(bits).uniform(-1, 1, 4096).astype(np.float32)
        q = quantize(x, parse(f"bfp{bits}"))
        unit = float(q.scale[0])
        assert unit == 2.0 ** (2 - bits) / 2
        error = np.abs(dequantize(q).astype(np.float64) - x)
        inside = np.abs(x) <= 1 - unit
        assert error[inside].max() <= unit / 2
        assert error.max() <= unit

    def test_stochastic_rounding_is_repeated_by_its_key(self) -> None:
        x = np.random.RandomState(0).standard_normal((48, 48)).astype(np.float32)
        format = parse("bfp8/tile24x24")
        one, again, other = (
            fake_quantize(x, format, rounding=Rounding.STOCHASTIC, key=NoiseKey(0, step)) for step in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()
        assert np.abs(one - x).max() <= quantize(x, format).scale.max()

    def test_wide_storage_and_narrow_products(self) -> None:
        """hbfp8_16: weights are kept with 16 bits, and used with 8."""
        x = np.random.RandomState(0).standard_normal((24, 24)).astype(np.float32)
        wide = fake_quantize(x, parse("bfp16/tile24x24"))
        assert np.abs(wide - x).max() < np.abs(fake_quantize(wide, parse("bfp8/tile24x24")) - x).max() / 100
