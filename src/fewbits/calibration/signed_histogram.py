"""Histogram of the signed values, whose bins are powers of two wide and merge in pairs as the range grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor, frexp, inf, ldexp
from typing import Self

import numpy as np

from fewbits.calibration.binning import Counts, bin_counts, coarsened, finite_bounds
from fewbits.data.batches import Array

MAX_BINS = 4096
# Bins never get narrower than this; scaling by the inverse cannot overflow, and every float32 is far above.
_LOWEST_EXPONENT = -1000


@dataclass(frozen=True, slots=True)
class _Grid:
    """Bins number `first` … ``first + bins - 1``; bin k covers [k, k + 1) * 2**exponent."""

    exponent: int
    first: int
    bins: int


@dataclass(frozen=True, slots=True, eq=False)
class SignedHistogram:
    """Counts of the values in at most 4096 bins (32 kB) that cover [low, high] and 0.

    ``counts[k]`` counts values in [first + k, first + k + 1) * width, with ``width = 2**exponent``.
    `low`, `high` and `zeros` (values that are exactly 0) are exact, `count` is the number of values.

    Laws: the bin width is the narrowest power of two with which the range fits, so it depends only on
    `low` and `high`; widening joins adjacent bins and splits none. Hence the state depends only on
    *which* values were seen: updates in any order, and merges in any grouping, give the same state
    exactly. More than half of the 4096 bins lie within the range, except while all values are 0.
    """

    exponent: int = _LOWEST_EXPONENT
    first: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros(1, np.int64))
    low: float = inf
    high: float = -inf
    zeros: int = 0

    @classmethod
    def init(cls) -> Self:
        """Nothing seen yet."""
        return cls()

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return ldexp(1.0, self.exponent)

    def update(self, array: Array) -> Self:
        """After one more batch. Raises DataError on NaN or Inf."""
        if array.size == 0:
            return self
        low, high = finite_bounds(array)
        low, high = min(self.low, low), max(self.high, high)
        grid = _grid(low, high)
        counts = self._on(grid) + bin_counts(array, ldexp(1.0, grid.exponent), grid.first, grid.bins)
        zeros = self.zeros + array.size - int(np.count_nonzero(array))
        return type(self)(grid.exponent, grid.first, _frozen(counts), low, high, zeros)

    def merge(self, other: Self) -> Self:
        """After everything that either of the two has seen."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        if low > high:
            return self
        grid = _grid(low, high)
        counts = self._on(grid) + other._on(grid)
        return type(self)(grid.exponent, grid.first, _frozen(counts), low, high, self.zeros + other.zeros)

    def quantile(self, share: float, *, upper: bool) -> float:
        """The value that has `share` (0 to 1) of the values below it, to within one bin width.

        Never outside [low, high]. Where an empty stretch leaves a choice, `upper` takes its lower end,
        so that ``quantile(1, upper=True)`` is `high`; otherwise it takes the upper end, so that
        ``quantile(0, upper=False)`` is `low`.
        """
        below = np.cumsum(self.counts)
        target = share * float(below[-1])
        k = int(np.searchsorted(below, target, side="left" if upper else "right"))
        inside = 1.0 - (float(below[k]) - target) / float(self.counts[k])
        return min(max((self.first + k + inside) * self.width, self.low), self.high)

    def _on(self, grid: _Grid) -> Counts:
        return coarsened(self.counts, self.first, grid.exponent - self.exponent, grid.first, grid.bins)


def _grid(low: float, high: float) -> _Grid:
    """The narrowest bins with which [low, high] and 0 fit into MAX_BINS of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    # 2**exponent is above range / MAX_BINS, which is necessary; half of it would not be. Divided before
    # subtracting, because the range of two float64 can overflow.
    exponent = max(frexp(high / MAX_BINS - low / MAX_BINS)[1], _LOWEST_EXPONENT) if high > low else _LOWEST_EXPONENT
    while True:
        first, last = floor(ldexp(low, -exponent)), floor(ldexp(high, -exponent))
        if last - first < MAX_BINS:
            return _Grid(exponent, first, last - first + 1)
        exponent += 1


def _frozen(counts: Counts) -> Counts:
    counts.setflags(write=False)
    return counts
