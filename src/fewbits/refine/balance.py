"""Factors that even out the channels of a tensor between layers, from what its values and the weights behind it are.

Rounding errors are taken to be uniform and independent: of activations, one step of the tensor in every channel, seen
through the weights; of weights, one step of the output channel, seen through the energy of the inputs. With
``y = x / s`` the first is ``sum_j (a s_j)^2 / 12 |W_j|^2`` with ``a`` the step of y, the second
``sum_ij (b_i / s_j)^2 / 12 E[x_j^2]`` with ``b_i`` the step of row i of ``W diag(s)``. Behind a
depthwise convolution the second does not depend on s at all, and all channels may have the same range.

Sources: Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.1 (scaling across layers); Xiao et al.,
SmoothQuant, arXiv 2211.10438, equation 4 (factors from ranges of inputs and weights, with one strength).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewbits.refine.input_factors import InputFactors
from fewbits.refine.layer import Layer
from fewbits.refine.smoothing import smoothing_factors

Array = NDArray[Any]
Float64 = NDArray[np.float64]

ALPHAS: Final = tuple(step / 10 for step in range(11))
_LEAST: Final = 1 / 64
"""Of the largest peak: a channel that hardly showed anything may show more on other data."""
_HEADROOM: Final = 1.5
"""By so much a channel may exceed its peak before a clip that was out of its reach cuts it."""
_WEIGHT_STEPS: Final = 127


def balanced_factors(
    peak: Array, energy: Array, readers: Sequence[Layer], *, steps: int = 255, limit: float = inf
) -> InputFactors:
    """The factors of a tensor's channels with the least expected error of 8-bit codes; never worse than none.

    Args:
        peak: the largest magnitude of every channel (channels,).
        energy: the mean square of every channel (channels,).
        readers: the layers that read the tensor.
        steps: of the codes between the tensor's largest magnitude and zero: 255 where it has one sign, else 127.
        limit: where the activation clips. Channels that reach it keep their scale, the others are not stretched
            beyond it.

    `error` and `plain_error` of the result are expected squared errors of one output element, summed over channels.
    """
    floor = np.maximum(peak.astype(np.float64), _LEAST * float(peak.max(initial=0.0)))
    weights = [np.abs(reader.by_input).max(axis=3).astype(np.float64) for reader in readers]
    largest = np.max([part.max(axis=1).reshape(-1) for part in weights], axis=0)
    power = np.sum([np.square(reader.by_input, dtype=np.float64).sum(axis=(1, 3)).reshape(-1) for reader in readers], 0)

    def error(factors: Float64) -> float:
        step = float((floor / factors).max(initial=0.0)) / steps
        of_inputs = float((np.square(step * factors) * power).sum()) / 12
        return of_inputs + sum(
            _of_weights(part, factors, energy, reader.by_input.shape[3])
            for part, reader in zip(weights, readers, strict=True)
        )

    none = np.ones(len(floor))
    plain = best = error(none)
    found = (none, 0.0)
    for alpha in ALPHAS:
        factors = _within(_centred(smoothing_factors(floor, largest, alpha), floor), floor, limit)
        if (one := error(factors)) < best:
            best, found = one, (factors, alpha)
    return InputFactors(*found, best, plain)


def _of_weights(part: Float64, factors: Float64, energy: Array, taps: int) -> float:
    """What the rounding of a weight, of which `part` (groups, outputs, inputs) has the magnitudes, does to outputs."""
    groups, _, inputs = part.shape
    apart = factors.reshape(groups, 1, inputs)
    steps = (part * apart).max(axis=2) / _WEIGHT_STEPS
    seen = (energy.reshape(groups, inputs) / np.square(apart[:, 0])).sum(axis=1)
    return float((np.square(steps).sum(axis=1) * seen).sum()) * taps / 12


def _centred(factors: Float64, peak: Float64) -> Float64:
    """`factors` times one number, so that the tensor's largest magnitude stays."""
    largest = float(peak.max(initial=0.0))
    return factors * (float((peak / factors).max()) / largest) if largest > 0 else np.ones_like(factors)


def _within(factors: Float64, peak: Float64, limit: float) -> Float64:
    if limit == inf:
        return factors
    reaches = peak * _HEADROOM >= limit
    scaled = factors / factors.max()
    return np.where(reaches, 1.0, np.clip(scaled, np.minimum(peak * _HEADROOM / limit, 1.0), 1.0))
