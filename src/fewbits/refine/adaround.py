"""AdaRound: whether each weight is rounded up or down is learnt, for the least error of the layer's outputs.

Between the two neighbours of a weight stands a soft rounding ``h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)``, which begins
at the weight itself. Adam lowers the error of the outputs plus ``lambda * sum(1 - |2h - 1|^beta)``; while beta falls
from 20 to 2, more and more weights are pushed to 0 or 1, and those still free make up for them.

Source: Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, arXiv 2004.10568, section 3.2
(equations 21 to 25). It differs in this: the error of each row is counted in that of rounding to nearest for each
weight, so that lambda has no unit; without a ReLU the gradient is of all inputs at once, by their second moments, and
needs no warm start, since the soft weights begin without any error; and rows that are not better for it are rounded to
nearest. Inputs may be those of the original or of the quantised layers before; the target is what the weight itself
gives for them, not (equation 25) the original's output for the original's inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from fewbits.errors import DataError
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics import reference
from fewbits.formats.numerics.scales import Scales, per_element, scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.rounding import Rounding
from fewbits.formats.scaled import ScaledFormat
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.layer import Layer, as_matrices

Array = NDArray[Any]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Gradient = Callable[[Float32], Float32]
"""Change of a weight (groups, outputs, features) -> gradient of the mean squared output errors."""
Errors = Callable[[Float64], Float64]
"""Change of a weight, of the weight's shape -> mean squared error of every output."""

_STRETCH = 0.1  # of the sigmoid beyond 0 and 1 (zeta and gamma)
_BETA = (20.0, 2.0)
_RATE, _DECAY, _SQUARES, _EPSILON = 1e-2, 0.9, 0.999, 1e-8  # of Adam (arXiv 1412.6980)
_LEAST = 1e-6  # what has a logarithm


def adaround(
    weight: Array,
    gram: Gram,
    format: ScaledFormat,
    *,
    scales: Scales[Array] | None = None,
    iterations: int = 1000,
    regularisation: float = 10.0,
) -> QTensor[Array]:
    """Codes of `weight` (outputs, inputs / groups, *kernel) in `format`; no row has a larger output error than nearest.

    Args:
        weight: of a linear layer or a convolution, finite.
        gram: second moments of its inputs, see `linear_inputs` and `patches`.
        format: integers or floats with scales of any granularity.
        scales: fixed scales; ``None`` takes those of `weight`.
        iterations: of Adam.
        regularisation: lambda, in errors of rounding to nearest for each weight.

    Raises:
        DataError: shapes do not fit, or the weight is not finite.
        FormatError: the elements are neither integers nor floats, or the granularity does not go with the shape.
    """
    second = (2 * gram.mean).astype(np.float32)
    choice = _Choice.of(weight, gram.groups, format, scales)
    return choice.learnt(
        lambda change: output_errors(change, gram), lambda change: change @ second, iterations, regularisation
    )


