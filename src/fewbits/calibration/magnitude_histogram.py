"""Histogram of the magnitudes as the entropy method wants it: 2048 bins over the first batch, more appended later."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf, log2
from typing import Self

import numpy as np

from fewbits.calibration.binning import Counts, bin_counts, coarsened, finite_bounds
from fewbits.data.batches import Array

FIRST_BINS = 2048
MAX_BINS = 8192
_LOWEST_WIDTH = 2.0**-1000


@dataclass(frozen=True, slots=True, eq=False)
class MagnitudeHistogram:
    """Counts of \\|x\\|: ``counts[k]`` in [k, k + 1) * width, the last bin with its upper edge.

    The first batch that is not all zeros sets the width to ``max|x| / 2048``; a later batch that goes
    beyond appends bins of the same width, and nothing is binned again (NVIDIA pytorch-quantization,
    ``HistogramCalibrator``). To bound memory, past 8192 bins (64 kB; a range of more than four times
    the first batch's) adjacent bins are joined in pairs: the only step that the original lacks.
    `width` is 0 while only zeros were seen; `low` and `high` are the exact signed extremes.

    Laws: the width depends on the first batch, and so does the state on the order of batches; total
    count and extremes do not. `merge` takes the wider of the two widths and counts each bin of the
    other where its centre falls. It is commutative, and exact, equal to updating in sequence, when the
    widths agree.
    """

    width: float = 0.0
    counts: Counts = field(default_factory=lambda: np.zeros(1, np.int64))
    low: float = inf
    high: float = -inf

    @classmethod
    def init(cls) -> Self:
        """Nothing seen yet."""
        return cls()

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    def update(self, array: Array) -> Self:
        """After one more batch. Raises DataError on NaN or Inf."""
        if array.size == 0:
            return self
        low, high = finite_bounds(array)
        largest = max(-low, high)
        low, high = min(self.low, low), max(self.high, high)
        if largest == 0.0:
            return type(self)(self.width, _frozen(_added(self.counts, np.array([array.size]))), low, high)
        width = self.width or max(largest / FIRST_BINS, _LOWEST_WIDTH)
        own = self.counts if self.width else _added(self.counts, np.zeros(FIRST_BINS, np.int64))
        width, own = _with_room(width, own, largest)
        counts = own + bin_counts(array, width, 0, own.size, magnitude=True)
        return type(self)(width, _frozen(counts), low, high)

    def merge(self, other: Self) -> Self:
        """After everything that either of the two has seen; see the laws."""
        fine, coarse = sorted((self, other), key=lambda part: part.width)
        low, high = min(self.low, other.low), max(self.high, other.high)
        if fine.width in (0.0, coarse.width):
            return type(self)(coarse.width, _frozen(_added(fine.counts, coarse.counts)), low, high)
        width, counts = _with_room(coarse.width, coarse.counts, max(-fine.low, fine.high))
        centres = (np.arange(fine.counts.size) + 0.5) * (fine.width / width)
        moved = np.zeros_like(counts)
        np.add.at(moved, np.minimum(centres.astype(np.int64), counts.size - 1), fine.counts)
        return type(self)(width, _frozen(counts + moved), low, high)


def _added(a: Counts, b: Counts) -> Counts:
    """Sum of counts of the same width; the shorter one ends in empty bins."""
    total = np.zeros(max(a.size, b.size), np.int64)
    total[: a.size] += a
    total[: b.size] += b
    return total


def _with_room(width: float, counts: Counts, largest: float) -> tuple[float, Counts]:
    """Bins appended until `largest` fits, and joined in pairs while they are more than MAX_BINS."""
    needed = max(counts.size, ceil(largest / width))
    if needed > MAX_BINS:
        halvings = ceil(log2(needed / MAX_BINS))
        needed = -(-needed >> halvings)
        return width * 2.0**halvings, coarsened(counts, 0, halvings, 0, needed)
    return width, _added(counts, np.zeros(needed, np.int64))


def _frozen(counts: Counts) -> Counts:
    counts.setflags(write=False)
    return counts
