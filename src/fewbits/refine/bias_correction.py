"""Bias correction: quantising weights shifts the mean of every output channel, and a bias takes the shift away again.

``E[y] - E[y'] = (W - W') E[x]`` for every output channel (or with what quantised inputs do to it, as it is measured);
it is added to the bias. Layers are corrected in the order in which they are computed, each with what the corrected and
quantised layers before it give: then no layer's correction is upset by those before it, and the mean of every layer
is right at once (appendix D of the source). Corrected all at once from the original's means, each is right alone.

Source: Nagel et al., Data-Free Quantization (DFQ), arXiv 1906.04721, section 4.2 and appendices C and D.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fewbits.errors import DataError
from fewbits.refine.channel_mean import ChannelMean
from fewbits.refine.layer import Layer

Array = NDArray[Any]
Float64 = NDArray[np.float64]


def correct_empirically(layer: Layer, original: ChannelMean, quantised: ChannelMean) -> Layer:
    """`layer` with the difference of the two means of its outputs added to its bias, so that they become one.

    `original` is of the original model, `quantised` of the quantised one on the same data, both of this layer's output
    before its activation function. To correct sequentially, measure `quantised` with all layers before it corrected.
    """
    return _shifted(layer, original.mean - quantised.mean)


def correct_analytically(layer: Layer, quantised: Array, input_mean: Array) -> Layer:
    """`layer`, whose weight becomes `quantised`, with ``(W - W') E[x]`` added to its bias.

    `input_mean` (inputs,) is the mean of every input channel, see `ChannelMean` and `clipped_normal_mean`; it is taken
    to be the same all over a map, as if there were no padding. The weight is left as it is.
    Raises DataError if shapes do not fit.
    """
    if quantised.shape != layer.weight.shape or input_mean.shape != (layer.inputs,):
        raise DataError(
            f"a weight of {layer.weight.shape} in {layer.groups} groups takes a quantised weight of that shape and the "
            f"means of {layer.inputs} input channels, not {quantised.shape} and {input_mean.shape}"
        )
    change = replace(layer, weight=layer.weight.astype(np.float64) - quantised).by_input.sum(axis=3)
    return _shifted(layer, (change @ input_mean.reshape(layer.groups, -1, 1)).reshape(-1))


def clipped_normal_mean(mean: Array, std: Array, low: float = 0.0, high: float = inf) -> Float64:
    """The mean of a normal variable clipped to [low, high]: of what a batch norm and ReLU (or ReLU6) leave.

    `mean` and `std` are beta and the magnitude of gamma of the batch norm, any shape; std 0 is a constant (appendix C).
    """
    mean, std = np.broadcast_arrays(mean.astype(np.float64), np.abs(std.astype(np.float64)))
    spread = np.where(std > 0, std, 1.0)
    bottom, top = (low - mean) / spread, (high - mean) / spread
    inside = mean * (ndtr(top) - ndtr(bottom)) + spread * (_density(bottom) - _density(top))
    below = low * ndtr(bottom) if low > -inf else 0.0
    above = high * ndtr(-top) if high < inf else 0.0
    return np.asarray(np.where(std > 0, inside + below + above, np.clip(mean, low, high)), np.float64)


def _density(x: Array) -> Float64:
    """Of the standard normal distribution; not ``scipy.stats``, which takes long to import."""
    return np.asarray(np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi))


def _shifted(layer: Layer, shift: Float64) -> Layer:
    return replace(layer, bias=(layer.bias + shift).astype(layer.bias.dtype))
