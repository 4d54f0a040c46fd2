"""What calibration remembers of a tensor: a frozen value that every batch turns into the next one.

``init`` starts it, ``update`` takes one batch of activations, ``merge`` joins what two workers saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol, Self

from fewbits.calibration.binning import finite_bounds
from fewbits.data.batches import Array


class Statistic(Protocol):
    """A streaming statistic of bounded size; every step returns a new value."""

    @classmethod
    def init(cls) -> Self:
        """Nothing seen yet."""

    @property
    def count(self) -> int:
        """Number of elements seen."""

    def update(self, array: Array) -> Self:
        """After one more batch, of any shape; an empty one changes nothing. Raises DataError on NaN or Inf."""

    def merge(self, other: Self) -> Self:
        """After everything that either of the two has seen."""


@dataclass(frozen=True, slots=True)
class MinMax:
    """Lowest and highest element. Laws: `merge` is associative and commutative, and updates in any
    order, or merged from parts, give equal values, exactly.
    """

    low: float = inf
    high: float = -inf
    count: int = 0

    @classmethod
    def init(cls) -> Self:
        """Nothing seen yet."""
        return cls()

    def update(self, array: Array) -> Self:
        """After one more batch. Raises DataError on NaN or Inf."""
        if array.size == 0:
            return self
        low, high = finite_bounds(array)
        return type(self)(min(self.low, low), max(self.high, high), self.count + array.size)

    def merge(self, other: Self) -> Self:
        """After everything that either of the two has seen."""
        return type(self)(min(self.low, other.low), max(self.high, other.high), self.count + other.count)
