"""AWQ: inputs that are large are multiplied into the weight before it is rounded, so that their weights round finer.

``W x = (W diag(s)) (x / s)``, with ``s = mean|x|^alpha`` for each input; alpha is searched on a grid by the error of
the layer's outputs. The division is folded into what gives x (a norm's gain, the layer before). `clipped_scales` is the
second half of the method.

Source: Lin et al., AWQ, arXiv 2306.00978, section 3.2 (equations 4 and 5), and the authors' code (20 values of alpha,
factors divided by the root of their largest times their smallest).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.input_factors import InputFactors

Array = NDArray[Any]
Float64 = NDArray[np.float64]

ALPHAS = tuple(step / 20 for step in range(20))
_LEAST = 1e-4
"""Of a factor before it is normalised: an input that is hardly ever there must not be multiplied by nothing."""


def search_factors(
    weight: Array, gram: Gram, magnitude: Array, format: ScaledFormat, alphas: tuple[float, ...] = ALPHAS
) -> InputFactors:
    """The factors of a linear layer's inputs with the least output error; never worse than none, which is alpha 0.

    Args:
        weight: (outputs, inputs). Of several layers that read the same inputs (query, key and value): one below the
            other, for they share the factors.
        gram: second moments of the inputs.
        magnitude: the mean of ``|x|`` of every input (inputs,), see `ChannelMean`.
        format: with scales, as the weight will have.
        alphas: tried besides 0; of two equal errors the first stays.

    Raises:
        DataError: shapes do not fit.
    """
    if weight.ndim != 2 or magnitude.shape != weight.shape[1:]:
        raise DataError(
            "factors are searched for a weight (outputs, inputs) and a magnitude (inputs,), not for "
            f"{weight.shape} and {magnitude.shape}"
        )
    exact = weight.astype(np.float64)
    none = np.ones(len(magnitude))
    plain = best = _error(exact, none, gram, format)
    found = (none, 0.0)
    for alpha in alphas:
        powers = np.maximum(magnitude.astype(np.float64) ** alpha, _LEAST)
        factors = powers / np.sqrt(powers.max() * powers.min())
        if (error := _error(exact, factors, gram, format)) < best:
            best, found = error, (factors, alpha)
    return InputFactors(*found, best, plain)


def _error(weight: Float64, factors: Float64, gram: Gram, format: ScaledFormat) -> float:
    rounded = fake_quantize(weight * factors, format) / factors
    return float(output_errors(rounded - weight, gram).sum())
