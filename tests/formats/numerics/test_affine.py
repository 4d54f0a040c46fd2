"""The quantiser algebra: laws, extremes, and a brute-force search as the oracle for zero points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from affine_casts import dequantize, fake_quantize, quantize
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat
from fewbits.formats.numerics.affine import Affine, asymmetric, symmetric

FORMATS = [INT8, INT8R, UINT8, *map(IntFormat.parse, ("int4", "uint4", "int2r", "uint16", "int16"))]
LARGEST = float(np.finfo(np.float32).max)

formats = st.sampled_from(FORMATS)
ends = st.floats(-LARGEST, LARGEST, width=32)
ordinary = st.floats(-1e6, 1e6, width=32)


@st.composite
def affines(draw: st.DrawFn, end: st.SearchStrategy[float] = ends) -> Affine:
    """Quantisers of both kinds and of any range."""
    format = draw(formats)
    low, high = sorted((draw(end), draw(end)))
    if draw(st.booleans()):
        return symmetric(np.float32(max(abs(low), abs(high))), format)
    return asymmetric(low, high, format)


def codes(format: IntFormat) -> NDArray[np.int32]:
    return np.arange(format.qmin, format.qmax + 1, dtype=np.int32)


def limits(affine: Affine) -> NDArray[np.float32]:
    """What the lowest code and the highest stand for."""
    return dequantize(np.array([affine.format.qmin, affine.format.qmax], np.int32), affine)


def values(low: float, high: float, count: int = 1001) -> NDArray[np.float32]:
    return np.linspace(low, high, count, dtype=np.float64).astype(np.float32)


class TestLaws:
    @given(affines())
    def test_every_code_comes_back(self, affine: Affine) -> None:
        every = codes(affine.format)
        np.testing.assert_array_equal(quantize(dequantize(every, affine), affine), every)

    @given(affines())
    def test_zero_is_exact(self, affine: Affine) -> None:
        assert fake_quantize(np.zeros(1, np.float32), affine)[0] == 0

    @given(affines())
    def test_every_code_is_finite_and_every_scale_a_normal_number(self, affine: Affine) -> None:
        assert np.isfinite(dequantize(codes(affine.format), affine)).all()
        assert np.isfinite(affine.scale) and affine.scale >= np.finfo(np.float32).tiny

    @given(affines(), st.lists(ends, min_size=1))
    def test_quantising_twice_is_quantising_once(self, affine: Affine, x: list[float]) -> None:
        once = fake_quantize(np.array(x, np.float32), affine)
        np.testing.assert_array_equal(fake_quantize(once, affine), once)

    @given(affines(), st.lists(ends, min_size=2))
    def test_order_is_kept(self, affine: Affine, x: list[float]) -> None:
        rounded = fake_quantize(np.array(sorted(x), np.float32), affine)
        # Compared, not subtracted: differences of the largest numbers overflow.
        assert (rounded[1:] >= rounded[:-1]).all()

    @given(affines(), st.lists(ends, min_size=1))
    def test_codes_stay_in_the_format(self, affine: Affine, x: list[float]) -> None:
        found = quantize(np.array(x, np.float32), affine)
        assert found.min() >= affine.format.qmin and found.max() <= affine.format.qmax

    @given(affines(ordinary))
    def test_between_the_outer_codes_the_error_is_half_a_step(self, affine: Affine) -> None:
        x = values(*limits(affine))
        error = np.abs(fake_quantize(x, affine).astype(np.float64) - x)
        # The quotient itself is rounded to float32.
        assert error.max() <= affine.scale * (0.5 + affine.format.levels * 2.0**-23)

    @given(ordinary, ordinary, formats)
    def test_in_the_whole_range_the_error_is_half_a_step(self, one: float, other: float, format: IntFormat) -> None:
        low, high = sorted((one, other))
        affine = asymmetric(low, high, format)
        x = values(low, high)
        error = np.abs(fake_quantize(x, affine).astype(np.float64) - x)
        assert error.max() <= affine.scale * (0.5 + format.levels * 2.0**-22)

    @given(st.floats(2.0**-100, 2.0**100, width=32), formats)
    def test_a_symmetric_range_ends_at_the_highest_code(self, end: float, format: IntFormat) -> None:
        assert quantize(np.float32([end]), symmetric(np.float32(end), format))[0] == format.qmax

    @given(ordinary, formats)
    def test_a_symmetric_quantiser_mirrors_what_it_does_not_clip(self, x: float, format: IntFormat) -> None:
        affine = symmetric(np.float32(1e6), format)
        pair = fake_quantize(np.float32([x, -x]), affine)
        assert pair[0] == -pair[1]


class TestAsymmetric:
    @given(ordinary, ordinary, st.sampled_from([INT8, INT8R, UINT8, IntFormat.parse("uint4")]))
    def test_no_other_zero_point_fits_both_ends_better(self, one: float, other: float, format: IntFormat) -> None:
        low, high = min(one, other, 0.0), max(one, other, 0.0)
        affine = asymmetric(low, high, format)
        scale = float(affine.scale)
        if high - low < 1e-30:
            return
        miss = [
            max(abs(low - scale * (format.qmin - zero)), abs(high - scale * (format.qmax - zero)))
            for zero in codes(format)
        ]
        assert miss[int(affine.zero_point) - format.qmin] <= min(miss) + scale * format.levels * 2.0**-22

    def test_krishnamoorthis_scale_and_zero_point(self) -> None:
        affine = asymmetric(-1.0, 3.0, UINT8)
        assert affine.scale == np.float32(4 / 255)
        assert affine.zero_point == 64

    @pytest.mark.parametrize(
        ("low", "high", "zero"), [(0.0, 6.0, 0), (2.0, 6.0, 0), (-6.0, 0.0, 255), (-6.0, -2.0, 255)]
    )
    def test_a_range_of_one_sign_is_extended_to_zero(self, low: float, high: float, zero: int) -> None:
        affine = asymmetric(low, high, UINT8)
        assert affine.zero_point == zero
        assert affine.scale == np.float32(6 / 255)

    @pytest.mark.parametrize("format", FORMATS, ids=str)
    @pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-1e-38, 1e-38), (0.0, 1e-45), (-0.0, 0.0)])
    def test_a_range_too_small_for_a_scale_gives_zeros(self, low: float, high: float, format: IntFormat) -> None:
        affine = asymmetric(low, high, IntFormat.parse("uint8") if format.bits < 8 else format)
        assert affine.scale == 1
        np.testing.assert_array_equal(fake_quantize(np.float32([low, high]), affine), [0, 0])

    def test_the_mask_of_attention_stays_finite(self) -> None:
        affine = asymmetric(-LARGEST, 0.0, UINT8)
        masked = fake_quantize(np.float32([-LARGEST, 0.0]), affine)
        assert masked[0] == pytest.approx(-LARGEST, rel=1e-6)
        assert masked[1] == 0

    def test_the_whole_of_float32(self) -> None:
        affine = asymmetric(-LARGEST, LARGEST, UINT8)
        ends = fake_quantize(np.float32([-LARGEST, LARGEST]), affine)
        np.testing.assert_allclose(ends, [-LARGEST, LARGEST], rtol=0.01)

    def test_numpy_and_python_numbers_give_the_same(self) -> None:
        one, other = asymmetric(np.float64(-0.3), np.float64(1.7), UINT8), asymmetric(-0.3, 1.7, UINT8)
        assert one.scale == other.scale and one.zero_point == other.zero_point


class TestSymmetric:
    @pytest.mark.parametrize(("format", "divisor", "zero"), [(INT8R, 127, 0), (INT8, 127, 0), (UINT8, 127, 128)])
    def test_scale_and_zero_point(self, format: IntFormat, divisor: int, zero: int) -> None:
        affine = symmetric(np.float32(2.0), format)
        assert affine.scale == np.float32(2.0) / np.float32(divisor)
        assert affine.zero_point == zero

    @pytest.mark.parametrize("format", FORMATS, ids=str)
    def test_zeros_stay_zeros(self, format: IntFormat) -> None:
        affine = symmetric(np.float32(0.0), format)
        assert affine.scale == 1
        np.testing.assert_array_equal(fake_quantize(np.zeros(3, np.float32), affine), np.zeros(3))

    @pytest.mark.parametrize(("format", "error"), [(INT8R, 1e-6), (INT8, 1 / 127)])
    def test_the_largest_float_stays_finite(self, format: IntFormat, error: float) -> None:
        affine = symmetric(np.float32(LARGEST), format)
        ends = fake_quantize(np.float32([-LARGEST, LARGEST]), affine)
        np.testing.assert_allclose(ends, [-LARGEST, LARGEST], rtol=error)

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_channels_are_quantised_each_for_itself(self, axis: int) -> None:
        x = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)
        x *= (10.0 ** np.arange(4, dtype=np.float32)).reshape([4 if i == axis % 3 else 1 for i in range(3)])
        moved = np.moveaxis(x, axis, 0)
        absmax = np.abs(moved).reshape(4, -1).max(1)
        absmax[2] = 0
        found = np.moveaxis(fake_quantize(x, symmetric(absmax, INT8R, axis)), axis, 0)
        for channel, one, end in zip(found, moved, absmax, strict=True):
            np.testing.assert_array_equal(channel, fake_quantize(one, symmetric(end, INT8R)))

    def test_finer_scales_lose_less(self) -> None:
        x = np.float32([[0.01, -0.02, 0.015], [5.0, -7.0, 3.0]])
        channels = fake_quantize(x, symmetric(np.abs(x).max(1), INT8R, 0))
        tensor = fake_quantize(x, symmetric(np.abs(x).max(), INT8R))
        assert np.abs(channels[0] - x[0]).max() < np.abs(tensor[0] - x[0]).max() / 100


def test_half_a_step_goes_to_the_even_code() -> None:
    affine = Affine(INT8, np.float32(1), np.int32(0))
    np.testing.assert_array_equal(quantize(np.float32([0.5, 1.5, 2.5, -0.5, -1.5]), affine), [0, 2, 2, 0, -2])


def test_what_is_far_outside_is_clipped_in_silence() -> None:
    affine = symmetric(np.float32(1e-35), UINT8)
    np.testing.assert_array_equal(quantize(np.float32([-LARGEST, LARGEST]), affine), [0, 255])
