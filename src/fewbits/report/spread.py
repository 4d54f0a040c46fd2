"""The interval of a median from the order of the values alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median

from fewbits.measurement import Interval


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The median of `values` and the narrowest symmetric pair of order statistics that holds it.

    For n independent values, the k-th smallest and k-th largest enclose the median of their
    distribution, whatever it is, with probability 1 - 2 * P(Binomial(n, 1/2) < k)
    (David & Nagaraja, Order Statistics, 3rd ed., section 7.1). Where even the whole range falls
    short of `confidence`, the range is given with the confidence that it has.
    Raises ValueError on no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values to take the median of")
    trim, held = 0, 1 - 2 ** (1 - len(ordered))
    while (narrower := _coverage(len(ordered), trim + 1)) >= confidence:
        trim, held = trim + 1, narrower
    return Interval(median(ordered), ordered[trim], ordered[-1 - trim], held)


def _coverage(count: int, trim: int) -> float:
    """Probability that the median lies between the values left after `trim` at each end are dropped."""
    if 2 * trim >= count:
        return 0.0
    return 1.0 - 2.0 * sum(comb(count, below) for below in range(trim + 1)) / float(2**count)
