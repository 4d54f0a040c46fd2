"""Counting elements into bins of equal width, fast and with little memory beside the array."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.errors import DataError

Counts = NDArray[np.int64]

# A block of float64 and its indices stay in the second-level cache.
_BLOCK = 1 << 16


def finite_bounds(array: Array) -> tuple[float, float]:
    """Lowest and highest element of a non-empty float array. Raises DataError on NaN or Inf."""
    low, high = float(array.min()), float(array.max())
    if not (isfinite(low) and isfinite(high)):
        raise DataError(
            "a non-finite activation (NaN or Inf) was seen during calibration, where every value must be finite; "
            "check the calibration data for bad samples, and that the model gives finite outputs for it"
        )
    return low, high


def bin_counts(array: Array, width: float, first: int, bins: int, *, magnitude: bool = False) -> Counts:
    """Number of elements x (or \\|x\\|) with ``floor(x / width) == first + k``, for k = 0 … bins - 1.

    An element on the upper edge of the last bin counts there. The caller makes sure that none lies outside.
    """
    counts = np.zeros(bins, np.int64)
    flat = array.reshape(-1)
    scaled = np.empty(min(_BLOCK, flat.size), np.float64)
    index = np.empty(scaled.size, np.int64)
    inverse = 1.0 / width
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        x, k = scaled[: block.size], index[: block.size]
        # float64, so that a product with a power of two is exact for every float32 and halving the
        # scale is the same as halving the index.
        np.multiply(block, inverse, out=x, dtype=np.float64)
        if magnitude:
            np.abs(x, out=x)
        np.floor(x, out=x)
        np.subtract(x, first, out=k, casting="unsafe")
        np.minimum(k, bins - 1, out=k)
        counts += np.bincount(k, minlength=bins)
    return counts


def coarsened(counts: Counts, first: int, halvings: int, new_first: int, new_bins: int) -> Counts:
    """The same elements in bins that are ``2**halvings`` times as wide; exact, as no bin is ever split.

    ``counts[k]`` belongs to bin number ``first + k``; the result starts at bin number `new_first`.
    """
    # 62 halvings take every index to 0 or -1 already; shifting an int64 by more is undefined.
    index = (np.arange(first, first + counts.size) >> min(halvings, 62)) - new_first
    inside = counts > 0
    result = np.zeros(new_bins, np.int64)
    np.add.at(result, index[inside], counts[inside])
    return result


def before(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prefix sums, one longer than `values`: element i is the sum of the first i."""
    return np.concatenate(([0.0], np.cumsum(values)))
