"""Why a product loses in 8-bit codes: which operand, and what about its numbers.

The error of the outputs with one operand alone rounded says which of the two is to blame; the shape of its values says
why. No remedy is tried here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat

Array = NDArray[Any]

_MOST_CLIPPED: Final = 0.5
_MOST_SHIFTED: Final = 0.5
_OUTLIERS: Final = 8.0
_TAIL: Final = 12.0
_ROWS_TAIL: Final = 6.0
_LOPSIDED: Final = 0.4
_HARMLESS: Final = 1e-4


class Cause(StrEnum):
    """What makes codes lose, in words that stand in a sentence of their own."""

    HARMLESS = "its own rounding is small: it passes on or amplifies what comes from elsewhere"
    CLIPPING = "its range cuts off values that matter"
    OUTLIERS = "some channels of what it reads are far larger than the others, which are left few codes"
    TAIL = "few values of what it reads are far larger than the rest, which is left few codes"
    LOPSIDED = "what it reads lies on one side of zero, and its codes do not"
    WEIGHTS = "its weights have few values far larger than the rest of their channel"
    SHIFT = "rounding its weight shifts the means of its outputs, which corrected biases take away"
    CHANNELS = "channels of its weight differ in size, and share one scale"
    SOFTMAX = "it reads probabilities: most are far smaller than one step of a range that ends at 1"
    RESOLUTION = "what it reads needs more than 8 bits evenly"
    WEIGHT_RESOLUTION = "its weight needs more than 8 bits evenly"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of one product: squared errors of its outputs with the first or second operand alone rounded, over the squares of
    what the outputs differ by from their means; the share of the first that is due to values beyond the range; the mean
    magnitude of the largest channel over that of the median one, the peak over the root mean square of the first
    operand, the same of the second within its channels (the median of them), and its largest channel's peak over its
    smallest's; where the range of the first lies, from 0 (about zero) to 1 (far from it); the share of the second error
    that shifts means; the largest magnitude."""

    inputs_error: float
    weight_error: float
    clipped: float
    outliers: float
    tail: float
    weight_tail: float
    weight_spread: float
    lopsided: float
    shift: float
    peak: float

    def cause(self, *, shared_scale: bool, symmetric_inputs: bool, behind_softmax: bool) -> Cause:
        """The likeliest one. `shared_scale`: the weight has one scale for all channels; `symmetric_inputs`: the codes
        of what is read have no zero point; `behind_softmax`: a Softmax gives it."""
        if max(self.inputs_error, self.weight_error) < _HARMLESS:
            return Cause.HARMLESS
        if self.weight_error > self.inputs_error:
            if shared_scale and self.weight_spread > _OUTLIERS:
                return Cause.CHANNELS
            if self.shift > _MOST_SHIFTED:
                return Cause.SHIFT
            return Cause.WEIGHTS if self.weight_tail > _ROWS_TAIL else Cause.WEIGHT_RESOLUTION
        if self.clipped > _MOST_CLIPPED:
            return Cause.CLIPPING
        if behind_softmax:
            return Cause.SOFTMAX
        if self.outliers > _OUTLIERS:
            return Cause.OUTLIERS
        if symmetric_inputs and self.lopsided > _LOPSIDED:
            return Cause.LOPSIDED
        return Cause.TAIL if self.tail > _TAIL else Cause.RESOLUTION


def diagnose(
    inputs: Array,
    weight: Array,
    low: float,
    high: float,
    input_format: IntFormat,
    weight_format: ScaledFormat,
    channels: int | None = None,
) -> Diagnosis:
    """What there is to see in the product ``inputs @ weight.T`` of every group.

    Args:
        inputs: (groups, samples, features), see `fewbits.refine.layer`.
        weight: (groups, outputs, features); scales of `weight_format` per channel are those of its outputs.
        low: with `high` the calibrated range of the inputs.
        input_format: of their codes; without a sign they have a zero point.
        channels: how many channels the features of a group are, if that is another number (a kernel's taps).
    """
    x, w = inputs.astype(np.float32), weight.astype(np.float32)
    exact = x @ w.transpose(0, 2, 1)
    # About their means, which say nothing of one sample or another.
    power = float(np.square(exact - exact.mean(axis=1, keepdims=True), dtype=np.float64).sum()) or 1.0

    def squares(change: Array, other: Array) -> float:
        return float(np.square(change @ other.transpose(0, 2, 1), dtype=np.float64).sum())

    affine = of_range(low, high, input_format)
    zero, step = int(affine.zero_point), float(affine.scale)
    inside = np.clip(x, (input_format.qmin - zero) * step, (input_format.qmax - zero) * step)
    rounded = np.rint(inside / affine.scale) * affine.scale
    of_inputs = squares(rounded - x, w)
    rows = w.reshape(-1, w.shape[-1])
    change = fake_quantize(rows, weight_format).reshape(w.shape) - w
    of_weight = squares(x, change)
    shifted = x.shape[1] * squares(x.mean(axis=1, keepdims=True), change)
    sizes = np.abs(x).mean(axis=1).reshape(len(x) * (channels or x.shape[-1]), -1).mean(axis=1)
    largest = np.abs(rows).max(axis=1)
    alive, live_rows = sizes[sizes > 0], largest[largest > 0]
    return Diagnosis(
        inputs_error=of_inputs / power,
        weight_error=of_weight / power,
        clipped=squares(inside - x, w) / of_inputs if of_inputs > 0 else 0.0,
        outliers=float(alive.max() / np.median(alive)) if alive.size else 1.0,
        tail=_ratio(float(np.abs(x).max(initial=0.0)), x),
        weight_tail=float(np.median([_ratio(float(peak), row) for peak, row in zip(largest, rows, strict=True)])),
        weight_spread=float(live_rows.max() / live_rows.min()) if live_rows.size else 1.0,
        lopsided=abs(low + high) / 2 / max(abs(low), abs(high)) if high > low else 0.0,
        shift=shifted / of_weight if of_weight > 0 else 0.0,
        peak=max(abs(low), abs(high), float(np.abs(x).max(initial=0.0))),
    )


def _ratio(peak: float, values: Array) -> float:
    """`peak` over the root mean square."""
    power = float(np.sqrt(np.square(values, dtype=np.float64).mean()))
    return peak / power if power > 0 else 1.0
