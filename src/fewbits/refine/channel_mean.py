"""The mean of every channel of a tensor, while its batches stream by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError

Array = NDArray[Any]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ChannelMean:
    """The mean of every channel of a tensor, over the batches that were seen; float64 sums."""

    total: Float64
    count: int = 0

    @classmethod
    def empty(cls, channels: int) -> ChannelMean:
        """Of no batch yet."""
        return cls(np.zeros(channels))

    def update(self, values: Array, axis: int = 1) -> ChannelMean:
        """With more `values`, whose channels are along `axis`. Raises DataError if their number is another."""
        channels = self.total.size
        if values.shape[axis] != channels:
            raise DataError(f"axis {axis} of {values.shape} was to hold {channels} channels")
        others = tuple(place for place in range(values.ndim) if place != axis % values.ndim)
        return ChannelMean(
            self.total + values.sum(axis=others, dtype=np.float64), self.count + values.size // max(channels, 1)
        )

    @property
    def mean(self) -> Float64:
        """The mean of every channel. Raises DataError if nothing was seen."""
        if not self.count:
            raise DataError("a mean was asked for before any values were seen; pass batches to update first")
        return self.total / self.count
