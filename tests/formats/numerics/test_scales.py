"""Scales of arrays: a loop over tiles in exact arithmetic is the oracle; laws of limits; a user's scales."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from math import inf, nan

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.floating import E2M1, E4M3, FloatFormat
from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics import affine
from fewbits.formats.numerics.array import decode_array
from fewbits.formats.numerics.scales import (
    check_scales,
    finite_range,
    limits,
    per_element,
    scales_of,
    scales_of_amax,
    scales_of_range,
)
from fewbits.formats.scaled import PowerOfTwoScale, ScaledFormat, ScaleRule
from fewbits.formats.text import parse

LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)

magnitudes = st.floats(2.0**-149, LARGEST, width=32)
GRANULARITIES = (
    "tensor",
    "channel",
    "channel@-1",
    "token",
    "g2",
    "g3",
    "g32",
    "g2@0",
    "tile2x3",
    "tile24x24",
    "tile1x4",
)
SHAPES: tuple[Shape, ...] = ((5, 7), (4, 6), (2, 3, 4, 5), (1, 9), (9, 1), (3, 1, 8))
POWERS = ("bfp8", "bfp8-ceil", "bfp8-rceil", "bfp8-even", "fp8_e4m3/tensor/pow2-rceil", "fp8_e5m2/tensor/pow2-even")


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def places(shape: Shape, tile: Shape) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every tile: its place among the tiles, and where its elements are."""
    for place in itertools.product(*map(range, tiles(shape, tile))):
        yield place, tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, tile, strict=True))


