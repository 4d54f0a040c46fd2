"""Ternary and binary fits against brute force over every support, the published rules, and numbers that are none."""

from __future__ import annotations

from itertools import product
from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.levels import TernaryRule
from fewbits.formats.numerics.ternary import binarise, ternarise

Float = NDArray[np.float32]

LARGEST = float(np.finfo(np.float32).max)
LEAST = float(np.finfo(np.float32).smallest_subnormal)
RULES = tuple(TernaryRule)

ordinary = st.floats(-10, 10, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
vectors = arrays(np.float32, st.integers(1, 7), elements=ordinary)


def whole(x: Float, rule: TernaryRule) -> tuple[NDArray[np.int8], float]:
    codes, scale = ternarise(x, x.shape, rule)
    return codes, float(scale.reshape(()))


def error(x: Float, codes: NDArray[np.int8], scale: float) -> float:
    return float(np.sum((x.astype(np.float64) - scale * codes) ** 2))


def every_code(count: int) -> NDArray[np.int8]:
    return np.array(list(product((-1, 0, 1), repeat=count)), np.int8)


def tiles_one_by_one(shape: Shape, tile: Shape) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
    steps = [max(step, 1) for step in tile]
    return [
        (place, tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, steps, strict=True)))
        for place in np.ndindex(*tiles(shape, tile))
    ]


class TestOptimum:
    @given(vectors)
    def test_no_other_codes_and_scale_are_nearer(self, x: Float) -> None:
        """Over all 3**n codes, each with the scale that is best for it: their mean product with x."""
        codes = every_code(x.size).astype(np.float64)
        count = np.maximum(np.abs(codes).sum(axis=1), 1)
        best = np.sum(x.astype(np.float64) ** 2) - np.max((codes @ x.astype(np.float64)) ** 2 / count)
        assert error(x, *whole(x, TernaryRule.OPTIMAL)) == pytest.approx(best, rel=1e-6, abs=1e-9)

    @given(vectors)
    def test_the_rms_rule_is_the_best_with_such_a_scale(self, x: Float) -> None:
        errors = []
        for codes in every_code(x.size):
            scale = sqrt(np.mean(x[codes != 0].astype(np.float64) ** 2)) if codes.any() else 0.0
            errors.append(error(x, codes, scale))
        assert error(x, *whole(x, TernaryRule.RMS)) == pytest.approx(min(errors), rel=1e-6, abs=1e-9)

    @given(vectors)
    def test_the_optimum_is_never_worse_than_the_other_rules(self, x: Float) -> None:
        best = error(x, *whole(x, TernaryRule.OPTIMAL))
        for rule in RULES:
            assert best <= error(x, *whole(x, rule)) * (1 + 1e-6) + 1e-9

    @given(vectors)
    def test_at_the_optimum_every_code_is_the_nearest(self, x: Float) -> None:
        codes, scale = whole(x, TernaryRule.OPTIMAL)
        for value, code in zip(x.tolist(), codes.tolist(), strict=True):
            nearest = min(abs(value - scale * level) for level in (-1, 0, 1))
            assert abs(value - scale * code) <= nearest + 1e-6 * scale

    def test_known_vectors(self) -> None:
        # Worked by hand: 3**2/1 = 9 < 5**2/2 = 12.5 > 5.5**2/3 = 10.1; then one large number alone.
        codes, scale = whole(np.array([3, -2, 0.5], np.float32), TernaryRule.OPTIMAL)
        assert (codes.tolist(), scale) == ([1, -1, 0], 2.5)
        codes, scale = whole(np.array([-8, 1, 1, 1], np.float32), TernaryRule.OPTIMAL)
        assert (codes.tolist(), scale) == ([-1, 0, 0, 0], 8.0)


