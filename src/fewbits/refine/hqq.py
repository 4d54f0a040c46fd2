"""HQQ: zero points of a weight for the least error of the weight itself, without any data.

The error is measured with the norm l_p, p < 1, which forgives the few weights that round badly. Half-quadratic
splitting makes it two steps that take turns: what of the error is forgiven, by a shrinkage of the rest, and the zero
point of every tile as a mean. Zero points are real numbers.

Source: Badri & Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023 (mobiusml.github.io/hqq_blog),
with the settings of the authors' code (p = 0.7, beta = 10 growing by 1.01, 20 iterations). Errors are counted in steps
of the tile's scale here, so that beta has no unit; and every tile keeps the best zero point that it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.scales import per_element, scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize, fake_quantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import format_text

Array = NDArray[Any]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


_LEAST = 1e-12
"""Of a step: what is shrunk to nothing anyway must not be divided by."""


@dataclass(frozen=True, slots=True, eq=False)
class RealZeroPoints:
    """Codes and scales as in `q`, and what lies between its whole zero points and the real ones, in steps.

    ``x = scale * (code - zero_point)`` with `zero_point`, of the shape of the scales. `error` is the mean over the
    elements of ``|x' - x|^p`` in steps, `start_error` the one with whole zero points.
    """

    q: QTensor[Array]
    zero_point: Float32
    error: float
    start_error: float

    @property
    def values(self) -> Array:
        """What the codes stand for; shape and type of the weight."""
        offset = (self.zero_point - self.q.zero_point) * self.q.scale
        values = dequantize(self.q)
        return (values - per_element(offset, self.q.tile, values.shape)).astype(values.dtype)


def hqq(
    weight: Array,
    format: ScaledFormat,
    *,
    p: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    iterations: int = 20,
) -> RealZeroPoints:
    """Codes of `weight`, any shape, in an asymmetric integer `format` (``uint4/g64``) with real zero points.

    The error ``|x' - x|^p`` of every tile is at most that of rounding to nearest with the whole zero point.

    Raises:
        DataError: the weight is not finite.
        FormatError: the format has no zero points, or does not go with the shape.
    """
    if not isinstance(format.element, IntFormat) or not format.asymmetric:
        raise FormatError(f"{format_text(format)} has no zero points to choose; write for example uint4/g64")
    if not np.isfinite(weight).all():
        raise DataError("the weight holds NaN or infinity; it cannot be refined")
    tiled = _Tiled.of(weight, format)
    zero = best = tiled.zero_point.astype(np.float64)
    start = lowest = tiled.mean(np.abs(tiled.error(zero)) ** p)
    for step in range(iterations):
        error = tiled.error(zero)
        magnitude = np.maximum(np.abs(error), _LEAST)
        rest = np.copysign(np.maximum(magnitude - magnitude ** (p - 1) / (beta * growth**step), 0), error)
        zero = zero + tiled.mean(rest - error)
        costs = tiled.mean(np.abs(tiled.error(zero)) ** p)
        best, lowest = np.where(costs < lowest, zero, best), np.minimum(costs, lowest)
    share = tiled.count / max(weight.size, 1)
    q, kept = tiled.quantised(best)
    return RealZeroPoints(q, kept, float((lowest * share).sum()), float((start * share).sum()))


@dataclass(frozen=True, slots=True, eq=False)
class _Tiled:
    """A weight with the scales and the whole zero points of its tiles, and for each element the place of its tile."""

    weight: Array
    format: ScaledFormat
    scale: Float32
    zero_point: NDArray[np.int32]
    place: NDArray[np.intp]
    count: NDArray[np.intp]

    @classmethod
    def of(cls, weight: Array, format: ScaledFormat) -> _Tiled:
        scales, tile = scales_of(weight, format), format.granularity.tile(weight.shape)
        places = np.arange(scales.scale.size).reshape(scales.scale.shape)
        place = per_element(places, tile, weight.shape).reshape(-1)
        count = np.bincount(place, minlength=places.size).reshape(places.shape)
        return cls(weight, format, scales.scale, scales.zero_point, place, count)

    def mean(self, values: Array) -> Float64:
        """The mean over every tile, of the shape of the scales."""
        sums = np.bincount(self.place, values.reshape(-1), self.scale.size)
        return sums.reshape(self.scale.shape) / np.maximum(self.count, 1)

    def error(self, zero: Float64) -> Array:
        """What rounding with the zero points `zero` takes from each element, in steps."""
        whole, offset = self._split(zero)
        moved = fake_quantize(self.weight + offset, self.format, scale=self.scale, zero_point=whole)
        return np.asarray((self.weight - (moved - offset)) / self._each(self.scale))

    def quantised(self, zero: Float64) -> tuple[QTensor[Array], Float32]:
        """Codes, and the zero points as they are kept."""
        whole, offset = self._split(zero)
        q = quantize(self.weight + offset, self.format, scale=self.scale, zero_point=whole)
        return q, zero.astype(np.float32)

    def _split(self, zero: Float64) -> tuple[NDArray[np.int32], Array]:
        """Whole zero points that are codes, and for each element what is left of the real ones, in units of it."""
        element = self.format.element
        assert isinstance(element, IntFormat)
        whole = np.clip(np.rint(zero), element.qmin, element.qmax).astype(np.int32)
        return whole, self._each((zero - whole) * self.scale).astype(self.weight.dtype)

    def _each(self, values: Array) -> Array:
        return values.reshape(-1)[self.place].reshape(self.weight.shape)