def wild(shape: Shape, seed: int = 0) -> NDArray[np.float32]:
    """Every kind of magnitude, and both signs."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-40, 40, shape)).astype(np.float32)


def floor_log2(value: Fraction) -> int:
    k = value.numerator.bit_length() - value.denominator.bit_length()
    return k if Fraction(2) ** k <= value else k - 1


class TestTiles:
    @pytest.mark.parametrize("granularity", GRANULARITIES)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_every_tile_has_the_range_of_its_elements(self, granularity: str, shape: Shape) -> None:
        tile = scaled(f"int8/{granularity}").granularity.tile(shape)
        x = wild(shape)
        low, high = finite_range(x, tile)
        assert low.shape == high.shape == tiles(shape, tile)
        for place, where in places(shape, tile):
            assert (low[place], high[place]) == (x[where].min(), x[where].max())

    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_the_layout_in_memory_makes_no_difference(self, granularity: str) -> None:
        x = wild((6, 5, 8))
        layouts = (np.asfortranarray(x), x.transpose(2, 0, 1).copy().transpose(1, 2, 0), np.repeat(x, 2, 1)[:, ::2])
        format = scaled(f"int8/{granularity}")
        for other in (*layouts, x[::-1, :, ::-1].copy()[::-1, :, ::-1]):
            np.testing.assert_array_equal(other, x)
            np.testing.assert_array_equal(scales_of(other, format).scale, scales_of(x, format).scale)

    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_each_element_meets_the_scale_of_its_tile(self, granularity: str) -> None:
        shape = (5, 7)
        tile = scaled(f"int8/{granularity}").granularity.tile(shape)
        values = np.arange(np.prod(tiles(shape, tile)), dtype=np.float32).reshape(tiles(shape, tile))
        spread = per_element(values, tile, shape)
        assert spread.shape == shape
        for place, where in places(shape, tile):
            assert (spread[where] == values[place]).all()

    @pytest.mark.parametrize("granularity", ["tensor", "channel", "token", "g32", "g32@0", "tile24x24"])
    def test_finding_ranges_takes_little_memory(self, granularity: str) -> None:
        x = np.ones((520, 1024), np.float32).T
        tile = scaled(f"int8/{granularity}").granularity.tile(x.shape)
        finite_range(x, tile)
        tracemalloc.start()
        finite_range(x, tile)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes / 5

    def test_an_array_without_axes_has_one_scale(self) -> None:
        found = scales_of(np.array(-254, np.float32), scaled("int8/tensor"))
        assert found.scale.shape == found.zero_point.shape == found.tensor_scale.shape == ()
        assert found.scale == 2

    @pytest.mark.parametrize("text", ["int8/tensor", "uint8/channel", "mxfp4", "nvfp4", "binary/g4", "ternary/g4"])
    @pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
    def test_an_empty_array_has_no_scales(self, text: str, shape: Shape) -> None:
        found = scales_of(np.zeros(shape, np.float32), scaled(text))
        assert found.scale.size == found.zero_point.size == 0
        assert found.tensor_scale == 1

    def test_a_granularity_that_the_array_does_not_have_is_refused(self) -> None:
        with pytest.raises(FormatError, match="needs axis 0"):
            scales_of(np.array(1, np.float32), scaled("int8/channel"))


class TestNumbersLeftOut:
    @pytest.mark.parametrize(
        "text", ["int8/g4", "uint8/g4", "fp8_e4m3/g4", "mxfp4/g4", "nvfp4/g4", "nf4/g4", "binary/g4"]
    )
    def test_infinite_values_and_nan_leave_the_scale_to_the_others(self, text: str) -> None:
        format = scaled(text)
        x = np.float32([[1, -3, 0, 2], [5, 0, -1, 0], [0, -2, 0, 0]])
        spoilt = x.copy()
        spoilt[x == 0] = [nan, inf, -inf, nan, inf, -inf]
        if text.startswith("binary"):
            np.testing.assert_array_equal(scales_of(spoilt, format).scale, [[2], [3], [2]])
        else:
            found, plain = scales_of(spoilt, format), scales_of(x, format)
            np.testing.assert_array_equal(found.scale, plain.scale)
            np.testing.assert_array_equal(found.zero_point, plain.zero_point)
            assert found.tensor_scale == plain.tensor_scale

    @pytest.mark.parametrize(
        "text", ["int8/g2", "uint8/g2", "fp8_e4m3/g2", "mxfp4/g2", "bfp8/g2", "nvfp4/g2", "nf4/g2"]
    )
    @pytest.mark.parametrize("nothing", [[0.0, -0.0], [nan, nan], [inf, -inf], [0.0, nan]], ids=str)
    def test_a_tile_without_numbers_has_scale_one(self, text: str, nothing: list[float]) -> None:
        found = scales_of(np.float32([[3.0, -1.0], nothing]), scaled(text))
        assert found.scale[1] == 1
        assert found.scale[0] != 1 or found.tensor_scale != 1


class TestRealScales:
    @given(st.lists(magnitudes, min_size=1), st.sampled_from(["int8", "int8r", "int4", "uint8", "int16", "int2r"]))
    def test_symmetric_integers_are_those_of_affine(self, amax: list[float], element: str) -> None:
        x = np.float32(amax)[:, None]
        format = scaled(f"{element}/channel/sym")
        found, wanted = scales_of(x, format), affine.symmetric(x, format.element)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.scale, wanted.scale)
        np.testing.assert_array_equal(found.zero_point, wanted.zero_point)

    @given(st.lists(st.tuples(*[st.floats(-LARGEST, LARGEST, width=32)] * 2), min_size=1))
    def test_asymmetric_integers_are_those_of_affine(self, ranges: list[tuple[float, float]]) -> None:
        x = np.float32(ranges)
        for element in ("uint8", "int8", "int4"):
            found = scales_of(x, scaled(f"{element}/channel/asym"))
            for row, scale, zero in zip(x, found.scale[:, 0], found.zero_point[:, 0], strict=True):
                wanted = affine.asymmetric(float(row.min()), float(row.max()), IntFormat.parse(element))
                assert (scale, zero) == (wanted.scale, wanted.zero_point)

    @pytest.mark.parametrize(
        ("text", "factor"), [("int8f6/tensor", 64), ("uint8f3/tensor", 8), ("uint8f3/tensor/sym", 8)]
    )
    def test_bits_behind_the_point_only_move_the_scale(self, text: str, factor: int) -> None:
        x = np.float32([-1.5, 0.3, 2.9])
        moved, plain = scales_of(x, scaled(text)), scales_of(x, scaled(text.replace("f6", "").replace("f3", "")))
        assert moved.scale == plain.scale * factor
        assert moved.zero_point == plain.zero_point

    @given(magnitudes, st.sampled_from(["fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp4_e2m1", "nf4"]))
    def test_the_largest_magnitude_becomes_the_largest_element(self, amax: float, element: str) -> None:
        format = scaled(f"{element}/tensor")
        largest = format.element.max  # type: ignore[union-attr]
        scale = scales_of(np.float32([amax / 2, -amax]), format).scale[0]
        if np.float32(amax) / np.float32(largest) < TINY:
            assert scale == 1
        else:
            assert scale == np.float32(amax) / np.float32(largest) or amax > LARGEST * 0.999999
            assert abs(amax - scale * largest) <= amax * 2.0**-22
            assert np.isfinite(scale * np.float32(largest))

    def test_binary_scale_is_the_mean_magnitude(self) -> None:
        found = scales_of(np.float32([[1, -2, 3], [0, 0, 0]]), scaled("binary/channel"))
        np.testing.assert_array_equal(found.scale, np.float32([[2], [np.finfo(np.float32).tiny]]))

    def test_kmeans_has_its_values_in_its_table(self) -> None:
        found = scales_of(wild((4, 8)), scaled("kmeans2/channel"))
        np.testing.assert_array_equal(found.scale, np.ones((4, 1)))

    @pytest.mark.parametrize("text", ["int8/tensor", "uint8/tensor", "fp8_e4m3/tensor", "bfp8", "mxfp4", "nvfp4"])
    def test_float64_beyond_float32_has_the_largest_scales_there_are(self, text: str) -> None:
        huge, largest = (scales_of(np.array([-v, v]), scaled(text)) for v in (1e300, LARGEST))
        assert np.isfinite(huge.scale).all()
        assert huge.scale == largest.scale
        tiny = scales_of(np.array([1e-300]), scaled(text))
        assert tiny.scale == 1

    def test_float64_is_rounded_once(self) -> None:
        x = np.array([1 + 2.0**-24 + 2.0**-40])
        assert scales_of(x, scaled("int8/tensor")).scale == np.float32(1 + 2.0**-23) / np.float32(127)

    def test_half_precision_is_exact(self) -> None:
        x = wild((8, 40)).clip(-6e4, 6e4).astype(np.float16)
        for text in ("int8/channel", "uint8/token", "mxfp4", "nvfp4", "binary/g4", "ternary/g4"):
            half, single = scales_of(x, scaled(text)), scales_of(x.astype(np.float32), scaled(text))
            np.testing.assert_array_equal(half.scale, single.scale)
            assert half.scale.dtype == np.float32


class TestPowersOfTwo:
    """The exponents, in exact arithmetic."""

    EDGES = tuple(
        float(np.nextafter(np.float32(base * 2.0**k), np.float32(to)))
        for k in (-149, -148, -140, -127, -126, -125, -10, -1, 0, 1, 8, 9, 126, 127)
        for base, to in (
            (1, 0),
            (1, inf),
            (1.75, 0),
            (1.75, inf),
            (1.5, 2),
            (1.984375, 0),
            (1.984375, inf),
            (1.9999999, 1),
        )
        if 0 < np.nextafter(np.float32(base * 2.0**k), np.float32(to)) < inf
    ) + tuple(2.0**k for k in (-149, -148, -127, -126, 0, 5, 127))

    @staticmethod
    def exponent(amax: float, element: IntFormat | FloatFormat, rule: ScaleRule) -> int:
        value, top = Fraction(amax), Fraction(element.max)
        k = floor_log2(value)
        match rule:
            case ScaleRule.CEIL:
                k += Fraction(2) ** k < value
            case ScaleRule.RCEIL:
                k = floor_log2(value) - floor_log2(top) - 1
                while value > top * Fraction(2) ** k:
                    k += 1
                return k
            case ScaleRule.EVEN:
                bits = element.mantissa_bits if isinstance(element, FloatFormat) else floor_log2(Fraction(element.qmax))
                half = Fraction(2) ** (k - bits - 1)
                k = floor_log2(value + half)
        return k - floor_log2(top)

    @pytest.mark.parametrize("rule", ScaleRule)
    @pytest.mark.parametrize("storage", ["e8m0", "pow2"])
    @pytest.mark.parametrize(
        "element", ["fp4_e2m1", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2", "int8r", "int4", "int8rf6", "fp16"]
    )
    def test_every_rule_at_its_edges(self, element: str, storage: str, rule: ScaleRule) -> None:
        format = scaled(f"{element}/channel/{storage}-{rule}")
        found = scales_of(np.float32(self.EDGES)[:, None], format).scale[:, 0]
        least = -127 if storage == "e8m0" else -149
        assert isinstance(format.element, IntFormat | FloatFormat)
        wanted = [min(max(self.exponent(amax, format.element, rule), least), 127) for amax in self.EDGES]
        np.testing.assert_array_equal(found, np.ldexp(np.float32(1), wanted))

    @given(magnitudes, st.sampled_from(POWERS))
    def test_every_magnitude(self, amax: float, text: str) -> None:
        format = scaled(text)
        assert isinstance(format.scale, PowerOfTwoScale) and isinstance(format.element, IntFormat | FloatFormat)
        k = max(self.exponent(amax, format.element, format.scale.rule), -149)
        assert scales_of(np.float32([amax]), format).scale == 2.0**k

    @given(st.floats(2.0**-126, LARGEST, width=32), st.sampled_from(["fp4_e2m1", "fp6_e2m3", "fp8_e4m3", "fp8_e5m2"]))
    def test_even_adds_to_the_bits_as_torchao_does(self, amax: float, element: str) -> None:
        format = scaled(f"{element}/tensor/e8m0-even")
        assert isinstance(format.element, FloatFormat)
        bits = int(np.float32(amax).view(np.uint32)) + (1 << (22 - format.element.mantissa_bits))
        exponent = (bits >> 23) - 127 - format.element.max_exponent
        assert scales_of(np.float32([amax]), format).scale == 2.0 ** max(exponent, -127)

    @given(
        magnitudes,
        st.sampled_from(["fp4_e2m1", "fp8_e4m3", "int8r"]),
        st.sampled_from([ScaleRule.CEIL, ScaleRule.RCEIL]),
    )
    def test_rounding_up_clips_nothing(self, amax: float, element: str, rule: ScaleRule) -> None:
        format = scaled(f"{element}/tensor/pow2-{rule}")
        assert amax <= format.element.max * float(scales_of(np.float32([amax]), format).scale[0])  # type: ignore[union-attr]

    def test_unsigned_blocks_begin_at_zero(self) -> None:
        found = scales_of(np.float32([0, 100]), scaled("uint8/tensor/pow2/sym"))
        assert (found.scale, found.zero_point) == (0.5, 0)


class TestNestedScales:
    @given(st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=1, max_size=70))
    def test_nvfp4_is_two_divisions_and_a_rounding(self, values: list[float]) -> None:
        x = np.float32(values)
        found = scales_of(x, scaled("nvfp4"))
        blocks = [np.abs(x[i : i + 16]).max() for i in range(0, x.size, 16)]
        tensor = max(blocks) / np.float32(448 * 6)
        tensor = tensor if tensor >= TINY else np.float32(1)
        assert found.tensor_scale == tensor
        for scale, amax in zip(found.scale, blocks, strict=True):
            wanted = np.minimum(amax / np.float32(6) / tensor, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
            assert scale == (max(float(wanted), 2.0**-9) if amax else 1)

    @pytest.mark.parametrize("block", ["fp8_e4m3", "fp8_e5m2", "e8m0", "fp32", "bf16", "fp4_e2m1"])
    @settings(max_examples=30)
    @given(values=st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=1, max_size=20))
    def test_no_product_of_scales_is_zero_or_infinite(self, block: str, values: list[float]) -> None:
        found = scales_of(np.float32(values), scaled(f"fp4_e2m1/g4/nested-{block}"))
        product = found.scale * found.tensor_scale
        assert ((product > 0) & np.isfinite(product)).all()


class TestLimits:
    ELEMENTS = ("fp4_e2m1", "fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "int8", "int4r", "uint4", "int8rf6")

    @pytest.mark.parametrize("element", ELEMENTS)
    @given(scale=magnitudes)
    def test_the_ends_are_the_last_whose_product_is_finite(self, element: str, scale: float) -> None:
        format = scaled(f"{element}/tensor")
        codes = np.arange(1 << format.bits)
        if isinstance(format.element, IntFormat):
            codes = np.arange(format.element.qmin, format.element.qmax + 1)
        given_scales = check_scales(scale, 0, format, (3,))
        low, high = limits(given_scales, format)
        levels = decode_array(codes, format.element)
        levels = levels[np.isfinite(levels)]
        with np.errstate(over="ignore", under="ignore"):
            fits = levels[np.isfinite(levels * np.float32(scale))]
        assert (low, high) == (fits.min(), fits.max())

    @given(st.integers(0, 255), magnitudes)
    def test_a_zero_point_moves_them(self, zero: int, scale: float) -> None:
        format = scaled("uint8/tensor")
        low, high = limits(check_scales(scale, zero, format, (3,)), format)
        if scale < 1e36:
            assert (low, high) == (-zero, 255 - zero)
        else:
            assert -zero <= low <= 0 <= high <= 255 - zero
            assert np.isfinite(np.float32(scale) * np.float32([low, high])).all()

    @given(
        magnitudes,
        st.sampled_from(["int8/tensor", "int8r/tensor", "uint8/tensor/sym", "fp8_e4m3/tensor", "fp4_e2m1/tensor"]),
    )
    def test_real_scales_never_need_them(self, amax: float, text: str) -> None:
        format = scaled(text)
        found = scales_of(np.float32([amax]), format)
        low, high = limits(found, format)
        grid = format.element.grid  # type: ignore[union-attr]
        assert (low, high) == (grid.low - found.zero_point, grid.high - found.zero_point)


class TestGivenScales:
    def test_a_number_is_the_scale_of_every_tile(self) -> None:
        found = check_scales(0.1, 0, scaled("int8/channel"), (3, 4))
        assert found.scale.dtype == np.float32 and found.scale.shape == (3, 1)
        assert (found.scale == np.float32(0.1)).all()
        assert found.zero_point.shape == (3, 1) and not found.zero_point.any()
        assert found.tensor_scale == 1

    def test_what_broadcasts_fits(self) -> None:
        found = check_scales(np.array([1, 2]), [[3], [4], [5]], scaled("uint8/tile2x2"), (6, 4))
        np.testing.assert_array_equal(found.scale, [[1, 2]] * 3)
        np.testing.assert_array_equal(found.zero_point, [[3, 3], [4, 4], [5, 5]])

    @pytest.mark.parametrize("shape", [(3,), (2, 2), (4, 1)])
    def test_another_shape_is_refused_with_the_one_expected(self, shape: Shape) -> None:
        with pytest.raises(DataError, match=r"scale has shape .*channel takes .* of shape \(2, 1\)"):
            check_scales(np.ones(shape), 0, scaled("int8/channel"), (2, 5))

    @pytest.mark.parametrize("scale", [0.0, -1.0, nan, inf, 1e39, 1e-60, [[1.0], [-0.0]]])
    def test_a_scale_is_positive_and_finite(self, scale: float | list[list[float]]) -> None:
        with pytest.raises(DataError, match="positive, finite"):
            check_scales(scale, 0, scaled("int8/channel"), (2, 5))

    @pytest.mark.parametrize("scale", ["1", 1j, [True], None])
    def test_a_scale_is_a_real_number(self, scale: object) -> None:
        with pytest.raises(DataError, match="scale is a real number"):
            check_scales(scale, 0, scaled("int8/tensor"), (2, 5))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("text", "good", "bad"),
        [
            ("mxfp4", 2.0**-127, 3.0),
            ("mxfp4", 2.0**127, 2.0**-128),
            ("bfp8", 2.0**-149, 2.5),
            ("nvfp4", 2.0**-9, 2.0**-10),
        ],
    )
    def test_a_scale_is_one_that_the_format_stores(self, text: str, good: float, bad: float) -> None:
        assert check_scales(good, 0, scaled(text), (5,)).scale == good
        with pytest.raises(DataError, match=r"a scale of this format is .*(e8m0|fp32|fp8_e4m3).*, not"):
            check_scales(bad, 0, scaled(text), (5,))

    @pytest.mark.parametrize("zero", [256, -1, 0.5, nan, inf])
    def test_a_zero_point_is_a_code(self, zero: float) -> None:
        with pytest.raises(DataError, match="whole number from 0 to 255"):
            check_scales(1.0, zero, scaled("uint8/tensor"), (5,))

    def test_only_asymmetric_formats_have_zero_points(self) -> None:
        with pytest.raises(DataError, match="/asym"):
            check_scales(1.0, 3, scaled("int8/tensor"), (5,))
        assert check_scales(1.0, 0, scaled("uint8/tensor/sym"), (5,)).zero_point == 128

    def test_kmeans_takes_none(self) -> None:
        with pytest.raises(DataError, match="fitted"):
            check_scales(1.0, 0, scaled("kmeans4/tensor"), (5,))


def test_scales_can_be_had_from_statistics_alone() -> None:
    x = wild((6, 40))
    for text in ("int8/channel", "mxfp6_e3m2", "nvfp4", "fp8_e4m3/tile4x4"):
        format = scaled(text)
        low, high = finite_range(x, format.granularity.tile(x.shape))
        again = scales_of_amax(np.maximum(high, -low), format)
        np.testing.assert_array_equal(again.scale, scales_of(x, format).scale)
    low, high = finite_range(x, (1, 40))
    again = scales_of_range(low, high, scaled("uint8/channel"))
    np.testing.assert_array_equal(again.zero_point, scales_of(x, scaled("uint8/channel")).zero_point)


def test_the_block_scale_of_nvfp4_is_at_least_its_smallest() -> None:
    x = np.float32([6.0, *[0.0] * 15, 1e-9])
    found = scales_of(x, scaled("nvfp4"))
    assert found.scale[1] == E4M3.min_positive
    assert found.scale[0] * found.tensor_scale * E2M1.max == pytest.approx(6, rel=1e-6)
