"""Casts of numpy arrays: laws over all formats and modes, brute force over all levels, and what cannot be asked."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.floating import E4M3, FloatFormat
from fewbits.formats.granularity import Shape
from fewbits.formats.integer import INT8, IntFormat
from fewbits.formats.levels import BinaryFormat, KMeansFormat, TernaryFormat
from fewbits.formats.numerics import affine
from fewbits.formats.numerics.array import decode_array
from fewbits.formats.numerics.reference import dequantize, fake_quantize, quantize
from fewbits.formats.numerics.scales import check_scales, limits, per_element, scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Element, Format, ScaledFormat
from fewbits.formats.text import parse

Float = NDArray[np.floating]

LARGEST = float(np.finfo(np.float32).max)
KEY = NoiseKey(3, 1, 4)

PLAIN = (
    *("fp32", "tf32", "bf16", "fp16", "fp8_e5m2", "fp8_e4m3", "fp8_e5m2fnuz", "fp8_e4m3fnuz", "fp8_e3m4", "fp6_e3m2"),
    *("fp6_e2m3", "fp4_e2m1", "e8m0", "e5m2ftz", "ue4m3fn", "e7m0f", "int8f4", "uint6f2", "int16f8", "nf4", "kmeans2"),
)
POWERS = (
    *("mxfp8_e4m3", "mxfp8_e5m2-rceil/g3", "mxfp6_e3m2-even/g5", "mxfp6_e2m3-ceil/g4@0", "mxfp4", "mxfp4-rceil/g3"),
    *("mxint8/g3", "bfp8/tile2x3", "bfp4-rceil/tile2x2", "bfp12-ceil/channel", "int8/tensor/pow2", "uint8/g4/pow2/sym"),
    "fp8_e4m3/token/pow2-even",
)
REAL = (
    *("int8/tensor", "int8r/channel", "int4r/g3", "int16/token", "int2/g4", "uint8/tensor/sym", "int8f6/g3"),
    *("fp8_e4m3/tensor", "fp8_e5m2/g3@0", "fp4_e2m1/channel", "fp8_e4m3fnuz/tile2x2", "fp8_e3m4/token", "nf4/g4"),
)
ASYMMETRIC = ("uint8/tensor", "uint4/g3", "int8/channel/asym", "uint16/token", "int4r/tile2x2/asym", "uint8f3/g4")
NESTED = ("nvfp4", "nvfp4/tile2x2", "fp6_e2m3/g3/nested-bf16", "int4r/g4/nested-fp8_e4m3")
LEVELS = (
    "binary/g4",
    "ternary/channel",
    "ternary-twn/g3",
    "ternary-rms/tensor",
    "kmeans2/g4",
    "kmeans3/tensor",
    "nf4/g3",
)
SCALED = (*POWERS, *REAL, *ASYMMETRIC, *NESTED, *LEVELS)
ALL = (*PLAIN, *SCALED)

numbers = st.floats(-LARGEST, LARGEST, width=32)
ordinary = st.floats(-100, 100, width=32)


def matrices(
    elements: st.SearchStrategy[float], dtype: type = np.float32, least: int = 0, sides: int = 7
) -> st.SearchStrategy[Float]:
    return arrays(dtype, array_shapes(min_dims=2, max_dims=3, min_side=least, max_side=sides), elements=elements)


def wild(shape: Shape, seed: int = 0) -> NDArray[np.float32]:
    """Many magnitudes, in every tile."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)).astype(np.float32)


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def element_of(format: Format) -> Element:
    return format.element if isinstance(format, ScaledFormat) else format


def has_nan(format: Format) -> bool:
    element = element_of(format)
    return isinstance(element, FloatFormat) and element.has_nan


def ways(format: Format) -> list[tuple[Rounding, Overflow]]:
    """Every way of rounding that the format knows."""
    element = element_of(format)
    if not isinstance(element, IntFormat | FloatFormat):
        return [(Rounding.NEAREST_EVEN, Overflow.SATURATE)]
    specials = isinstance(element, FloatFormat) and (element.has_nan or element.has_infinity)
    return list(itertools.product(Rounding, Overflow if specials else [Overflow.SATURATE]))