def adaround_relu(
    layer: Layer,
    inputs: Array,
    format: ScaledFormat,
    *,
    scales: Scales[Array] | None = None,
    iterations: int = 1000,
    regularisation: float = 10.0,
    batch: int = 1024,
    seed: int = 0,
) -> QTensor[Array]:
    """As `adaround`, with the ReLU behind the layer in the error: what it cuts off does not count.

    `inputs` are (groups, samples, features). Where there are more than `batch` of them, each iteration sees as many,
    drawn by `seed`; more iterations are needed then. Raises as `adaround`.
    """
    choice = _Choice.of(layer.weight, layer.groups, format, scales)
    if inputs.shape[0] != layer.groups or inputs.shape[2] != choice.low.shape[2] or not inputs.shape[1]:
        raise DataError(
            f"the inputs have shape (groups, samples, features), here ({layer.groups}, n, {choice.low.shape[2]}), not "
            f"{inputs.shape}; see linear_inputs and patches"
        )
    x, samples = inputs.astype(np.float32), inputs.shape[1]
    weight = as_matrices(layer.weight, layer.groups).astype(np.float32)
    before = x @ weight.transpose(0, 2, 1) + layer.bias.reshape(layer.groups, 1, -1).astype(np.float32)
    rng = np.random.default_rng(seed)

    def gradient(change: Float32) -> Float32:
        some = slice(None) if samples <= batch else rng.integers(0, samples, batch)
        after = before[:, some] + x[:, some] @ change.transpose(0, 2, 1)
        error = np.where(after > 0, after - np.maximum(before[:, some], 0), 0)
        return np.asarray((error.transpose(0, 2, 1) @ x[:, some]) * np.float32(2 / min(samples, batch)))

    def errors(change: Array) -> Float64:
        rows = as_matrices(change, layer.groups).astype(np.float32)
        error = np.maximum(before + x @ rows.transpose(0, 2, 1), 0) - np.maximum(before, 0)
        return np.asarray(np.square(error).mean(axis=1, dtype=np.float64).reshape(-1))

    return choice.learnt(errors, gradient, iterations, regularisation)


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """A weight between its lower neighbours `low` and those `gap` above them, (groups, outputs, features)."""

    weight: Array
    format: ScaledFormat
    scales: Scales[Array]
    nearest: Float64
    low: Float64
    gap: Float64

    @classmethod
    def of(cls, weight: Array, groups: int, format: ScaledFormat, scales: Scales[Array] | None) -> _Choice:
        if not np.isfinite(weight).all():
            raise DataError("the weight holds NaN or infinity; it cannot be refined")
        known, exact = scales_of(weight, format) if scales is None else scales, weight.astype(np.float64)
        low = reference.fake_quantize(exact, format, known, Rounding.FLOOR)
        if isinstance(format.element, IntFormat):
            # A whole number keeps a neighbour above it; only at the highest code there is none.
            unit = np.float32(format.element.grid.smallest_step) * known.scale * known.tensor_scale
            step = per_element(unit, format.granularity.tile(weight.shape), weight.shape)
            high = reference.fake_quantize(low + step, format, known)
        else:
            high = -reference.fake_quantize(-exact, format, known, Rounding.FLOOR)
        nearest = reference.fake_quantize(exact, format, known)
        return cls(weight, format, known, nearest, as_matrices(low, groups), as_matrices(high - low, groups))

    def learnt(self, errors: Errors, gradient: Gradient, iterations: int, regularisation: float) -> QTensor[Array]:
        """The codes, row by row those of what was learnt or of the nearest values, whichever has the smaller error."""
        exact = self.weight.astype(np.float64)
        limit = errors(self.nearest - exact)
        unit = limit.reshape(*self.low.shape[:2], 1) / self.low.shape[2]
        share = np.divide(1, unit, out=np.zeros_like(unit), where=unit > 0).astype(np.float32)
        rows = as_matrices(exact, len(self.low))
        up = _learnt(
            _Soft((self.low - rows).astype(np.float32), self.gap.astype(np.float32)),
            lambda change: gradient(change) * share,
            iterations,
            regularisation,
        )
        found = (self.low + np.where(up, self.gap, 0)).reshape(self.weight.shape)
        better = errors(found - exact) < limit
        values = np.where(better.reshape(-1, *(1,) * (self.weight.ndim - 1)), found, self.nearest)
        return reference.quantize(values.astype(self.weight.dtype), self.format, self.scales)


@dataclass(frozen=True, slots=True, eq=False)
class _Soft:
    """What the lower neighbours change of a weight, and the gap between them and the upper ones."""

    below: Float32
    gap: Float32

    @property
    def start(self) -> Float32:
        """V with which the soft weight is the weight itself (what has no gap, and no choice, begins at the low end)."""
        h = np.divide(-self.below, self.gap, out=np.zeros_like(self.gap), where=self.gap > 0)
        return np.asarray(logit((np.clip(h, 0, 1) + _STRETCH) / (1 + 2 * _STRETCH)))


def _learnt(soft: _Soft, gradient: Gradient, iterations: int, regularisation: float) -> NDArray[np.bool_]:
    """Which elements are rounded up."""
    v = soft.start
    mean, square = np.zeros_like(v), np.zeros_like(v)
    for step in range(iterations):
        sigmoid = _sigmoid(v)
        stretched = sigmoid * (1 + 2 * _STRETCH) - _STRETCH
        h = np.clip(stretched, 0, 1)
        slope = gradient(soft.below + h * soft.gap) * soft.gap
        slope -= _push(h, step / iterations) * regularisation
        sigmoid -= sigmoid * sigmoid
        slope *= sigmoid * (1 + 2 * _STRETCH)
        slope *= stretched == h
        mean += (slope - mean) * (1 - _DECAY)
        slope *= slope
        square += (slope - square) * (1 - _SQUARES)
        size = np.sqrt(square * (1 / (1 - _SQUARES ** (step + 1)))) + _EPSILON
        v -= mean / size * (_RATE / (1 - _DECAY ** (step + 1)))
    return np.asarray(v > 0)


def _sigmoid(v: Float32) -> Float32:
    """scipy's `expit` takes several times as long."""
    result = np.exp(-v)
    result += 1
    return np.reciprocal(result, out=result)


def _push(h: Float32, progress: float) -> Float32:
    """The derivative of ``|2h - 1|^beta``, beta falling by half a cosine."""
    first, last = _BETA
    beta = last + (first - last) * (1 + cos(pi * progress)) / 2
    away = 2 * h - 1
    # A power by way of the logarithm: numpy's own takes several times as long.
    size = np.exp(np.log(np.maximum(np.abs(away), _LEAST)) * (beta - 1))
    return np.asarray(np.copysign(size, away) * (2 * beta))
