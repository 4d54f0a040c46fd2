"""Factors that move the size of a layer's inputs into its weight: what SmoothQuant and AWQ choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class InputFactors:
    """By what the inputs of a weight are divided, and its columns multiplied, before they are rounded.

    `factors` (inputs,); `error` is the mean squared error of the outputs, summed over them, with `alpha`, and
    `plain_error` the one without factors.
    """

    factors: Float64
    alpha: float
    error: float
    plain_error: float

    def scaled(self, weight: Array) -> Array:
        """`weight` (outputs, inputs) with its columns multiplied, of its own type: what is then rounded."""
        return (weight * self.factors).astype(weight.dtype)

    def divided(self, values: Array, axis: int = -1) -> Array:
        """`values` divided along `axis`, of their own type: inputs, or what gives them.

        That is gain and bias of a norm, or weight (axis 0) and bias of a layer without an activation function.
        """
        factors = self.factors.reshape(-1, *(1,) * (values.ndim - 1 - axis % values.ndim))
        return (values / factors).astype(values.dtype)