def levels_of(q: QTensor[NDArray[Any]]) -> NDArray[np.float64]:
    """All values that each element could have, along one more axis; NaN for those that float32 does not hold."""
    format = q.format
    assert isinstance(format, ScaledFormat)
    element = format.element
    if isinstance(element, KMeansFormat):
        lists = [per_element(places, q.tile, q.shape) for places in np.moveaxis(q.table.astype(np.float64), -1, 0)]
        return np.stack(lists, axis=-1)
    if isinstance(element, IntFormat):
        codes, unit = np.arange(element.qmin, element.qmax + 1), 2.0**-element.fraction
    else:
        codes, unit = np.arange(3 if isinstance(element, TernaryFormat) else 1 << element.bits), 0.0
    levels = decode_array(codes, element).astype(np.float64)
    zeros = per_element(q.zero_point, q.tile, q.shape)[..., None] * unit
    steps = per_element(q.scale * q.tensor_scale, q.tile, q.shape).astype(np.float64)[..., None]
    values = (levels[np.isfinite(levels)] - zeros) * steps
    return np.where(np.abs(values) < 2.0**128 - 2.0**103, values, np.nan)


def same_bits(one: Float, other: Float) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    np.testing.assert_array_equal(one, other)
    number = ~np.isnan(one)
    np.testing.assert_array_equal(np.signbit(one[number]), np.signbit(other[number]))


class TestTheThreeVerbs:
    @pytest.mark.parametrize("text", ALL)
    @settings(max_examples=15)
    @given(data=st.data())
    def test_dequantizing_codes_is_fake_quantizing(self, text: str, data: st.DataObject) -> None:
        format = parse(text)
        dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
        special = st.sampled_from([inf, -inf, -0.0, 0.0, 1e-45, *([nan] if has_nan(format) else [])])
        x = data.draw(matrices(st.one_of(numbers, ordinary, special), np.float32))
        with np.errstate(over="ignore"):
            x = x.astype(dtype)
        rounding, overflow = data.draw(st.sampled_from(ways(format)))
        wanted = fake_quantize(x, format, None, rounding, overflow, KEY)
        q = quantize(x, format, None, rounding, overflow, KEY)
        assert wanted.dtype == x.dtype and wanted.shape == x.shape == q.shape
        if dtype == np.float16 and overflow is Overflow.NONSATURATE:
            # A code does not know that it stands for too much for float16 to hold: as a number it is the largest.
            cut = np.isinf(wanted) & np.isfinite(dequantize(q))
            wanted = np.where(cut, np.copysign(np.float16(65504), wanted), wanted)
        same_bits(dequantize(q), wanted)

    @pytest.mark.parametrize("text", ALL)
    def test_codes_lie_in_the_format(self, text: str) -> None:
        format = parse(text)
        codes = quantize(wild((5, 7)) * 100, format).codes
        element = element_of(format)
        low, high = (element.qmin, element.qmax) if isinstance(element, IntFormat) else (0, (1 << element.bits) - 1)
        assert low <= codes.min() and codes.max() <= high
        assert codes.dtype.itemsize == (1 if element.bits <= 8 else 2 if element.bits <= 16 else 4)

    @pytest.mark.parametrize("text", [*REAL[:7], *ASYMMETRIC[:5]])
    @settings(max_examples=25)
    @given(x=matrices(numbers, least=1))
    def test_integers_are_those_of_the_quantiser_algebra(self, text: str, x: NDArray[np.float32]) -> None:
        format = scaled(text)
        assert isinstance(format.element, IntFormat)
        q = quantize(x, format)
        spread = [per_element(values, q.tile, x.shape) for values in (q.scale, q.zero_point)]
        unit = 2.0**-format.element.fraction
        with np.errstate(over="ignore"):
            steps = np.rint(x / (spread[0] * np.float32(unit))) + spread[1]
        codes = np.clip(steps, format.element.qmin, format.element.qmax)
        np.testing.assert_array_equal(q.codes, codes)
        values = ((codes - spread[1]) * unit).astype(np.float32) * spread[0]
        np.testing.assert_array_equal(fake_quantize(x, format), values)

    def test_a_scale_makes_an_element_a_format(self) -> None:
        x = np.float32([[0.3, -0.7]])
        given_scales = check_scales(0.1, 0, scaled("int8/tensor"), x.shape)
        q = quantize(x, INT8, given_scales)
        assert q.format == scaled("int8/tensor")
        np.testing.assert_array_equal(q.codes, [[3, -7]])
        np.testing.assert_array_equal(fake_quantize(x, E4M3, given_scales), np.float32([[3, -7]]) * np.float32(0.1))

    def test_the_shapes_of_what_is_stored(self) -> None:
        q = quantize(wild((5, 50)), scaled("nvfp4"))
        assert (q.codes.shape, q.scale.shape, q.zero_point.shape, q.tensor_scale.shape) == ((5, 50), (5, 4), (5, 4), ())
        assert q.padding == (0, 14)
        assert quantize(wild((5, 50)), scaled("kmeans3/g16")).table.shape == (5, 4, 8)
        assert quantize(wild((5, 50)), parse("kmeans3")).table.shape == (8,)
        assert quantize(wild((5, 50)), parse("bf16")).scale.shape == ()


