"""Whether a loss is beyond the budget or within it, told from the first samples, with a promise for all looks together.

The looks are fixed beforehand. What each sample lost (original minus candidate, turned so that a loss is positive) is
held against the allowed loss, both ways, by the sharpest test that its values permit:

- scores of 0 and 1: exact (`fewbits.verify.exact_pairs`), each look at an equal part of the error (Bonferroni). It
  reads a fifth to two fifths fewer samples than betting, and keeps the promise where Student's t calls more than a
  quarter of the plans at the limit sure (`tests/verify/test_sequential.py` shows both).
- other scores with known bounds (cosine, shares of positions): betting (`fewbits.verify.betting`), which holds at any
  number of looks. It allows for a rare sample that loses as much as the bounds permit.
- scores without bounds (squared errors): approximate (`fewbits.verify.skewed_mean`), an equal part of the error per
  look.
- scores of all samples together (F1): samples drawn again (`fewbits.verify.resampling`), an equal part of the error per
  look, for hopeless alone. Where few predictions changed, such an interval is too short to call a plan sure.

The promise is about the data that the samples stand for, for samples drawn independently; a selection split in which
each class is spread evenly varies less than that. It is per plan: of many plans at the limit, some are misjudged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewbits.budget import Budget
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Evaluator, Scores
from fewbits.verify import betting, exact_pairs, skewed_mean
from fewbits.verify.evaluators import MetricEvaluator
from fewbits.verify.resampling import first_samples, resampled_loss

FEWEST: Final = 32
"""No look before so many samples."""

_PARTS = (16, 8, 4, 2, 1)
# Of the error of one look, the part that the exact test spends on not knowing how often a candidate gains.
_SLACK = 0.05
_ROUNDING = 1e-6

Values = NDArray[np.float64]


class Standing(StrEnum):
    """What the samples so far say about a loss."""

    HOPELESS = "hopeless"
    SURE = "sure"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the greatest loss that one sample can have, in the metric's unit; a gain is negative."""

    low: float
    high: float


UNBOUNDED: Final = Bounds(-inf, inf)

