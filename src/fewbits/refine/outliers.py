"""Outlier channels: which inputs of a linear layer stay in float, and which are halved and duplicated.

Sources: Dettmers et al., LLM.int8(), arXiv 2208.07339, section 3.2 (inputs whose magnitude reaches 6 are multiplied in
16 bits); Zhao et al., Improving Neural Network Quantization without Retraining using Outlier Channel Splitting,
arXiv 1901.09504, section 3 (duplicated channels, and halves that round to the same sum).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.granularity import Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.scales import Scales, scales_of
from fewbits.formats.scaled import REAL, ScaledFormat
from fewbits.formats.text import format_text
from fewbits.refine.gram import Gram

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Places = NDArray[np.intp]

THRESHOLD = 6.0
"""Of LLM.int8(): magnitudes of inputs from which on a channel is an outlier."""


def outlier_channels(peak: Array, threshold: float = THRESHOLD) -> Places:
    """The channels whose largest magnitude `peak` (channels,) reaches `threshold`, in rising order."""
    return np.flatnonzero(peak >= threshold)


def worst_channels(change: Array, gram: Gram, count: int) -> Places:
    """The `count` inputs of a linear layer whose weights it helps most to keep in float, the most helpful first.

    `change` (outputs, inputs) is what rounding did to the weight. One input after the other is taken, each time the one
    without whose change the output error falls most; fewer where nothing falls any more. Raises DataError.
    """
    if change.ndim != 2 or gram.total.shape != (1, change.shape[1], change.shape[1]):
        raise DataError(f"moments {gram.total.shape} do not go with the weight {change.shape} of a linear layer")
    left, moments = change.astype(np.float64), gram.mean[0]
    through = left @ moments
    chosen: list[int] = []
    for _ in range(min(count, change.shape[1])):
        # |d - d_j e_j|^2 - |d|^2 in the norm of the moments, summed over the outputs.
        gain = (2 * left * through).sum(axis=0) - np.square(left).sum(axis=0) * moments.diagonal()
        place = int(gain.argmax())
        if gain[place] <= 0:
            break
        chosen.append(place)
        through -= np.outer(left[:, place], moments[place])
        left[:, place] = 0
    return np.array(chosen, np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A weight in two parts: ``W x = rest x + kept x[channels]``.

    `rest` (outputs, inputs) has zeros in the columns of `channels`, so that these do not widen its scales; `kept`
    (outputs, channels) stays in float.
    """

    channels: Places
    kept: Array
    rest: Array

    @classmethod
    def of(cls, weight: Array, channels: Places) -> Split:
        """Split `weight` (outputs, inputs)."""
        rest = weight.copy()
        rest[:, channels] = 0
        return cls(channels, weight[:, channels], rest)

    def inputs(self, x: Array) -> tuple[Array, Array]:
        """What `rest` and what `kept` multiply of the inputs (..., inputs)."""
        rest = x.copy()
        rest[..., self.channels] = 0
        return rest, x[..., self.channels]


@dataclass(frozen=True, slots=True, eq=False)
class Duplicated:
    """A weight (outputs, inputs + duplicates) whose outputs are the original's for the inputs ``x[..., source]``.

    `scales` are those to round it with.
    """

    weight: Array
    source: Places
    scales: Scales[Array]


def duplicate_channels(weight: Array, format: ScaledFormat, count: int) -> Duplicated:
    """Halve and duplicate, `count` times, the input whose weights hold the largest magnitude; the range shrinks.

    The halves of a weight w are ``(w - s / 2) / 2`` and ``(w + s / 2) / 2`` with s the step of `format` afterwards, so
    that rounded they add up to w rounded (section 3.3).

    Raises:
        FormatError: the format is not symmetric integers with one real scale for the tensor.
        DataError: the weight is no matrix.
    """
    element = format.element
    if (
        not isinstance(element, IntFormat)
        or format.asymmetric
        or format.scale != REAL
        or format.granularity != Tensor()
    ):
        raise FormatError(
            f"channels are duplicated for one scale of a whole tensor, int8r/tensor, not for {format_text(format)}"
        )
    if weight.ndim != 2:
        raise DataError(f"channels are duplicated of a weight (outputs, inputs), not of shape {weight.shape}")
    plain, _ = _halved(weight, count, 0.0)
    scales = scales_of(plain, format)
    found, source = _halved(weight, count, float(scales.scale.item()) * element.grid.smallest_step)
    return Duplicated(found.astype(weight.dtype), source, scales)


def _halved(weight: Array, count: int, step: float) -> tuple[Float64, Places]:
    columns, source = list(weight.T.astype(np.float64)), list(range(weight.shape[1]))
    for _ in range(count):
        place = max(range(len(columns)), key=lambda at: float(np.abs(columns[at]).max(initial=0)))
        whole = columns[place]
        columns[place] = (whole - step / 2) / 2
        columns.append((whole + step / 2) / 2)
        source.append(source[place])
    return np.stack(columns, axis=1), np.array(source, np.intp)