class TestNearest:
    # What decides for the other ternary formats is their threshold.
    @pytest.mark.parametrize(
        "text", [text for text in SCALED if element_of(parse(text)).bits <= 8 and not text.startswith("ternary-")]
    )
    @settings(max_examples=20)
    @given(data=st.data())
    def test_no_other_level_of_the_tile_is_nearer(self, text: str, data: st.DataObject) -> None:
        x = data.draw(matrices(data.draw(st.sampled_from([numbers, ordinary])), least=1, sides=5))
        format = scaled(text)
        q = quantize(x, format)
        lists = levels_of(q)
        error = np.abs(dequantize(q).astype(np.float64) - x)
        least = np.nanmin(np.abs(lists - x[..., None].astype(np.float64)), axis=-1)
        # The quotient was rounded to float32, and so was the product.
        assert (error <= least + np.abs(x) * 2.0**-22 + 2.0**-149).all()

    @pytest.mark.parametrize("text", [*POWERS, *REAL[:-1]])
    @pytest.mark.parametrize("rounding", Rounding)
    def test_other_roundings_stay_within_one_step(self, text: str, rounding: Rounding) -> None:
        x, format = wild((6, 9)), scaled(text)
        found = fake_quantize(x, format, None, rounding, key=KEY)
        nearest = np.abs(fake_quantize(x, format).astype(np.float64) - x)
        scales = scales_of(x, format)
        low, high = (
            per_element(end * scales.scale, format.granularity.tile(x.shape), x.shape) for end in limits(scales, format)
        )
        inside = (x >= low) & (x <= high)
        grid = element_of(format)
        assert isinstance(grid, IntFormat | FloatFormat) or text.startswith("nf4")
        if isinstance(grid, IntFormat | FloatFormat):
            step = per_element(scales.scale, format.granularity.tile(x.shape), x.shape) * grid.grid.smallest_step
            spacing = np.maximum(
                step, np.abs(x) * 2.0**-grid.grid.mantissa_bits if isinstance(grid, FloatFormat) else 0
            )
            error = np.abs(found.astype(np.float64) - x)
            assert (error[inside] <= spacing[inside] * (1 + 2.0**-20)).all()
            assert (nearest[inside] <= spacing[inside] * (0.5 + 2.0**-20)).all()
            assert (error >= nearest * (1 - 2.0**-20)).all()


