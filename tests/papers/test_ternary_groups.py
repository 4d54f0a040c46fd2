"""Fine-grained ternary weights (Mellempudi et al., arXiv 1705.01462): what groups of N weights keep.

The claims are checked on samples of the normal distribution and on a small network trained here on scikit-learn's
digits, quantised without retraining. The papers' own figures are of ImageNet networks and not reproduced.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import pi, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from digits_network import trained
from fewbits.formats.levels import TernaryRule
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.numerics.scales import per_element
from fewbits.formats.numerics.ternary import binarise, ternarise
from fewbits.formats.text import parse

Float = NDArray[np.float32]

GROUPS = (4, 8, 16, 64)
SEEDS = (0, 1, 2)


def grouped(w: Float, size: int | None, rule: TernaryRule = TernaryRule.OPTIMAL) -> Float:
    """`w`, of shape (outputs, inputs), with one scale per `size` inputs of an output; for the whole of it if None."""
    tile = w.shape if size is None else (1, size)
    codes, scale = ternarise(w, tile, rule)
    return per_element(scale, tile, w.shape) * codes


def relative_error(weights: tuple[Float, ...], size: int | None, rule: TernaryRule = TernaryRule.OPTIMAL) -> float:
    missed = sum(float(np.sum((w - grouped(w, size, rule)).astype(np.float64) ** 2)) for w in weights)
    return float(np.sqrt(missed / sum(float(np.sum(w.astype(np.float64) ** 2)) for w in weights)))


@cache
def normal() -> tuple[Float, ...]:
    return (np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32),)


def every_sample() -> list[tuple[Float, ...]]:
    return [normal(), *(trained(seed).weights for seed in SEEDS)]


def test_the_error_rises_with_the_size_of_a_group() -> None:
    for weights in every_sample():
        errors = [relative_error(weights, size) for size in (1, *GROUPS, None)]
        assert errors[0] < 1e-6  # a scale for each weight keeps its magnitude
        assert all(small < large for small, large in pairwise(errors))


def test_how_large_the_error_is() -> None:
    """About the same for trained weights as for normal ones; for the whole of these it is Max's quantiser of three
    levels (IRE Trans. IT-6(1), 1960: 0.1902 of the variance)."""
    expected = (0.317, 0.375, 0.407, 0.429, sqrt(0.1902))
    for size, error in zip((*GROUPS, None), expected, strict=True):
        assert relative_error(normal(), size) == pytest.approx(error, abs=0.001)
        for seed in SEEDS:
            assert relative_error(trained(seed).weights, size) == pytest.approx(error, abs=0.02)


def test_the_optimum_beats_the_threshold_of_ternary_weight_networks() -> None:
    for weights in every_sample():
        for size in (*GROUPS, None):
            assert relative_error(weights, size) < relative_error(weights, size, TernaryRule.THRESHOLD)
    # Most where groups are smallest; for the whole of normal weights that threshold is nearly the best one.
    assert relative_error(normal(), 4, TernaryRule.THRESHOLD) == pytest.approx(0.338, abs=0.001)
    assert relative_error(normal(), None, TernaryRule.THRESHOLD) == pytest.approx(0.438, abs=0.001)


def test_the_root_mean_square_as_scale_costs_little() -> None:
    for weights in every_sample():
        for size in (*GROUPS, None):
            best = relative_error(weights, size)
            assert best < relative_error(weights, size, TernaryRule.RMS) < 1.02 * best


def test_binary_weights_keep_two_over_pi_of_the_variance() -> None:
    """Of normal weights: the square of the mean of their magnitudes (Rastegari et al., arXiv 1603.05279)."""
    (w,) = normal()
    codes, scale = binarise(w, w.shape)
    missed = np.mean((w - scale * codes).astype(np.float64) ** 2) / np.mean(w.astype(np.float64) ** 2)
    assert missed == pytest.approx(1 - 2 / pi, abs=0.002)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_four_keep_the_accuracy_within_three_points_without_retraining(seed: int) -> None:
    network = trained(seed)
    whole = network.accuracy(network.weights)
    assert whole > 0.97
    assert network.accuracy(tuple(grouped(w, 4) for w in network.weights)) > whole - 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_scales_of_eight_bits_change_the_logits_by_less_than_a_percent(seed: int) -> None:
    """Dynamic fixed point: a mantissa for each scale, one power of two for all of a layer (arXiv 1701.08978)."""
    network = trained(seed)
    exact, fixed = [], []
    for w in network.weights:
        codes, scale = ternarise(w, (1, 4), TernaryRule.OPTIMAL)
        few_bits = fake_quantize(scale, parse("uint8/tensor/pow2-rceil/sym"))
        exact.append(per_element(scale, (1, 4), w.shape) * codes)
        fixed.append(per_element(few_bits, (1, 4), w.shape) * codes)
    expected, found = network.logits(tuple(exact)), network.logits(tuple(fixed))
    assert not np.array_equal(found, expected)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
