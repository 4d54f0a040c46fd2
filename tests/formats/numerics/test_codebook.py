"""Codebooks: the nearest value in exact arithmetic, k-means against the exact optimum and scikit-learn, NF4's facts."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.cluster import KMeans

from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.levels import NF4
from fewbits.formats.numerics.codebook import fit, indices, nearest, thresholds

Float = NDArray[np.float32]

LARGEST = float(np.finfo(np.float32).max)

finite = st.floats(-LARGEST, LARGEST, width=32)
ordinary = st.integers(-50, 50).map(lambda n: n / 8)
lists = st.lists(finite, min_size=2, max_size=40).map(lambda v: np.array(sorted(v), np.float32))

SAMPLES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "student": lambda rng, n: rng.standard_t(3, n),
    "uniform": lambda rng, n: rng.random(n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "log-normal": lambda rng, n: rng.lognormal(0, 1.5, n),
    "far from zero": lambda rng, n: 1000 + rng.standard_normal(n),
    "two clusters": lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(3, 0.1, n), rng.normal(-1, 0.5, n)),
}


def sample(name: str, count: int, seed: int = 0) -> Float:
    return np.asarray(SAMPLES[name](np.random.default_rng(seed), count), np.float32)


def squared_error(x: Float, values: NDArray[Any]) -> float:
    distance = np.abs(x.reshape(-1, 1).astype(np.float64) - values.astype(np.float64)).min(axis=1)
    return float(np.sum(distance**2))


def least_error(x: Float, count: int) -> float:
    """The optimum over all partitions, by dynamic programming over every cut (Wang and Song 2011), in O(k n^2)."""
    ordered = np.sort(x.reshape(-1).astype(np.float64)) - np.median(x.astype(np.float64))
    sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (ordered, ordered**2))
    place = np.arange(x.size + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = squares - squares[:, None] - (sums - sums[:, None]) ** 2 / (place - place[:, None])
    cost = np.where(place[:, None] < place, cost, inf)
    best = np.where(place == 0, 0, cost[0])
    for _ in range(count - 1):
        best = np.minimum(best, (best[:, None] + cost).min(axis=0))
    return float(best[-1])


def whole(x: Float, bits: int) -> Float:
    return fit(x, x.shape, bits).reshape(-1)


class TestNearest:
    @given(lists, st.data())
    def test_no_value_is_nearer_and_of_two_the_lower_is_taken(self, values: Float, data: st.DataObject) -> None:
        """Exactly: numbers, their midpoints and the neighbours of these are told apart as fractions."""
        low = data.draw(st.integers(0, values.size - 2))
        middle = np.float32(values[low] / 2 + values[low + 1] / 2)
        with np.errstate(over="ignore"):
            around = [middle, np.nextafter(middle, np.float32(-inf)), np.nextafter(middle, np.float32(inf))]
        x = np.array([*around, *data.draw(st.lists(finite, max_size=5)), values[low]], np.float32)
        x = x[np.isfinite(x)]
        exact = [Fraction(float(value)) for value in values]
        for number, place in zip(x.tolist(), nearest(x, values).tolist(), strict=True):
            distances = [abs(Fraction(number) - value) for value in exact]
            assert place == distances.index(min(distances))

    @given(lists, st.data())
    def test_thresholds_are_the_last_numbers_on_the_lower_side(self, values: Float, data: st.DataObject) -> None:
        dtype = data.draw(st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)]))
        limits = thresholds(values, dtype)
        assert limits.dtype == dtype
        with np.errstate(over="ignore"):  # next to the largest number is Inf
            above = np.nextafter(limits, np.array(inf, dtype))
        for low, high, limit, next_up in zip(values[:-1], values[1:], limits, above, strict=True):
            middle = (Fraction(float(low)) + Fraction(float(high))) / 2
            assert Fraction(float(limit)) <= middle
            assert not np.isfinite(next_up) or Fraction(float(next_up)) > middle

    @given(lists, arrays(np.float32, st.integers(0, 20), elements=finite))
    def test_it_is_monotone_and_values_stand_for_themselves(self, values: Float, x: Float) -> None:
        x = np.sort(x)
        places = nearest(x, values)
        assert (np.diff(places.astype(int)) >= 0).all()
        np.testing.assert_array_equal(values[nearest(values, values)], values)

    @pytest.mark.parametrize("count", [2, 16, 33, 256, 257, 1000])
    def test_short_and_long_lists_agree_with_the_distances(self, count: int) -> None:
        rng = np.random.default_rng(count)
        values = np.sort(rng.standard_normal(count)).astype(np.float32)
        x = rng.standard_normal((30, 50)).astype(np.float32)
        found = nearest(x, values)
        assert found.shape == x.shape and found.dtype == (np.uint8 if count <= 256 else np.uint16)
        distances = np.abs(x[..., None].astype(np.float64) - values.astype(np.float64))
        np.testing.assert_array_equal(found, distances.argmin(axis=-1))

    @pytest.mark.parametrize("count", [4, 40])
    def test_numbers_that_are_none(self, count: int) -> None:
        values = np.arange(count, dtype=np.float32)
        assert nearest(np.array([inf, -inf, nan], np.float32), values).tolist() == [count - 1, 0, 0]

    def test_of_equal_values_the_first_is_taken(self) -> None:
        values = np.array([0, 1, 1, 2, 2, 2], np.float32)
        assert nearest(np.array([-1, 0.5, 1, 1.4, 1.5, 1.6, 9, inf], np.float32), values).tolist() == [
            *(0, 0, 1, 1, 1, 3, 3, 3)
        ]

    def test_float64_is_judged_in_float64_and_float16_in_float32(self) -> None:
        values = np.array([0, 1], np.float32)
        assert nearest(np.array([0.5, 0.5 + 2.0**-40]), values).tolist() == [0, 1]
        assert nearest(np.array([0.5, 0.5005], np.float16), values).tolist() == [0, 1]

    def test_memory_layout_and_axes_do_not_matter(self) -> None:
        values = np.array(NF4.values, np.float32)
        x = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
        np.testing.assert_array_equal(nearest(np.asfortranarray(x), values), nearest(x, values))
        np.testing.assert_array_equal(nearest(x[:, ::2], values), nearest(x, values)[:, ::2])
        assert nearest(np.float32(0.9).reshape(()), values).shape == ()
        assert nearest(np.zeros((0, 3), np.float32), values).shape == (0, 3)


class TestFit:
    @given(arrays(np.float32, st.integers(1, 60), elements=ordinary), st.integers(1, 3))
    def test_few_numbers_are_fitted_optimally(self, x: Float, bits: int) -> None:
        assert squared_error(x, whole(x, bits)) <= least_error(x, 1 << bits) * (1 + 1e-6) + 1e-9

    @pytest.mark.parametrize("name", SAMPLES)
    @pytest.mark.parametrize(("bits", "factor"), [(1, 1.01), (2, 1.01), (4, 1.01), (6, 1.05)])
    def test_many_numbers_come_within_a_factor_of_the_optimum(self, name: str, bits: int, factor: float) -> None:
        x = sample(name, 1000)
        assert squared_error(x, whole(x, bits)) <= least_error(x, 1 << bits) * factor

    @pytest.mark.parametrize("name", SAMPLES)
    def test_it_is_never_more_than_a_percent_worse_than_scikit_learn(self, name: str) -> None:
        x = sample(name, 20_000, seed=1)
        peer = KMeans(16, n_init=3, random_state=0).fit(x.reshape(-1, 1).astype(np.float64))
        assert squared_error(x, whole(x, 4)) <= 1.01 * peer.inertia_

    @pytest.mark.parametrize("name", SAMPLES)
    def test_every_value_is_the_mean_of_the_numbers_nearest_to_it(self, name: str) -> None:
        """What Lloyd's algorithm ends with."""
        x = sample(name, 5000)
        values = whole(x, 3)
        places = nearest(x, values)
        for place, value in enumerate(values.tolist()):
            assert value == pytest.approx(float(x[places == place].astype(np.float64).mean()), rel=1e-4, abs=1e-6)

    @given(arrays(np.float32, st.integers(1, 30), elements=finite), st.integers(1, 4))
    def test_values_ascend_within_the_numbers_and_fitting_again_is_exact(self, x: Float, bits: int) -> None:
        values = whole(x, bits)
        assert values.shape == (1 << bits,) and values.dtype == np.float32
        assert (np.diff(values.astype(np.float64)) >= 0).all()
        assert x.min() <= values[0] and values[-1] <= x.max()
        rounded = values[nearest(x, values)]
        again = whole(rounded, bits)
        np.testing.assert_array_equal(again[nearest(rounded, again)], rounded)

    @given(arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-3e38, -1e-40, 0.0, 1e-20, 0.1, 7, 3e38])))
    def test_no_more_different_numbers_than_values_are_kept_exactly(self, x: Float) -> None:
        values = whole(x, 3)
        np.testing.assert_array_equal(values[nearest(x, values)], x)
        different = np.unique(x + np.float32(0))
        np.testing.assert_array_equal(values[: different.size], different)
        assert (values[different.size :] == different[-1]).all()

    def test_a_few_numbers_repeated_many_times(self) -> None:
        """More of them than cells, and than values: the optimum weighs every one by how often it is there."""
        rng = np.random.default_rng(3)
        numbers = np.sort(rng.standard_normal(100)).astype(np.float32)
        x = rng.choice(numbers, 1500, p=(weights := rng.random(100) ** 4) / weights.sum())
        assert squared_error(x, whole(x, 3)) <= least_error(x, 8) * (1 + 1e-6)

    @given(st.data())
    def test_every_tile_is_fitted_alone(self, data: st.DataObject) -> None:
        shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=6))
        tile = tuple(data.draw(st.integers(1, 7)) for _ in shape)
        bits = data.draw(st.integers(1, 3))
        x = data.draw(arrays(np.float32, shape, elements=ordinary))
        table = fit(x, tile, bits)
        found = indices(x, table, tile)
        assert table.shape == (*tiles(shape, tile), 1 << bits) and found.shape == shape
        for place in np.ndindex(*tiles(shape, tile)):
            part = tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, tile, strict=True))
            np.testing.assert_array_equal(table[place], whole(x[part], bits))
            np.testing.assert_array_equal(found[part], nearest(x[part], table[place]))

    def test_lists_of_256_values_for_each_tile(self) -> None:
        x = sample("laplace", 3000).reshape(3, 1000)
        table = fit(x, (1, 1000), 8)
        found = indices(x, table, (1, 1000))
        for row in range(3):
            np.testing.assert_array_equal(found[row], nearest(x[row], table[row, 0]))
        assert squared_error(x[0], table[0, 0]) <= 1.05 * least_error(x[0], 256)

    def test_nothing_is_random(self) -> None:
        x = sample("normal", 3000)
        np.testing.assert_array_equal(whole(x, 4), whole(x.copy(), 4))
        np.testing.assert_array_equal(whole(x, 4), whole(np.random.default_rng(0).permutation(x), 4))

    def test_numbers_that_are_none_are_left_out(self) -> None:
        x = sample("normal", 500)
        with_more = np.concatenate([x, np.array([nan, inf, -inf, nan], np.float32)])
        np.testing.assert_array_equal(whole(with_more, 3), whole(x, 3))
        assert indices(with_more, fit(with_more, (504,), 3), (504,))[-4:].tolist() == [0, 7, 0, 0]
        for nothing in ([nan, inf], [0.0, -0.0]):
            assert whole(np.array(nothing, np.float32), 2).tolist() == [0, 0, 0, 0]

    def test_tiles_with_and_without_numbers_side_by_side(self) -> None:
        x = np.array([[1, 2, 4, nan], [nan, nan, inf, nan], [5, 5, 5, 5], [-1, inf, 4, nan]], np.float32)
        assert fit(x, (1, 4), 1).reshape(4, 2).tolist() == [[1.5, 4], [0, 0], [5, 5], [-1, 4]]

    @pytest.mark.parametrize(("shape", "tile"), [((), ()), ((0,), (0,)), ((2, 0), (1, 4)), ((0, 3), (1, 3))])
    def test_arrays_without_axes_or_elements(self, shape: Shape, tile: Shape) -> None:
        x = np.full(shape, 3, np.float32)
        table = fit(x, tile, 2)
        assert table.shape == (*tiles(shape, tile), 4)
        assert (table == (3 if x.size else 0)).all()
        assert (indices(x, table, tile) == 0).all()

    def test_float64_beyond_float32_saturates(self) -> None:
        assert whole(np.array([1e300, -1e300, 0.5]), 2).tolist() == [-LARGEST, 0.5, LARGEST, LARGEST]