class TestTwice:
    """Quantising what has been quantised."""

    GRIDS = tuple(text for text in ALL if isinstance(element_of(parse(text)), IntFormat | FloatFormat))
    SYMMETRIC = (*PLAIN, *POWERS, *REAL, *LEVELS)

    @staticmethod
    def check_with_the_same_scales(text: str, rounding: Rounding) -> None:
        format, x = parse(text), wild((6, 9), 1)
        scales = scales_of(x, format) if isinstance(format, ScaledFormat) else None
        once = fake_quantize(x, format, scales, rounding, key=KEY)
        same_bits(fake_quantize(once, format, scales, rounding, key=NoiseKey(5)), once)

    @pytest.mark.parametrize("text", ALL)
    def test_with_the_same_scales_nothing_changes(self, text: str) -> None:
        self.check_with_the_same_scales(text, Rounding.NEAREST_EVEN)

    @pytest.mark.parametrize("text", GRIDS)
    def test_nor_with_ties_away(self, text: str) -> None:
        self.check_with_the_same_scales(text, Rounding.NEAREST_AWAY)

    # With real scales a quotient may miss its integer by the last bit, which other roundings see.
    @pytest.mark.parametrize("text", [text for text in GRIDS if text in PLAIN or text in POWERS])
    @pytest.mark.parametrize("rounding", [Rounding.TOWARD_ZERO, Rounding.FLOOR, Rounding.STOCHASTIC])
    def test_nor_with_powers_of_two_and_any_rounding(self, text: str, rounding: Rounding) -> None:
        self.check_with_the_same_scales(text, rounding)

    @pytest.mark.parametrize("text", SYMMETRIC)
    @settings(max_examples=15)
    @given(data=st.data())
    def test_with_its_own_scales_nothing_changes(self, text: str, data: st.DataObject) -> None:
        # Powers of two stay, or become finer with the rules that round up; real scales come back to the last bit.
        x = data.draw(matrices(data.draw(st.sampled_from([numbers, ordinary])), least=1))
        if "even" in text:
            x = x / 2
        once = fake_quantize(x, parse(text))
        same_bits(fake_quantize(once, parse(text)), once)

    @pytest.mark.parametrize("top", [1, 6, 7, 127, 448, 32767, 57344, 7.5, 28, 15.5])
    def test_a_real_scale_comes_back_from_what_it_scaled(self, top: float) -> None:
        # s = fl(a / t). If products lie further apart than t times the scales, fl(s t) is a; otherwise fl(s t) / t
        # lies less than half a unit from s.
        amax = np.random.default_rng(0).uniform(1, 4, 1 << 18).astype(np.float32)
        scale = affine.largest_to_top(amax, top, top)
        np.testing.assert_array_equal(affine.largest_to_top(scale * np.float32(top), top, top), scale)

    def test_even_clips_again_where_float32_ends(self) -> None:
        # 1.94 * 2**127 asks for 2**128 / 2**8, of which float32 holds 240: 1.875 * 2**127, which rounds down.
        x = np.float32([1.94 * 2.0**127])
        once = fake_quantize(x, scaled("mxfp8_e4m3-even"))
        assert once == 1.875 * 2.0**127
        assert fake_quantize(once, scaled("mxfp8_e4m3-even")) == 1.75 * 2.0**127

    @pytest.mark.parametrize("text", ["mxfp4", "mxfp8_e4m3", "mxfp8_e5m2-even", "bfp8", "mxint8", "bfp4-even/tensor"])
    def test_rules_that_round_down_keep_codes_too(self, text: str) -> None:
        once = quantize(wild((50, 64)), parse(text))
        twice = quantize(dequantize(once), parse(text))
        np.testing.assert_array_equal(twice.scale, once.scale)
        np.testing.assert_array_equal(twice.codes, once.codes)

    def test_rceil_keeps_values_but_not_codes(self) -> None:
        # 225 of 448 rounds to 224, which one scale lower is 448.
        once = quantize(np.float32([225.0, 3.0]), scaled("mxfp8_e4m3-rceil"))
        twice = quantize(dequantize(once), scaled("mxfp8_e4m3-rceil"))
        assert (once.scale, twice.scale) == (1, 0.5)
        np.testing.assert_array_equal(dequantize(twice), dequantize(once))
        np.testing.assert_array_equal(dequantize(twice), [224, 3])

    def test_a_zero_point_halfway_between_codes_shrinks_the_range(self) -> None:
        # Both ends lie half a step from a code, and both halves go to the even side.
        x = np.float32([-2.5, 252.5])
        once = fake_quantize(x, scaled("uint8/tensor"))
        np.testing.assert_array_equal(once, [-2, 252])
        assert scales_of(x, scaled("uint8/tensor")).scale == 1
        assert scales_of(once, scaled("uint8/tensor")).scale < 1

    def test_nvfp4_keeps_codes_while_block_scales_are_normal_numbers(self) -> None:
        x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        once = quantize(x, scaled("nvfp4"))
        twice = quantize(dequantize(once), scaled("nvfp4"))
        assert once.scale.min() >= 2.0**-6
        np.testing.assert_array_equal(twice.codes, once.codes)
        np.testing.assert_array_equal(twice.scale, once.scale)
        np.testing.assert_array_max_ulp(twice.tensor_scale, once.tensor_scale, 1)

    def test_nvfp4_loses_again_where_block_scales_are_subnormal(self) -> None:
        # A block with largest magnitude 6 * 1.5 units gets a scale of 2 units, and keeps 4 * 2 of its 9.
        x = np.float32([2688.0, *[0.0] * 15, 9 * 2.0**-9])
        once = fake_quantize(x, scaled("nvfp4"))
        twice = fake_quantize(once, scaled("nvfp4"))
        assert (once[16], twice[16]) == (8 * 2.0**-9, 6 * 2.0**-9)


