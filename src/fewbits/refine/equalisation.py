"""Cross-layer equalisation: the ranges of channels are evened out across layers, and the function stays as it is.

``relu(s x) = s relu(x)`` for s > 0, so an output channel of one layer may be divided by s if the next layer's weights
for it are multiplied by s. With ``s = sqrt(r1 / r2)`` both have the range ``sqrt(r1 r2)`` afterwards, which is what one
scale for the whole tensor needs.

Source: Nagel et al., Data-Free Quantization (DFQ), arXiv 1906.04721, sections 4.1 and 4.1.3 (absorbing biases).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.refine.layer import Layer

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_TOLERANCE = 1e-3
"""A sweep that changes no channel by a larger share is the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Equalised:
    """The layers of a chain after equalisation, and by what each channel between two of them was divided.

    `factors` has one array (channels,) for each layer but the last. Ranges that were found between the layers before,
    and upper limits of a clip there, are divided by them.
    """

    layers: tuple[Layer, ...]
    factors: tuple[Float64, ...]


def equalise(layers: Sequence[Layer], *, sweeps: int = 100) -> Equalised:
    """Equalise a chain: layers whose outputs go to the next one alone, through nothing but ReLU (or nothing).

    Leaky ReLU, PReLU, max and average pooling and reshapes that keep the channels apart may stand between them, too;
    ReLU6 may if its limit becomes one for each channel (`Equalised.factors`). A depthwise convolution in the middle is
    equalised with both of its neighbours; behind a flattened map one channel is several inputs of a linear layer.
    Pairs take turns until nothing moves, or for `sweeps`. Channels of zeros stay.

    Raises:
        DataError: two neighbours do not fit, or a weight is not finite.
    """
    chain = list(layers)
    for place, layer in enumerate(chain):
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise DataError(f"layer {place} of the chain holds NaN or infinity; it cannot be equalised")
    factors = [np.ones(layer.outputs) for layer in chain[:-1]]
    for _ in range(sweeps):
        largest = 0.0
        for place in range(len(chain) - 1):
            step = _factor(chain[place], chain[place + 1])
            chain[place], chain[place + 1] = _rescaled(chain[place], chain[place + 1], step)
            factors[place] *= step
            largest = max(largest, float(np.abs(np.log(step)).max(initial=0.0)))
        if largest < _TOLERANCE:
            break
    return Equalised(tuple(chain), tuple(factors))


def absorb_biases(first: Layer, second: Layer, mean: Array, std: Array, sigmas: float = 3.0) -> tuple[Layer, Layer]:
    """Move what the ReLU between two layers hardly ever cuts off from the bias of the first into that of the second.

    `mean` and `std` (outputs of the first,) are of the values before the ReLU: beta and gamma of a batch norm that was
    folded, or measured. ``c = max(0, mean - sigmas * std)`` is taken from the first bias, and ``W2 c`` added to the
    second; the function changes only where a value is below c, and at borders that `second` pads with zeros, so a
    convolution should pad with nothing or its first layer leave c at 0. Raises DataError if shapes do not fit.
    """
    if not mean.shape == std.shape == first.bias.shape:
        raise DataError(f"mean and std have the shape {first.bias.shape} of the bias, not {mean.shape} and {std.shape}")
    absorbed = np.maximum(0.0, mean.astype(np.float64) - sigmas * std)
    by_channel = _by_channel(first, second)
    sums = by_channel.astype(np.float64).sum(axis=3)
    shift = (sums @ absorbed.reshape(second.groups, -1, 1)).reshape(-1)
    return (
        replace(first, bias=(first.bias - absorbed).astype(first.bias.dtype)),
        replace(second, bias=(second.bias + shift).astype(second.bias.dtype)),
    )


def _factor(first: Layer, second: Layer) -> Float64:
    """``sqrt(r1 / r2)`` of every channel between two layers; 1 where one of them is all zero (equation 11)."""
    out = np.abs(first.weight.reshape(first.outputs, -1)).max(axis=1).astype(np.float64)
    into = np.abs(_by_channel(first, second)).max(axis=(1, 3)).reshape(-1).astype(np.float64)
    alive = (out > 0) & (into > 0)
    return np.asarray(np.sqrt(np.where(alive, out, 1.0) / np.where(alive, into, 1.0)))


def _rescaled(first: Layer, second: Layer, factor: Float64) -> tuple[Layer, Layer]:
    rows = factor.reshape(-1, *(1,) * (first.weight.ndim - 1))
    columns = factor.reshape(second.groups, 1, -1, 1)
    weight = (_by_channel(first, second) * columns).reshape(second.weight.shape)
    return (
        replace(
            first,
            weight=(first.weight / rows).astype(first.weight.dtype),
            bias=(first.bias / factor).astype(first.bias.dtype),
        ),
        replace(second, weight=weight.astype(second.weight.dtype)),
    )


def _by_channel(first: Layer, second: Layer) -> Array:
    """The second weight as (groups, outputs / groups, channels of the first / groups, what is left)."""
    spread, left = divmod(second.inputs, first.outputs)
    if left or spread == 0 or (spread > 1 and (second.groups > 1 or second.weight.ndim > 2)):
        raise DataError(
            f"a layer of {first.outputs} outputs cannot be followed by one of {second.inputs} inputs in "
            f"{second.groups} groups: give layers in the order in which they are computed"
        )
    return second.weight.reshape(second.groups, second.outputs // second.groups, first.outputs // second.groups, -1)
