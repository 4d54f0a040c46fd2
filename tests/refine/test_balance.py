"""Factors that even out channels: laws, and the expected error against rounding itself."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.formats.quantize import fake_quantize
from fewbits.refine.balance import balanced_factors
from fewbits.refine.layer import Layer

Float = NDArray[np.float64]


def linear(outputs: int, inputs: int, seed: int = 0) -> Layer:
    weight = np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    return Layer(weight, np.zeros(outputs, np.float32))


def depthwise(channels: int, seed: int = 0) -> Layer:
    weight = np.random.default_rng(seed).standard_normal((channels, 1, 3, 3)).astype(np.float32)
    return Layer(weight, np.zeros(channels, np.float32), channels)


peaks = st.lists(st.floats(0.01, 100), min_size=4, max_size=4).map(np.array)


@given(peaks, st.booleans())
def test_never_worse_than_none(peak: Float, apart: bool) -> None:
    found = balanced_factors(peak, np.square(peak) / 3, [depthwise(4) if apart else linear(5, 4)])
    assert found.error <= found.plain_error
    assert (found.factors > 0).all()


@given(peaks, st.floats(0.01, 100))
def test_the_unit_of_the_tensor_does_not_matter(peak: Float, unit: float) -> None:
    one, other = (balanced_factors(part, np.square(part) / 3, [linear(5, 4)]) for part in (peak, peak * unit))
    assert other.error == pytest.approx(one.error * unit**2)
    assert np.allclose(other.factors, one.factors, rtol=1e-6)


@given(peaks)
def test_behind_a_depthwise_convolution_all_channels_get_the_same_range(peak: Float) -> None:
    peak = np.maximum(peak, peak.max() / 64)
    found = balanced_factors(peak, np.square(peak) / 3, [depthwise(4)])
    left = peak / found.factors
    assert left.max() == pytest.approx(peak.max())
    if found.alpha:
        assert np.allclose(left, left[0])


@given(peaks, st.floats(0.5, 100))
def test_no_channel_is_stretched_beyond_a_clip(peak: Float, limit: float) -> None:
    peak = np.minimum(peak, limit)
    found = balanced_factors(peak, np.square(peak) / 3, [depthwise(4)], limit=limit)
    assert (peak / found.factors <= limit * (1 + 1e-9)).all()
    assert (found.factors[peak == limit] == 1).all()
    assert (found.factors <= 1).all()


def test_a_channel_that_hardly_showed_anything_is_stretched_no_more_than_64_times() -> None:
    peak = np.array([1.0, 1e-9, 0.0, 0.5])
    found = balanced_factors(peak, np.square(peak) / 3, [depthwise(4)])
    assert found.factors.max() / found.factors.min() <= 64 * (1 + 1e-9)


@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("limit", [inf, 200.0])
def test_the_expected_error_is_that_of_rounding(spread: float, limit: float) -> None:
    """Inputs are uniform between 0 and the peak of their channel; both operands rounded to 8 bits."""
    rng = np.random.default_rng(4)
    peak = np.geomspace(1, spread, 32)
    x = (rng.uniform(0, 1, (4096, 32)) * peak).astype(np.float32)
    layer = linear(64, 32)
    found = balanced_factors(x.max(axis=0), np.square(x).mean(axis=0), [layer], limit=limit)
    for factors, expected in ((np.ones(32), found.plain_error), (found.factors, found.error)):
        moved = (layer.weight * factors).astype(np.float32)
        inputs = fake_quantize((x / factors).astype(np.float32), "uint8/tensor")
        rounded = inputs @ fake_quantize(moved, "int8r/channel").T
        measured = np.square(rounded - x @ layer.weight.T).mean(axis=0).sum()
        assert measured == pytest.approx(expected, rel=0.1)
    if spread > 1 and limit == inf:
        assert found.error < 0.7 * found.plain_error