class TestTiles:
    PADDED = tuple(text for text in SCALED if not text.startswith(("binary", "ternary-", "kmeans")))
    """Not those that count the elements of a tile: a mean is smaller with zeros."""

    @pytest.mark.parametrize("text", PADDED)
    @pytest.mark.parametrize("shape", [(5, 7), (2, 3, 35), (1, 33)], ids=str)
    def test_a_border_tile_is_one_filled_up_with_zeros(self, text: str, shape: Shape) -> None:
        format = scaled(text)
        x, tile = wild(shape), format.granularity.tile(shape)
        padded = np.pad(x, [(0, -size % step) for size, step in zip(shape, tile, strict=True)])
        inside = tuple(slice(size) for size in shape)
        if text.endswith(("tensor", "channel", "token")):
            # One tile, whatever the size.
            padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 5)])
        same_bits(fake_quantize(padded, format)[inside], fake_quantize(x, format))

    @pytest.mark.parametrize("text", SCALED)
    def test_nan_and_inf_leave_their_neighbours_alone(self, text: str) -> None:
        format = scaled(text)
        whole = ScaledFormat(format.element, scaled("int8/tensor").granularity, format.scale, format.asymmetric)
        x = wild((40,))
        spoilt = np.insert(x, [3, 3, 20, 33], [nan, inf, -inf, nan])
        usual = np.isfinite(spoilt)
        found = fake_quantize(spoilt, whole)
        same_bits(found[usual], fake_quantize(x, whole))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(spoilt))
        assert found[spoilt == inf] >= found[usual].max()
        assert found[spoilt == -inf] <= found[usual].min()

    @pytest.mark.parametrize(
        "text",
        [text for text in (*POWERS, *REAL, *ASYMMETRIC, *LEVELS) if re.search(r"/(g\d+|channel|token)($|/)", text)],
    )
    def test_each_row_is_cast_for_itself(self, text: str) -> None:
        x, format = wild((3, 12)), scaled(text)
        other = x.copy()
        other[1] *= 1000
        for row in (0, 2):
            same_bits(fake_quantize(other, format)[row], fake_quantize(x, format)[row])
            same_bits(fake_quantize(x[row : row + 1], format)[0], fake_quantize(x, format)[row])

    @pytest.mark.parametrize("text", SCALED)
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_zeros_stay_zeros(self, text: str, dtype: type) -> None:
        found = fake_quantize(np.zeros((3, 5), dtype), scaled(text))
        if isinstance(element_of(parse(text)), BinaryFormat):
            assert (np.abs(found) <= np.finfo(np.float32).tiny).all()  # it has no zero
        else:
            same_bits(found, np.zeros((3, 5), dtype))

    @pytest.mark.parametrize("text", ALL)
    @given(x=matrices(st.sampled_from([LARGEST, -LARGEST, 3.4e38, 1e-45, -1e-45, 1e-38, 0.0, inf, -inf]), least=1))
    @settings(max_examples=10)
    def test_what_is_huge_or_tiny_stays_finite(self, text: str, x: NDArray[np.float32]) -> None:
        assert np.isfinite(fake_quantize(x, parse(text))).all()

    @pytest.mark.parametrize("text", [*POWERS, *REAL, *ASYMMETRIC, "nvfp4"])
    def test_the_largest_float_stays_large(self, text: str) -> None:
        found = fake_quantize(np.float32([[LARGEST, -LARGEST, 1, 0]] * 2), parse(text))
        assert np.abs(found).max() > LARGEST / 2.1


