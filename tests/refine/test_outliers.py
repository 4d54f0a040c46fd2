from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fewbits.errors import DataError, FormatError
from fewbits.formats.numerics.reference import fake_quantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.outliers import Split, duplicate_channels, outlier_channels, worst_channels
from refined_layers import problem


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def test_channels_from_six_on_are_outliers() -> None:
    np.testing.assert_array_equal(outlier_channels(np.array([5.9, 6.0, 0.0, 60.0])), [1, 3])


class TestWorstChannels:
    def test_the_first_one_is_the_best_single_one(self) -> None:
        rng = np.random.default_rng(0)
        change, gram = rng.normal(size=(5, 7)), Gram.of(rng.normal(size=(1, 40, 7)) @ rng.normal(size=(7, 7)))

        def error(channels: tuple[int, ...]) -> float:
            left = change.copy()
            left[:, list(channels)] = 0
            return float(output_errors(left, gram).sum())

        chosen = worst_channels(change, gram, 7)
        assert error((int(chosen[0]),)) == min(error((place,)) for place in range(7))
        falling = [error(tuple(chosen[:count])) for count in range(len(chosen) + 1)]
        assert falling == sorted(falling, reverse=True)
        # Greedy is near the best set of two.
        assert error(tuple(chosen[:2])) <= 1.2 * min(error(pair) for pair in combinations(range(7), 2))

    def test_they_are_the_outliers_of_a_layer(self) -> None:
        one = problem(0, size=64)
        change = fake_quantize(one.weight, scaled("int3r/channel")) - one.weight
        peaks = np.abs(one.inputs).max(axis=0)
        assert set(worst_channels(change, one.gram, 6)) == set(np.argsort(peaks)[-6:])

    def test_nothing_is_kept_where_nothing_helps(self) -> None:
        assert len(worst_channels(np.zeros((3, 4)), Gram.of(np.ones((1, 2, 4))), 3)) == 0

    def test_moments_of_another_layer_are_refused(self) -> None:
        with pytest.raises(DataError, match="do not go"):
            worst_channels(np.zeros((3, 4)), Gram.empty(5), 1)


class TestSplit:
    def test_the_parts_add_up_to_the_whole(self) -> None:
        one = problem(0, size=64)
        split = Split.of(one.weight, np.array([3, 40]))
        rest, kept = split.inputs(one.inputs)
        found = rest @ split.rest.T + kept @ split.kept.T
        expected = one.inputs @ one.weight.T
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    def test_eight_bits_without_the_outliers_are_far_more_exact(self) -> None:
        one = problem(0, size=128, gain=60)
        split = Split.of(one.weight, np.sort(np.argsort(np.abs(one.inputs).max(axis=0))[-6:]))
        int8 = scaled("int8r/tensor")
        expected = one.inputs @ one.weight.T
        plain = fake_quantize(one.inputs, int8) @ fake_quantize(one.weight, int8).T
        rest, kept = split.inputs(one.inputs)
        found = fake_quantize(rest, int8) @ fake_quantize(split.rest, int8).T + kept @ split.kept.T
        assert np.square(found - expected).sum() < np.square(plain - expected).sum() / 100


class TestDuplicates:
    @pytest.mark.parametrize("count", [0, 1, 9, 80])
    def test_the_product_stays(self, count: int) -> None:
        one = problem(0, size=64)
        found = duplicate_channels(one.weight, scaled("int4r/tensor"), count)
        assert found.weight.shape == (64, 64 + count)
        expected = one.inputs @ one.weight.T
        product = one.inputs[:, found.source] @ found.weight.T
        np.testing.assert_allclose(product, expected, atol=1e-4 * np.abs(expected).max())

    def test_the_halves_of_a_weight_round_to_what_it_rounds_to(self) -> None:
        """Section 3.3: ``Q(w) = Q((w - 1/2) / 2) + Q((w + 1/2) / 2)`` in steps."""
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(16, 12))
        weight[:, 5] *= 3
        found = duplicate_channels(weight, scaled("int5r/tensor"), 1)
        assert list(found.source) == [*range(12), 5]
        codes = quantize(found.weight, scaled("int5r/tensor"), found.scales).codes.astype(int)
        step = float(found.scales.scale.item())
        inside = np.abs(weight[:, 5]) < 2 * 15 * step
        np.testing.assert_array_equal((codes[:, 5] + codes[:, 12])[inside], np.rint(weight[:, 5] / step)[inside])

    def test_a_few_duplicates_take_an_outlier_s_error_away(self) -> None:
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(64, 64))
        weight[3, 7], weight[50, 20] = 30, -25
        format = scaled("int4r/tensor")
        plain = np.square(fake_quantize(weight, format) - weight).sum()
        found = duplicate_channels(weight, format, 4)
        rounded = fake_quantize(found.weight, format, found.scales)
        merged = np.zeros_like(weight)
        np.add.at(merged, (slice(None), found.source), rounded)
        assert np.square(merged - weight).sum() < plain / 3

    def test_other_formats_are_refused(self) -> None:
        for text in ("int8r/channel", "uint8/tensor", "fp8_e4m3/tensor", "int8/tensor/pow2"):
            with pytest.raises(FormatError, match="int8r/tensor"):
                duplicate_channels(np.ones((3, 4)), scaled(text), 1)
        with pytest.raises(DataError, match="shape"):
            duplicate_channels(np.ones(3), scaled("int8r/tensor"), 1)