class TestNormalFloat:
    """Dettmers et al., QLoRA, arXiv 2305.14314, section 3 and appendix E."""

    VALUES = np.array(NF4.values)

    def test_it_has_sixteen_values_with_an_exact_zero_and_both_ends(self) -> None:
        assert self.VALUES.size == 16 and NF4.bits == 4 and NF4.max == 1
        assert self.VALUES[[0, 7, 15]].tolist() == [-1, 0, 1]
        assert (self.VALUES < 0).sum() == 7 and (self.VALUES > 0).sum() == 8
        np.testing.assert_array_equal(self.VALUES, self.VALUES.astype(np.float32))

    def test_the_values_are_quantiles_of_the_normal_distribution(self) -> None:
        """As the authors' code makes them: nine quantiles of the positive half and eight of the negative, sharing 0."""
        offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
        positive = norm.ppf(np.linspace(offset, 0.5, 9))[:-1]
        negative = -norm.ppf(np.linspace(offset, 0.5, 8))[:-1]
        values = np.sort(np.concatenate([positive, [0.0], negative]))
        np.testing.assert_allclose(self.VALUES, values / values.max(), atol=2e-7)

    def test_it_is_not_symmetric(self) -> None:
        assert set(-self.VALUES) & set(self.VALUES) == {-1.0, 0.0, 1.0}