class TestRules:
    @given(vectors)
    def test_the_threshold_rule_is_that_of_ternary_weight_networks(self, x: Float) -> None:
        magnitudes = np.abs(x.astype(np.float64))
        support = magnitudes > 0.7 * magnitudes.mean()
        codes, scale = whole(x, TernaryRule.THRESHOLD)
        np.testing.assert_array_equal(codes, np.sign(x) * support)
        assert scale == np.float32(magnitudes[support].mean() if support.any() else 1)

    @pytest.mark.parametrize("rule", RULES)
    @given(x=vectors)
    def test_the_scale_belongs_to_the_support(self, x: Float, rule: TernaryRule) -> None:
        codes, scale = whole(x, rule)
        chosen = np.abs(x[codes != 0].astype(np.float64))
        if chosen.size == 0:
            assert scale == 1 and not x.any()
        else:
            mean = sqrt(np.mean(chosen**2)) if rule is TernaryRule.RMS else float(np.mean(chosen))
            assert scale == pytest.approx(mean, rel=1e-7)

    @pytest.mark.parametrize("rule", RULES)
    @given(x=vectors)
    def test_signs_turn_and_scales_follow_powers_of_two(self, x: Float, rule: TernaryRule) -> None:
        codes, scale = whole(x, rule)
        turned, same = whole(-x, rule)
        np.testing.assert_array_equal(turned, -codes)
        assert same == scale
        larger, eightfold = whole(8 * x, rule)
        np.testing.assert_array_equal(larger, codes)
        assert eightfold == (8 * scale if x.any() else 1)

    @pytest.mark.parametrize("rule", RULES)
    @given(x=vectors)
    def test_what_is_ternary_stays_as_it_is(self, x: Float, rule: TernaryRule) -> None:
        codes, scale = whole(x, rule)
        again, same = whole((scale * codes).astype(np.float32), rule)
        np.testing.assert_array_equal(again, codes)
        assert same == (pytest.approx(scale, rel=1e-7) if codes.any() else 1)

    @pytest.mark.parametrize("rule", RULES)
    def test_equal_magnitudes_have_equal_codes(self, rule: TernaryRule) -> None:
        codes, scale = whole(np.array([2, -1, 1, 1, -1, 0], np.float32), rule)
        assert len(set(np.abs(codes[1:5]).tolist())) == 1
        codes, scale = whole(np.full(1000, -0.1, np.float32), rule)
        assert (codes == -1).all() and scale == pytest.approx(0.1)


class TestTiles:
    @pytest.mark.parametrize("rule", RULES)
    @given(data=st.data())
    def test_every_tile_is_fitted_alone(self, rule: TernaryRule, data: st.DataObject) -> None:
        shape = data.draw(array_shapes(min_dims=1, max_dims=4, max_side=5))
        tile = tuple(data.draw(st.integers(1, 6)) for _ in shape)
        x = data.draw(arrays(np.float32, shape, elements=ordinary))
        codes, scale = ternarise(x, tile, rule)
        assert codes.shape == shape and scale.shape == tiles(shape, tile)
        assert codes.dtype == np.int8 and scale.dtype == np.float32
        for place, part in tiles_one_by_one(shape, tile):
            alone, alone_scale = whole(x[part].reshape(-1), rule)
            np.testing.assert_array_equal(codes[part].reshape(-1), alone)
            assert scale[place] == alone_scale

    @pytest.mark.parametrize("rule", RULES)
    def test_memory_layout_does_not_matter(self, rule: TernaryRule) -> None:
        x = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
        wanted = ternarise(x, (4, 3), rule)
        for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1][::-1]):
            for got, expected in zip(ternarise(same, (4, 3), rule), wanted, strict=True):
                np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("rule", RULES)
    def test_many_tiles_are_fitted_as_few_are(self, rule: TernaryRule) -> None:
        """More elements than are worked on at a time."""
        x = np.random.default_rng(1).standard_normal((3, 700_001)).astype(np.float32)
        codes, scale = ternarise(x, (1, 100), rule)
        first, first_scale = ternarise(x[:, -201:], (1, 100), rule)
        np.testing.assert_array_equal(codes[:, -101:-1], ternarise(x[:, -101:-1], (1, 100), rule)[0])
        assert scale.shape == (3, 7001)
        np.testing.assert_array_equal(scale[:, -1], np.abs(x[:, -1]))
        assert first.shape == (3, 201) and first_scale.shape == (3, 3)

    @pytest.mark.parametrize(("shape", "tile"), [((), ()), ((0,), (0,)), ((0, 3), (1, 3)), ((3, 0), (1, 4))])
    def test_arrays_without_axes_or_elements(self, shape: Shape, tile: Shape) -> None:
        x = np.full(shape, -2, np.float32)
        for rule in RULES:
            codes, scale = ternarise(x, tile, rule)
            assert codes.shape == shape and scale.shape == tiles(shape, tile)
            assert (codes == -1).all() and (scale == (2 if x.size else 1)).all()
        codes, scale = binarise(x, tile)
        assert codes.shape == shape and scale.shape == tiles(shape, tile)


