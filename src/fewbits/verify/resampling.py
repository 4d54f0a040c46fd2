"""The interval of a loss whose metric is no mean over samples, such as F1: the samples are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fewbits.budget import Budget
from fewbits.evaluation import Direction
from fewbits.measurement import Interval
from fewbits.metric_rows import Rows

_RESAMPLES = 1000
_SEED = 0


def resampled_loss(
    original: Rows,
    candidate: Rows,
    value: Callable[[Rows], float],
    budget: Budget,
    direction: Direction,
    *,
    sample: NDArray[np.intp] | None = None,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
) -> Interval:
    """The loss from `original` to `candidate` in the budget's unit, with a percentile bootstrap of paired samples.

    `original` and `candidate` have shape (rows, …) and belong to the same samples in the same order; `value` makes
    the score from rows in any order (`fewbits.metrics.Metric.value`) and is called 2 `resamples` + 2 times. `sample`
    (rows,) says which sample each row belongs to, counted from 0, where a sample has several rows (positions): rows
    of one sample are drawn together, as they are not independent. Every sample must have a row.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. It is seeded: the same rows give the same
    interval. BCa was no clear gain for F1 and needs an evaluation per sample. With few changed predictions (about 5)
    it holds the truth some 92 % of the time instead of 95 %, and with none it has width 0. A relative budget takes the
    original's score as known, as in `fewbits.verify.acceptance`. The time is that of `value`: for F1 it grows with the
    number of classes.

    Raises:
        MetricError: a relative budget with an original score of 0, or what `value` raises.
        ValueError: no rows, different numbers of rows, samples without rows, a `confidence` not between 0 and 1.
    """
    rows = len(original)
    if not rows or len(candidate) != rows:
        raise ValueError(f"both need the same rows, at least one; {rows} and {len(candidate)} were given")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1; {confidence} was given")
    of_row = np.arange(rows) if sample is None else sample
    samples = _count(of_row, rows)
    before, after = value(original), value(candidate)
    scale = budget.scale(before)
    turn = 1.0 if direction is Direction.HIGHER else -1.0
    losses = []
    for drawn in _draws(samples, resamples):
        # How often a sample was drawn says how often its rows stand in the resample.
        taken = np.repeat(np.arange(rows), drawn[of_row])
        losses.append(turn * (value(original[taken]) - value(candidate[taken])) / scale)
    tail = (1 - confidence) / 2
    low, high = np.quantile(losses, [tail, 1 - tail])
    loss = budget.loss(before, after, direction)
    return Interval(loss, min(float(low), loss), max(float(high), loss), confidence)


def _count(of_row: NDArray[np.intp], rows: int) -> int:
    if of_row.shape != (rows,):
        raise ValueError(f"one sample number per row is needed, shape ({rows},); {of_row.shape} was given")
    samples = int(of_row.max()) + 1
    if of_row.min() < 0 or (np.bincount(of_row, minlength=samples) == 0).any():
        raise ValueError("samples must be counted from 0, each with at least one row")
    return samples


def _draws(samples: int, resamples: int) -> Iterator[NDArray[np.intp]]:
    """Per resample, how often each sample is drawn, shape (samples,)."""
    random = np.random.default_rng(_SEED)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, samples, samples), minlength=samples)
