"""Some rows of a stream of rows that tell its errors: those with the largest magnitudes, and some of all others.

Static ranges are those of the largest values, which may be one row in thousands, while the error is that of all rows.
So the sample is stratified: the rows with the largest values are all in it and stand for themselves, what is drawn of
the others stands for all others. Weighted so, a sum over the sample is unbiased for the sum over all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class _Kept:
    """Rows, their places in the stream, and by what they were chosen: the least stay."""

    rows: Array
    places: Ints
    order: Floats

    def least(self, other: _Kept, count: int) -> _Kept:
        """The `count` rows of both with the least order, in order of their places."""
        rows, places, order = (
            np.concatenate(pair)
            for pair in ((self.rows, other.rows), (self.places, other.places), (self.order, other.order))
        )
        chosen = np.sort(np.argsort(order, kind="stable")[:count])
        return _Kept(rows[chosen], places[chosen], order[chosen])


@dataclass(frozen=True, eq=False, slots=True)
class Strata:
    """`most` rows of `channels` at most, `peaks` of them those with the largest magnitudes; `seen` counts all rows.
    Which others are drawn depends on `seed` and on how many rows came with each update."""

    channels: int
    most: int
    peaks: int
    seed: int = 0
    seen: int = 0
    _largest: _Kept = field(default_factory=lambda: _nothing(0))
    _drawn: _Kept = field(default_factory=lambda: _nothing(0))

    def update(self, rows: Array) -> Strata:
        """With `rows`, of shape (rows, channels), too."""
        if not self.seen:
            nothing = _nothing(self.channels)
            first = replace(self, _largest=nothing, _drawn=nothing, seen=len(rows))
        else:
            first = replace(self, seen=self.seen + len(rows))
        places = np.arange(self.seen, self.seen + len(rows))
        size = np.abs(rows).max(axis=1, initial=0).astype(np.float64)
        # The rows with the least of numbers drawn for all of them are as many rows drawn evenly.
        lots = np.random.default_rng((self.seed, self.seen)).random(len(rows))
        return replace(
            first,
            _largest=first._largest.least(_Kept(rows, places, -size), self.peaks),
            _drawn=first._drawn.least(_Kept(rows, places, lots), self.most - self.peaks),
        )

    @property
    def sample(self) -> tuple[Array, Floats]:
        """The rows, and for how many each of them stands: 1 for the largest."""
        others = ~np.isin(self._drawn.places, self._largest.places)
        drawn = self._drawn.rows[others]
        rest = self.seen - len(self._largest.rows)
        counts = np.full(len(drawn), rest / max(len(drawn), 1))
        return np.concatenate([self._largest.rows, drawn]), np.concatenate([np.ones(len(self._largest.rows)), counts])


def _nothing(channels: int) -> _Kept:
    return _Kept(np.zeros((0, channels), np.float32), np.zeros(0, np.int64), np.zeros(0))
