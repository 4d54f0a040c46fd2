"""Intervals for figures taken in pairs on the same samples or in the same rounds.

Everything is seeded: the same figures give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fewbits.measurement import Interval

_RESAMPLES = 2000
_SEED = 0
_CELLS = 4_000_000

Values = NDArray[np.float64]


def mean_interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of per-sample scores: Wilson's interval if all are 0 or 1, else a percentile bootstrap.

    Raises ValueError on no scores.
    """
    values = _values(scores)
    mean = float(values.mean())
    if _is_binary(values):
        hits = int(values.sum())
        interval = stats.binomtest(hits, len(values)).proportion_ci(confidence, method="wilson")
        return _around(mean, interval.low, interval.high, confidence)
    return _bootstrap_mean(values, mean, confidence)


def difference_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of `first` minus the mean of `second`, whose scores belong to the same samples in the same order.

    If all scores are 0 or 1: the adjusted Wald interval of Bonett & Price 2012 (Journal of Educational and
    Behavioral Statistics 37(4), equation 6), which does not collapse where the two never differ. Else a percentile
    bootstrap of the paired differences; equal differences give an interval of width 0.

    Raises ValueError on no scores, or scores of different lengths.
    """
    ours, theirs = _values(first), _values(second)
    if len(ours) != len(theirs):
        raise ValueError(f"paired scores must have one length; {len(ours)} and {len(theirs)} were given")
    differences = ours - theirs
    mean = float(differences.mean())
    if _is_binary(ours) and _is_binary(theirs):
        return _bonett_price(differences, mean, confidence)
    return _bootstrap_mean(differences, mean, confidence)


def median_interval(values: Sequence[float] | Values, confidence: float = 0.95) -> Interval:
    """The median of `values`, and the two of them (order statistics) between which the median of what they were drawn
    from lies with at least `confidence`, whatever its distribution (Conover 1999, Practical Nonparametric Statistics,
    section 3.2). Too few values give their whole range, with the confidence that it has, 1 - 2^(1 - count).

    Raises ValueError on no values.
    """
    given = _values(values)
    median = float(np.median(given))
    reachable = 1 - 2.0 ** (1 - len(given))
    if reachable < confidence:
        return _around(median, float(given.min()), float(given.max()), reachable)
    exact = stats.quantile_test(given, p=0.5).confidence_interval(confidence)
    return _around(median, exact.low, exact.high, confidence)


def ratio_interval(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Interval:
    """How many times faster: the median over rounds of baseline seconds over candidate seconds of the same round.

    The interval is that of `median_interval`; a bootstrap of the median of so few rounds holds it less often than it
    says. Fewer than 6 rounds cannot reach 95 %. One round says nothing about noise: its interval reaches to 1, so that
    it is never a sure gain or loss.

    Raises ValueError on no rounds, on different numbers of rounds, and on seconds that are not above 0.
    """
    before, after = _values(baseline), _values(candidate)
    if len(before) != len(after):
        raise ValueError(f"both must have the same rounds; {len(before)} and {len(after)} were given")
    if not ((before > 0).all() and (after > 0).all()):
        raise ValueError("seconds must be above 0")
    return _against(1.0, before / after, confidence)


def median_difference(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Interval:
    """How much less: the median over rounds of baseline minus candidate of the same round, with the interval of
    `ratio_interval`. One round says nothing about noise: its interval reaches to 0.

    Raises ValueError on no rounds and on different numbers of rounds.
    """
    before, after = _values(baseline), _values(candidate)
    if len(before) != len(after):
        raise ValueError(f"both must have the same rounds; {len(before)} and {len(after)} were given")
    return _against(0.0, before - after, confidence)


def _against(nothing: float, values: Values, confidence: float) -> Interval:
    """`median_interval`; that of a single value reaches to `nothing`."""
    found = median_interval(values, confidence)
    if len(values) == 1:
        return Interval(found.value, min(found.value, nothing), max(found.value, nothing), found.confidence)
    return found


def _values(scores: Sequence[float] | Values) -> Values:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("at least one figure is needed")
    return values


def _is_binary(values: Values) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _bonett_price(differences: Values, mean: float, confidence: float) -> Interval:
    samples = len(differences) + 2
    up = (np.count_nonzero(differences > 0) + 1) / samples
    down = (np.count_nonzero(differences < 0) + 1) / samples
    half = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt((up + down - (up - down) ** 2) / samples)
    return _around(mean, max(up - down - half, -1.0), min(up - down + half, 1.0), confidence)


def _bootstrap_mean(values: Values, mean: float, confidence: float) -> Interval:
    if values.min() == values.max() or not np.isfinite(values).all():
        return Interval(mean, mean, mean, confidence)
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _CELLS // len(values)),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(_SEED),
    )
    return _around(mean, result.confidence_interval.low, result.confidence_interval.high, confidence)


def _around(value: float, low: float, high: float, confidence: float) -> Interval:
    return Interval(value, min(float(low), value), max(float(high), value), confidence)