# The original agrees with itself, so that by cosine nothing gains, but for a runtime that does not repeat itself to the
# last bit.
_BOUNDS: Mapping[str, Bounds] = {
    "accuracy": Bounds(-1.0, 1.0),
    "top5": Bounds(-1.0, 1.0),
    "agreement": Bounds(-1.0, 1.0),
    "cosine": Bounds(-0.001, 2.0),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a loss after `samples` samples, the `look`-th (from 1) of `looks`.

    `loss` is measured on these samples, in the budget's unit, and agrees with `standing`: hopeless is above the
    budget, sure within it. Over all looks together, a loss within the budget is called hopeless with probability at
    most 1 - `confidence`, and one beyond it sure.
    """

    standing: Standing
    loss: float
    samples: int
    look: int
    looks: int
    confidence: float


def looks(samples: int) -> tuple[int, ...]:
    """After how many of `samples` samples to look: a sixteenth, an eighth, a quarter, half, all; 32 or more each.

    Raises ValueError on less than one sample.
    """
    if samples < 1:
        raise ValueError(f"at least one sample is needed, not {samples}")
    parts = {-(-samples // part) for part in _PARTS}
    return tuple(sorted(part for part in parts if part >= FEWEST or part == samples))


def loss_bounds(evaluator: Evaluator) -> Bounds:
    """What one sample can lose by the metric of `evaluator`; unbounded where nothing is known, as for a function."""
    if isinstance(evaluator, MetricEvaluator):
        return _BOUNDS.get(evaluator.metric.name, UNBOUNDED)
    return UNBOUNDED


def judge(
    original: Scores,
    candidate: Scores,
    budget: Budget,
    direction: Direction,
    planned: tuple[int, ...],
    *,
    bounds: Bounds = UNBOUNDED,
    confidence: float = 0.95,
) -> Judgement:
    """What the first samples say about the loss of `candidate`, at one of the `planned` looks.

    `original` has the scores of all samples, or at least of those that `candidate` has, in the same order; a relative
    budget refers to its value, which is taken as known, as in `fewbits.verify.acceptance`. `bounds` limit what one
    sample can lose; they need not be given for scores that are all 0 or 1.

    Raises:
        MetricError: no per-sample scores and nothing pooled (a single number), more of the candidate than of the
            original, or a relative budget with an original score of 0.
        ValueError: samples that are none of the planned looks, a loss outside `bounds`, a `confidence` that is not
            between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1; {confidence} was given")
    if candidate.pooled.rows:
        return _judge_pooled(original, candidate, budget, direction, planned, confidence)
    ours, theirs = _pairs(original, candidate)
    place = _place(len(ours), planned)
    scale = budget.scale(original)
    lost = ours - theirs if direction is Direction.HIGHER else theirs - ours
    if lost.min() < bounds.low - _ROUNDING or lost.max() > bounds.high + _ROUNDING:
        raise ValueError(f"a sample lost {lost.min()} or {lost.max()}: not between {bounds.low} and {bounds.high}")
    loss = float(lost.mean()) / scale
    allowed, error = budget.amount * scale, 1 - confidence
    # Only what the measured loss speaks for can be shown; a difference in the last digits is no loss (Budget.holds).
    within = budget.holds(loss)
    if within:
        asked = _Question(-lost, -allowed, -bounds.high, error, len(planned))
    else:
        asked = _Question(lost, allowed, bounds.low, error, len(planned))
    shown = _test(ours, theirs, bounds)(asked) <= error
    told = Standing.SURE if within else Standing.HOPELESS
    standing = told if shown else Standing.UNDECIDED
    return Judgement(standing, loss, len(lost), place, len(planned), confidence)


def _place(samples: int, planned: tuple[int, ...]) -> int:
    if samples not in planned:
        raise ValueError(f"{samples} samples are none of the planned looks {planned}: the promise is for those")
    return planned.index(samples) + 1


def _judge_pooled(
    original: Scores,
    candidate: Scores,
    budget: Budget,
    direction: Direction,
    planned: tuple[int, ...],
    confidence: float,
) -> Judgement:
    place = _place(candidate.samples, planned)
    loss = resampled_loss(
        first_samples(original, candidate.samples),
        candidate,
        direction,
        scale=budget.scale(original),
        confidence=1 - 2 * (1 - confidence) / len(planned),
    )
    standing = Standing.UNDECIDED if budget.holds(loss.low) else Standing.HOPELESS
    return Judgement(standing, loss.value, candidate.samples, place, len(planned), confidence)


@dataclass(frozen=True, slots=True)
class _Question:
    """Is the mean of `values`, none below `floor`, above `limit`, with at most `error` over all `looks`?"""

    values: Values
    limit: float
    floor: float
    error: float
    looks: int


def _pairs(original: Scores, candidate: Scores) -> tuple[Values, Values]:
    first, second = original.per_sample, candidate.per_sample
    if not first or not second:
        raise MetricError(
            "the metric has no score per sample, so nothing can be said before all samples are seen; evaluate all, or "
            "use a metric that is a mean over samples"
        )
    if len(second) > len(first):
        raise MetricError(
            f"the candidate has {len(second)} per-sample scores and the original {len(first)}; both must score the "
            "same samples in the same order"
        )
    return np.array(first[: len(second)], dtype=np.float64), np.array(second, dtype=np.float64)


def _test(ours: Values, theirs: Values, bounds: Bounds) -> Callable[[_Question], float]:
    """The test for such scores: it gives the p-value of a no, all looks together."""
    if not np.isfinite(theirs).all():
        return _certain
    if np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all():
        return _exact
    return _bounded if np.isfinite((bounds.low, bounds.high)).all() else _unbounded


def _certain(_asked: _Question) -> float:
    # An infinite error (NaN in the output, see metric_rows) stays in the mean, whatever comes later.
    return 0.0


def _exact(asked: _Question) -> float:
    above, below = int((asked.values > 0).sum()), int((asked.values < 0).sum())
    slack = _SLACK * asked.error / asked.looks
    return asked.looks * exact_pairs.exceeding(above, below, len(asked.values), asked.limit, slack)


def _bounded(asked: _Question) -> float:
    return betting.exceeding(asked.values, asked.limit, asked.floor)


def _unbounded(asked: _Question) -> float:
    return asked.looks * skewed_mean.exceeding(asked.values, asked.limit)