class TestNumbersThatAreNone:
    @pytest.mark.parametrize("rule", RULES)
    def test_they_are_left_out_of_the_fit(self, rule: TernaryRule) -> None:
        x = np.array([1.5, -0.25, 2, 0.5], np.float32)
        codes, scale = whole(x, rule)
        with_more, same = whole(np.concatenate([x, np.array([inf, -inf, nan], np.float32)]), rule)
        assert same == scale
        assert with_more.tolist() == [*codes.tolist(), 1, -1, 0]

    @pytest.mark.parametrize("rule", RULES)
    def test_a_tile_without_a_number_has_scale_one(self, rule: TernaryRule) -> None:
        for values, expected in (([0, -0.0], [0, 0]), ([nan, 0], [0, 0]), ([inf, 0], [1, 0]), ([nan, -inf], [0, -1])):
            codes, scale = whole(np.array(values, np.float32), rule)
            assert (codes.tolist(), scale) == (expected, 1)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("size", [LEAST, 1e-30, LARGEST])
    def test_the_smallest_and_largest_numbers(self, rule: TernaryRule, size: float) -> None:
        codes, scale = whole(np.array([size, -size, 0], np.float32), rule)
        assert (codes.tolist(), scale) == ([1, -1, 0], np.float32(size))

    @pytest.mark.parametrize("rule", RULES)
    def test_float64_beyond_float32_saturates(self, rule: TernaryRule) -> None:
        codes, scale = ternarise(np.array([1e300, -1e300, 1.0]), (3,), rule)
        assert codes.tolist() == [1, -1, 0] and scale.tolist() == [np.float32(LARGEST)]
        codes, scale = ternarise(np.array([1e-300, 0.0]), (2,), rule)
        assert codes.tolist() == [0, 0] and scale.tolist() == [1]

    @pytest.mark.parametrize("rule", RULES)
    def test_float16_is_fitted_as_float32(self, rule: TernaryRule) -> None:
        x = (np.random.default_rng(2).standard_normal(200) * 1e-5).astype(np.float16)
        for got, expected in zip(ternarise(x, (50,), rule), ternarise(x.astype(np.float32), (50,), rule), strict=True):
            np.testing.assert_array_equal(got, expected)


class TestBinary:
    @given(vectors)
    def test_no_other_scale_is_nearer(self, x: Float) -> None:
        codes, scale = binarise(x, x.shape)
        np.testing.assert_array_equal(codes, np.where(x < 0, -1, 1))
        if not x.any():
            assert scale == np.finfo(np.float32).tiny
            return
        assert scale == np.float32(np.abs(x.astype(np.float64)).mean())
        for other in (0.99, 1.01):
            assert error(x, codes, float(scale[0])) <= error(x, codes, float(scale[0]) * other)

    def test_zero_of_either_sign_and_nan_are_plus_one(self) -> None:
        codes, scale = binarise(np.array([0.0, -0.0, nan, inf, -inf, -3], np.float32), (6,))
        assert codes.tolist() == [1, 1, 1, 1, -1, -1]
        assert scale == 1  # the mean of 0, 0 and 3: what is not finite does not count

    def test_tiles_have_scales_of_their_own(self) -> None:
        x = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
        _, scale = binarise(x, (2, 3))
        np.testing.assert_array_equal(scale, [[4, 6], [10, 12]])
