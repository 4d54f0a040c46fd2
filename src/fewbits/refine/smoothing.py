"""SmoothQuant: inputs with outlier channels are divided by factors that their weight takes over.

``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``: with alpha 1 all difficulty goes to the weight, with 0 to the inputs.
alpha is searched by the error of the layer's outputs, both operands rounded.

Source: Xiao et al., SmoothQuant, arXiv 2211.10438, section 4 (equation 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.refine.input_factors import InputFactors

Array = NDArray[Any]
Float64 = NDArray[np.float64]

ALPHAS = tuple(step / 20 for step in range(21))
_LEAST = 1e-5
"""Of a factor, as in the authors' code."""
_ONE = np.ones(1)


def smoothing_factors(input_peak: Array, weight_peak: Array, alpha: float) -> Float64:
    """``s_j`` from the largest magnitudes (inputs,) of every input and of every column of the weight.

    1 where one of the two is zero. Raises DataError if the shapes differ.
    """
    if input_peak.shape != weight_peak.shape:
        raise DataError(f"every input has two peaks, but there are {input_peak.shape} and {weight_peak.shape}")
    alive = (input_peak > 0) & (weight_peak > 0)
    x, w = (np.where(alive, peak, 1.0).astype(np.float64) for peak in (input_peak, weight_peak))
    return np.where(alive, np.maximum(x**alpha / w ** (1 - alpha), _LEAST), 1.0)


def search_smoothing(
    weight: Array,
    inputs: Array,
    weight_format: ScaledFormat,
    input_format: ScaledFormat,
    alphas: tuple[float, ...] = ALPHAS,
    counts: Array = _ONE,
) -> InputFactors:
    """The factors with the least output error of a linear layer whose operands are both rounded; never worse than none.

    Args:
        weight: (outputs, inputs). Of several layers that read the same inputs: one below the other.
        inputs: samples (..., inputs); they have scales of their own as `input_format` says, so those of a static format
            (``uint8/tensor``) are of these samples.
        weight_format: of the weight, multiplied by the factors.
        input_format: of the inputs, divided by them.
        counts: for how many samples each one stands, (samples,) or the same for all: errors are means over those.
        alphas: of two equal errors the first stays, and no factors (alpha 0 in the result, all factors 1) before them.

    Raises:
        DataError: shapes do not fit.
    """
    if weight.ndim != 2 or inputs.shape[-1] != weight.shape[1]:
        raise DataError(
            f"a weight (outputs, inputs) and samples (..., inputs) were expected, not {weight.shape} and {inputs.shape}"
        )
    x = inputs.reshape(-1, inputs.shape[-1])
    if counts.shape not in ((1,), (len(x),)):
        raise DataError(f"{len(x)} samples stand for as many numbers of samples, or one for all, not {counts.shape}")
    weights = np.broadcast_to(counts, len(x))
    share = weights / weights.sum()
    expected = x @ weight.T

    def error(factors: Float64) -> float:
        rounded = fake_quantize((x / factors).astype(x.dtype), input_format)
        moved = fake_quantize((weight * factors).astype(weight.dtype), weight_format)
        return float(np.square(rounded @ moved.T - expected, dtype=np.float64).sum(axis=1) @ share)

    peaks = np.abs(x).max(axis=0, initial=0), np.abs(weight).max(axis=0, initial=0)
    none = np.ones(weight.shape[1])
    plain = best = error(none)
    found = (none, 0.0)
    for alpha in alphas:
        factors = smoothing_factors(*peaks, alpha)
        if (one := error(factors)) < best:
            best, found = one, (factors, alpha)
    return InputFactors(*found, best, plain)