class TestArrays:
    @pytest.mark.parametrize("text", ALL)
    def test_the_layout_in_memory_makes_no_difference(self, text: str) -> None:
        format, x = parse(text), wild((4, 6, 5))
        views = [np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x[::-1, :, ::-1].copy()[::-1, :, ::-1]]
        for rounding, _ in ways(format):
            wanted = fake_quantize(x, format, None, rounding, key=KEY)
            for view in (*views, x.astype(">f4")):
                found = fake_quantize(view, format, None, rounding, key=KEY)
                same_bits(found.astype(np.float32), wanted)

    @pytest.mark.parametrize("text", [text for text in ALL if text in PLAIN or "/tensor" in text])
    def test_an_array_without_axes(self, text: str) -> None:
        x, format = np.array(1.7, np.float32), parse(text)
        found = fake_quantize(x, format)
        assert isinstance(found, np.ndarray) and found.shape == ()
        same_bits(found[None], fake_quantize(x[None], format))
        q = quantize(x, format)
        assert q.codes.shape == q.scale.shape == ()
        same_bits(dequantize(q), found)

    @pytest.mark.parametrize("text", ALL)
    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)], ids=str)
    def test_an_empty_array(self, text: str, shape: Shape) -> None:
        x = np.zeros(shape, np.float16)
        for rounding, _ in ways(parse(text)):
            same_bits(fake_quantize(x, parse(text), None, rounding, key=KEY), x)
        q = quantize(x, parse(text))
        assert q.codes.shape == shape
        same_bits(dequantize(q), x)

    @pytest.mark.parametrize("text", ALL)
    def test_float16_is_float32_rounded_at_the_end(self, text: str) -> None:
        x = (wild((6, 9)) * 50).clip(-65504, 65504).astype(np.float16)
        x[0, 0] = 65504
        wide = fake_quantize(x.astype(np.float32), parse(text))
        np.testing.assert_array_equal(fake_quantize(x, parse(text)), wide.clip(-65504, 65504).astype(np.float16))

    @pytest.mark.parametrize(("overflow", "wanted"), [(Overflow.SATURATE, 65504), (Overflow.NONSATURATE, inf)])
    def test_what_float16_cannot_hold(self, overflow: Overflow, wanted: float) -> None:
        # bf16 has 65280 and 65536 there.
        assert fake_quantize(np.float16([65504]), parse("bf16"), overflow=overflow) == wanted

    def test_float64_is_rounded_once(self) -> None:
        x = np.array([1 + 2.0**-4 + 2.0**-40, 1 + 2.0**-4, 1e300, 1e-300])
        np.testing.assert_array_equal(fake_quantize(x, E4M3), [1.125, 1, 448, 0])
        np.testing.assert_array_equal(fake_quantize(x[:2].astype(np.float32), E4M3), [1, 1])
        assert fake_quantize(np.array([0.5 + 2.0**-40, 127]), scaled("int8/tensor"))[0] == 1

    @pytest.mark.parametrize(
        "text", ["int8/channel", "mxint8/g4", "fp8_e4m3fnuz/channel", "nf4/g4", "kmeans2/g4", "uint8/g4"]
    )
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_what_has_no_negative_zero_gives_none(self, text: str, dtype: type) -> None:
        x = np.array([[-0.0, -1e-7, 1e-7, 6e-8], [-0.0, -1e-3, 1, -1]], dtype)
        found = fake_quantize(x, parse(text))
        assert not np.signbit(found[found == 0]).any()

    @pytest.mark.parametrize("text", ["fp8_e4m3/channel", "mxfp4", "nvfp4"])
    def test_what_has_a_negative_zero_keeps_it(self, text: str) -> None:
        found = fake_quantize(np.float32([[-0.0, 0.0, -1e-6, 1]]), parse(text))
        np.testing.assert_array_equal(np.signbit(found[0, :3]), [True, False, True])
        assert not found[0, :3].any()

    def test_the_array_itself_is_left_alone(self) -> None:
        x = np.float32([nan, 1.3, -0.0])
        kept = x.copy()
        for text in ALL:
            if not text.endswith(("channel", "@0")) and "tile" not in text:
                fake_quantize(x, parse(text))
        same_bits(x, kept)


