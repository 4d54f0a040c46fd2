from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.refine.equalisation import absorb_biases, equalise
from fewbits.refine.layer import Layer, as_matrices, patches

Float = NDArray[np.float64]


def layer(rng: np.random.Generator, shape: tuple[int, ...], groups: int = 1, spread: float = 4.0) -> Layer:
    """A layer whose output channels have ranges that differ by up to ``2**(2 * spread)``."""
    scale = 2.0 ** rng.uniform(-spread, spread, (shape[0], *(1,) * (len(shape) - 1)))
    return Layer(rng.normal(size=shape) * scale, rng.normal(size=shape[0]), groups)


def computed(one: Layer, x: Float) -> Float:
    """The layer's output: of a linear layer for (samples, inputs), of a convolution without padding for a map."""
    if one.weight.ndim == 2:
        return np.asarray(x @ one.weight.T + one.bias)
    kernel = one.weight.shape[2:]
    y = patches(x, kernel, groups=one.groups) @ as_matrices(one.weight, one.groups).transpose(0, 2, 1)
    places = [size - reach + 1 for size, reach in zip(x.shape[2:], kernel, strict=True)]
    maps = y.transpose(0, 2, 1).reshape(one.outputs, len(x), *places).swapaxes(0, 1)
    return np.asarray(maps + one.bias.reshape(-1, *(1,) * len(kernel)))


def through(layers: tuple[Layer, ...], x: Float) -> Float:
    for place, one in enumerate(layers):
        x = x.reshape(len(x), -1) if one.weight.ndim == 2 else x
        x = computed(one, x)
        x = np.maximum(x, 0) if place < len(layers) - 1 else x
    return x


def chains() -> dict[str, tuple[tuple[Layer, ...], Float]]:
    rng = np.random.default_rng(0)
    linear = tuple(layer(rng, shape) for shape in ((12, 5), (9, 12), (4, 9)))
    separable = (layer(rng, (6, 3, 1, 1)), layer(rng, (6, 1, 3, 3), groups=6), layer(rng, (4, 6, 1, 1)))
    grouped = (layer(rng, (8, 3, 2, 2)), layer(rng, (6, 4, 2, 2), groups=2))
    flattened = (layer(rng, (5, 2, 3, 3)), layer(rng, (4, 5 * 9)))
    return {
        "linear": (linear, rng.normal(size=(20, 5))),
        "depthwise between pointwise": (separable, rng.normal(size=(2, 3, 6, 6))),
        "grouped": (grouped, rng.normal(size=(2, 3, 6, 6))),
        "linear behind a flattened map": (flattened, rng.normal(size=(2, 2, 5, 5))),
    }


@pytest.mark.parametrize("name", chains())
class TestEqualise:
    def test_the_function_is_preserved(self, name: str) -> None:
        layers, x = chains()[name]
        np.testing.assert_allclose(through(equalise(layers).layers, x), through(layers, x), rtol=1e-9, atol=1e-9)

    def test_in_float32_too(self, name: str) -> None:
        layers, x = chains()[name]
        single = tuple(
            replace(one, weight=one.weight.astype(np.float32), bias=one.bias.astype(np.float32)) for one in layers
        )
        expected = through(single, x)
        found = equalise(single).layers
        assert {one.weight.dtype for one in found} == {one.bias.dtype for one in found} == {np.dtype(np.float32)}
        np.testing.assert_allclose(through(found, x), expected, atol=1e-5 * np.abs(expected).max())

    def test_both_sides_of_a_channel_get_the_same_range(self, name: str) -> None:
        layers, _ = chains()[name]
        found = equalise(layers).layers
        for first, second in pairwise(found):
            out = np.abs(first.weight).reshape(first.outputs, -1).max(axis=1)
            if second.weight.ndim == 2:
                by_channel = second.weight.reshape(1, second.outputs, first.outputs, -1)
            else:
                by_channel = second.by_input
            np.testing.assert_allclose(out, np.abs(by_channel).max(axis=(1, 3)).reshape(-1), rtol=0.01)

    def test_the_factors_are_what_channels_were_divided_by(self, name: str) -> None:
        layers, _ = chains()[name]
        found = equalise(layers)
        for before, after, factor in zip(layers, found.layers, found.factors, strict=False):
            np.testing.assert_allclose(after.bias, before.bias / factor)


def test_it_maximises_the_product_of_precisions() -> None:
    """DFQ, equation 9: the precision of a channel is its range over the range of the tensor."""
    rng = np.random.default_rng(0)
    pair = layer(rng, (12, 5)), layer(rng, (4, 12))

    def precision(first: Float, second: Float) -> float:
        out, into = np.abs(first).max(axis=1), np.abs(second).max(axis=0)
        return float(((out / out.max()) * (into / into.max())).sum())

    best = precision(*(one.weight for one in equalise(pair).layers))
    for _ in range(200):
        factor = 2.0 ** rng.uniform(-5, 5, 12)
        assert precision(pair[0].weight / factor[:, None], pair[1].weight * factor) <= best + 1e-9


def test_dead_channels_stay() -> None:
    rng = np.random.default_rng(0)
    first, second = layer(rng, (4, 5)), layer(rng, (3, 4))
    first.weight[1] = 0
    second.weight[:, 2] = 0
    found = equalise((first, second))
    assert found.factors[0][1] == found.factors[0][2] == 1
    assert np.isfinite(found.layers[0].weight).all()


def test_neighbours_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="6 outputs cannot be followed by one of 7 inputs"):
        equalise((layer(rng, (6, 5)), layer(rng, (3, 7))))
    broken = Layer(np.full((2, 2), np.nan), np.zeros(2))
    with pytest.raises(DataError, match="layer 0 of the chain holds NaN"):
        equalise((broken, layer(rng, (2, 2))))


class TestAbsorbBiases:
    def test_nothing_changes_where_values_stay_above_what_is_absorbed(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(500, 5))
        first = Layer(rng.normal(size=(8, 5)), rng.uniform(-5, 50, 8))
        second = layer(rng, (3, 8))
        before = computed(first, x)
        # As many deviations as the farthest sample lies below its mean: nothing is cut off that was not before.
        sigmas = float(((before.mean(axis=0) - before.min(axis=0)) / before.std(axis=0)).max())
        found = absorb_biases(first, second, before.mean(axis=0), before.std(axis=0), sigmas)
        assert (found[0].bias <= first.bias).all() and (found[0].bias < first.bias - 5).any()
        np.testing.assert_allclose(through(found, x), through((first, second), x), atol=1e-9)

    def test_three_deviations_change_next_to_nothing_of_normal_values(self) -> None:
        rng = np.random.default_rng(0)
        first = Layer(rng.normal(size=(6, 3, 1, 1)), np.full(6, 30.0))
        second = Layer(rng.normal(size=(6, 1, 2, 2)), np.zeros(6), groups=6)
        x = rng.normal(size=(20, 3, 9, 9))
        std = np.sqrt(np.square(first.weight).sum(axis=(1, 2, 3)))
        found = absorb_biases(first, second, first.bias, std)
        expected = through((first, second), x)
        assert np.square(through(found, x) - expected).mean() < 1e-5 * np.square(expected).mean()
        assert computed(found[0], x).max() < 0.8 * computed(first, x).max()

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        rng = np.random.default_rng(0)
        with pytest.raises(DataError, match="shape"):
            absorb_biases(layer(rng, (4, 5)), layer(rng, (3, 4)), np.zeros(3), np.ones(3))
