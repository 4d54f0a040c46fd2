"""Intervals of what is no mean over samples, such as F1: the samples are drawn again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fewbits.evaluation import Direction, Pooled, Scores
from fewbits.measurement import Interval
from fewbits.metric_rows import Rows
from fewbits.metrics import metric

_RESAMPLES = 1000
_SEED = 0


def pooled_score(pooled: Pooled, samples: int) -> Scores:
    """The score that `pooled` makes of so many samples. Raises MetricError if it has no rows."""
    return Scores(metric(pooled.metric).value(np.array(pooled.rows)), samples, pooled=pooled)


def first_samples(scores: Scores, samples: int) -> Scores:
    """The score of the first `samples` samples of `scores`, which has rows. Raises MetricError if none is labelled."""
    if samples == scores.samples:
        return scores
    rows = tuple(row for row in scores.pooled.rows if row[0] < samples)
    return pooled_score(Pooled(scores.pooled.metric, rows), samples)


def resampled_score(scores: Scores, confidence: float = 0.95, resamples: int = _RESAMPLES) -> Interval:
    """The score with a percentile bootstrap of its samples; as `resampled_loss`, for one model alone."""
    return _interval(scores.value, [one for (one,) in _values([scores], resamples)], confidence)


def resampled_loss(
    original: Scores,
    candidate: Scores,
    direction: Direction,
    *,
    scale: float = 1.0,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
) -> Interval:
    """The loss from `original` to `candidate`, divided by `scale`, with a percentile bootstrap of paired samples.

    Both have rows (`Scores.pooled`) of the same samples; those without a labelled position have none and say nothing.
    All rows of a sample are drawn together, as they are not independent.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. It is seeded: the same rows give the same
    interval. BCa was no clear gain for F1 and needs an evaluation per sample. With few changed predictions (about 5)
    it holds the truth some 92 % of the time instead of 95 %, and with none it has width 0.

    Raises:
        ValueError: no rows, rows of different metrics or samples, a `confidence` not between 0 and 1.
    """
    unit = scale if direction is Direction.HIGHER else -scale
    losses = [(before - after) / unit for before, after in _values([original, candidate], resamples)]
    return _interval((original.value - candidate.value) / unit, losses, confidence)


def _interval(value: float, drawn: list[float], confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1; {confidence} was given")
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value), confidence)


def _values(scores: list[Scores], resamples: int) -> Iterator[tuple[float, ...]]:
    """The score of each of `scores` on the same resamples, one tuple per resample."""
    names = {one.pooled.metric for one in scores}
    rows: list[Rows] = [np.array(one.pooled.rows) for one in scores]
    if not all(map(len, rows)) or len(names) > 1:
        raise ValueError(f"rows of one metric are needed, at least one; {sorted(names)} were given")
    counted, owners = zip(*(np.unique(one[:, 0], return_inverse=True) for one in rows), strict=True)
    if any(not np.array_equal(one, counted[0]) for one in counted):
        raise ValueError("both need rows of the same samples")
    value = metric(names.pop()).value
    for drawn in _draws(len(counted[0]), resamples):
        yield tuple(value(_drawn(one, drawn[owner])) for one, owner in zip(rows, owners, strict=True))


def _drawn(rows: Rows, times: NDArray[np.intp]) -> Rows:
    """`rows`, each as often again as `times` says."""
    often = rows[:, -1:] * times[:, None]
    return np.hstack([rows[:, :-1], often])


def _draws(samples: int, resamples: int) -> Iterator[NDArray[np.intp]]:
    """Per resample, how often each sample is drawn, shape (samples,)."""
    random = np.random.default_rng(_SEED)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, samples, samples), minlength=samples)
