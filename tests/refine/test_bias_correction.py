from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from fewbits.errors import DataError
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.text import parse
from fewbits.refine.bias_correction import (
    clipped_normal_mean,
    correct_analytically,
    correct_empirically,
)
from fewbits.refine.channel_mean import ChannelMean
from fewbits.refine.layer import Layer, as_matrices, patches

Float = NDArray[np.float64]

INT3 = parse("int3r/tensor")


def mean_of(values: Float, axis: int = 1) -> ChannelMean:
    return ChannelMean.empty(values.shape[axis]).update(values, axis)


def layers() -> tuple[Layer, ...]:
    rng = np.random.default_rng(0)
    return tuple(Layer(rng.normal(size=shape), rng.normal(size=shape[0])) for shape in ((20, 9), (16, 20), (5, 16)))


def outputs(net: tuple[Layer, ...], x: Float) -> list[Float]:
    """Of every layer, before the ReLU that follows it."""
    found = []
    for layer in net:
        found.append(x @ layer.weight.T + layer.bias)
        x = np.maximum(found[-1], 0)
    return found


def quantised(layer: Layer) -> Layer:
    return replace(layer, weight=fake_quantize(layer.weight, INT3))


class TestEmpirical:
    def test_layer_after_layer_every_mean_becomes_the_original_s(self) -> None:
        x = np.random.default_rng(1).normal(1, 1, size=(400, 9))
        original = outputs(layers(), x)
        net = tuple(map(quantised, layers()))
        shifted = [np.abs((now - then).mean(axis=0)).max() for now, then in zip(outputs(net, x), original, strict=True)]
        assert min(shifted) > 0.05
        for place in range(len(net)):
            now = outputs(net, x)[place]
            corrected = correct_empirically(net[place], mean_of(original[place]), mean_of(now))
            net = (*net[:place], corrected, *net[place + 1 :])
        for now, then in zip(outputs(net, x), original, strict=True):
            np.testing.assert_allclose(now.mean(axis=0), then.mean(axis=0), atol=1e-12)
        assert all((one.weight == quantised(other).weight).all() for one, other in zip(net, layers(), strict=True))

    def test_all_at_once_is_not_the_same(self) -> None:
        x = np.random.default_rng(1).normal(1, 1, size=(400, 9))
        original = outputs(layers(), x)
        net = tuple(map(quantised, layers()))
        net = tuple(
            correct_empirically(layer, mean_of(then), mean_of(now))
            for layer, then, now in zip(net, original, outputs(net, x), strict=True)
        )
        assert np.abs((outputs(net, x)[-1] - original[-1]).mean(axis=0)).max() > 0.05


class TestAnalytical:
    @pytest.mark.parametrize(("shape", "groups"), [((8, 6), 1), ((8, 6, 3, 3), 1), ((6, 1, 3, 3), 6), ((8, 3, 2), 2)])
    def test_the_mean_of_the_output_is_the_original_s(self, shape: tuple[int, ...], groups: int) -> None:
        rng = np.random.default_rng(0)
        layer = Layer(rng.normal(size=shape), rng.normal(size=shape[0]), groups)
        means = rng.normal(size=layer.inputs)
        # Every place of a map has the mean of its channel.
        space = (5,) * (len(shape) - 2)
        x = rng.normal(size=(40, layer.inputs, *space))
        x += means.reshape(-1, *(1,) * len(space)) - x.mean(axis=0)
        inputs = patches(x, shape[2:], groups=groups)
        corrected = correct_analytically(layer, quantised(layer).weight, means)
        weights = as_matrices(layer.weight, groups), as_matrices(quantised(layer).weight, groups)
        before, after = ((inputs @ w.transpose(0, 2, 1)).mean(axis=1).reshape(-1) for w in weights)
        assert np.abs(after - before).max() > 0.01
        np.testing.assert_allclose(after + corrected.bias, before + layer.bias, atol=1e-12)

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(DataError, match="9 input channels"):
            correct_analytically(layers()[0], layers()[0].weight, np.zeros(8))


@pytest.mark.parametrize(("low", "high"), [(0.0, inf), (0.0, 6.0), (-1.0, 1.0), (-inf, inf), (-inf, 2.0)])
def test_the_mean_of_a_clipped_normal_variable(low: float, high: float) -> None:
    """Against quantiles: the mean over evenly spaced probabilities."""
    mean, std = np.array([-2.0, 0.0, 1.0, 5.0, 9.0]), np.array([1.0, 2.0, -0.5, 3.0, 0.0])
    places = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    expected = np.clip(mean[:, None] + np.abs(std)[:, None] * places, low, high).mean(axis=1)
    np.testing.assert_allclose(clipped_normal_mean(mean, std, low, high), expected, atol=1e-4)