class TestStochastic:
    def test_noise_belongs_to_the_place_of_an_element(self) -> None:
        x = np.full((8, 100), 1.03, np.float32)
        found = fake_quantize(x, E4M3, rounding=Rounding.STOCHASTIC, key=KEY)
        start = fake_quantize(x[:3], E4M3, rounding=Rounding.STOCHASTIC, key=KEY)
        np.testing.assert_array_equal(found[:3], start)
        assert set(np.unique(found)) == {1.0, 1.125}
        other = fake_quantize(x, E4M3, rounding=Rounding.STOCHASTIC, key=NoiseKey(3, 2, 4))
        assert (found != other).any()

    @pytest.mark.parametrize("text", ["int8/tensor", "mxfp8_e4m3", "mxfp4-rceil", "bfp8/tile24x24", "nvfp4"])
    def test_the_mean_is_kept(self, text: str) -> None:
        # 2**16 draws of two neighbours a step apart: six standard deviations.
        rng = np.random.default_rng(5)
        x = np.repeat(rng.uniform(-1, 1, (1, 32)), 1 << 11, axis=0).astype(np.float32)
        x[:, ::8] = 1  # nothing is clipped
        format = scaled(text)
        found = fake_quantize(x, format, rounding=Rounding.STOCHASTIC, key=NoiseKey(1)).astype(np.float64)
        spread = np.ptp(found, axis=0)
        assert (np.abs(found.mean(axis=0) - x[0]) <= 6 * spread / 2 / np.sqrt(1 << 11) + 1e-6).all()
        assert (spread > 0).any()


class TestRefusals:
    @pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64, np.longdouble, object])
    def test_what_is_cast_is_real(self, dtype: type) -> None:
        for verb in (fake_quantize, quantize):
            with pytest.raises(DataError, match=r"float16, float32, float64, not of .*astype"):
                verb(np.ones(3, dtype), E4M3)

    @pytest.mark.parametrize("text", [text for text in ALL if not has_nan(parse(text))])
    def test_nan_has_no_code(self, text: str) -> None:
        x = wild((4, 6))
        x[[1, 2], [3, 0]] = nan
        with pytest.raises(DataError, match=r"2 of 24 .*first .*\[1, 3\]"):
            quantize(x, parse(text))

    @pytest.mark.parametrize("text", [text for text in ALL if has_nan(parse(text))])
    def test_nan_that_has_a_code_comes_back(self, text: str) -> None:
        x = wild((4, 6))
        x[1, 3] = nan
        np.testing.assert_array_equal(np.isnan(dequantize(quantize(x, parse(text)))), np.isnan(x))

    def test_integers_need_a_scale(self) -> None:
        with pytest.raises(FormatError, match=r"int8 needs a scale.*int8/tensor.*int8f4"):
            fake_quantize(wild((3,)), INT8)

    @pytest.mark.parametrize("text", ["int8/tensor", "fp4_e2m1", "mxfp4", "nf4/g4", "ternary/g4"])
    def test_what_has_neither_inf_nor_nan_saturates(self, text: str) -> None:
        with pytest.raises(FormatError, match="neither Inf nor NaN"):
            fake_quantize(wild((4,)), parse(text), overflow=Overflow.NONSATURATE)

    @pytest.mark.parametrize("text", ["bf16", "mxfp8_e4m3", "int8/tensor"])
    def test_stochastic_rounding_needs_a_key(self, text: str) -> None:
        with pytest.raises(FormatError, match=r"key=NoiseKey\(seed, step, tensor\)"):
            fake_quantize(wild((4,)), parse(text), rounding=Rounding.STOCHASTIC)

    @pytest.mark.parametrize("text", LEVELS)
    def test_lists_of_levels_take_the_nearest(self, text: str) -> None:
        with pytest.raises(FormatError, match="nearest of its levels"):
            fake_quantize(wild((4, 4)), parse(text), rounding=Rounding.FLOOR)

    def test_scales_of_another_shape(self) -> None:
        scales = scales_of(wild((3, 4)), scaled("int8/channel"))
        with pytest.raises(DataError, match=r"scales of shape \(5, 1\) here, not \(3, 1\)"):
            fake_quantize(wild((5, 4)), scaled("int8/channel"), scales)

    def test_a_shape_that_the_granularity_does_not_fit(self) -> None:
        with pytest.raises(FormatError, match="2 axes"):
            fake_quantize(wild((4,)), scaled("bfp8/tile2x2"))

    def test_codes_of_a_type_that_numpy_lacks(self) -> None:
        q = quantize(wild((4,)), E4M3)
        with pytest.raises(DataError, match="bfloat16"):
            dequantize(replace(q, dtype="bfloat16"))

    def test_codes_beyond_a_list(self) -> None:
        q = quantize(wild((4,)), parse("kmeans2"))
        with pytest.raises(DataError, match="0 to 3; the largest"):
            dequantize(replace(q, codes=q.codes + np.uint8(4)))
