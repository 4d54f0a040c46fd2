"""A plan is evaluated piece by piece, and no further than needed to tell whether its loss is within the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fewbits.budget import Budget
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Pooled, Scores
from fewbits.verify.resampling import pooled_score
from fewbits.verify.sequential import UNBOUNDED, Bounds, Judgement, Standing, judge, looks

EvaluateChunk = Callable[[range], Scores]
"""Scores the candidate on the samples of a range of the split."""


@dataclass(frozen=True, slots=True)
class Raced:
    """The scores of the samples that were read, and what they say. `judgement.loss` compares the same samples of
    both models, so ``budget.holds(raced.judgement.loss)`` is the decision, after a part of the samples or all;
    `scores.value` must not be held against the original's score of the whole split."""

    scores: Scores
    judgement: Judgement


def chunks(planned: tuple[int, ...]) -> tuple[range, ...]:
    """The samples that are new at each of the `planned` looks."""
    return tuple(range(start, stop) for start, stop in pairwise((0, *planned)))


def joined(first: Scores, second: Scores) -> Scores:
    """The scores of two pieces of a split as those of one.

    Raises:
        MetricError: a piece with neither per-sample scores nor rows, whose value says nothing about the whole.
    """
    if first.pooled.rows and second.pooled.rows:
        moved = tuple((row[0] + first.samples, *row[1:]) for row in second.pooled.rows)
        rows = (*first.pooled.rows, *moved)
        return pooled_score(Pooled(first.pooled.metric, rows), first.samples + second.samples)
    per_sample = first.per_sample + second.per_sample
    if len(per_sample) != first.samples + second.samples:
        raise MetricError(
            f"{first.samples + second.samples} samples have {len(per_sample)} per-sample scores; a metric can be "
            "evaluated in pieces only if it gives one score per sample"
        )
    return Scores(float(np.mean(per_sample)), len(per_sample), per_sample)


def race(
    evaluate: EvaluateChunk,
    original: Scores,
    budget: Budget,
    direction: Direction,
    *,
    bounds: Bounds = UNBOUNDED,
    confidence: float = 0.95,
) -> Raced:
    """Evaluate a candidate at `fewbits.verify.sequential.looks`, until its loss is surely beyond or within `budget`.

    `original` has the scores of the whole split. Where it is a single number, the whole split is read at once and the
    judgement is undecided: the measured loss decides, as without a race. It serves evaluators that read the split they
    are given (`uses_split`).

    Raises:
        MetricError: a chunk whose scores are not those of the samples of its range, or a relative budget with an
            original score of 0.
        ValueError: a loss outside `bounds`, a `confidence` that is not between 0 and 1.
    """
    if not original.per_sample and not original.pooled.rows:
        whole = evaluate(range(original.samples))
        loss = budget.loss(original, whole, direction)
        return Raced(whole, Judgement(Standing.UNDECIDED, loss, whole.samples, 1, 1, confidence))
    planned = _planned(original)
    first, *others = chunks(planned)
    raced = _look(_scored(evaluate, first), original, budget, direction, planned, bounds, confidence)
    for chunk in others:
        if raced.judgement.standing is not Standing.UNDECIDED:
            break
        scores = joined(raced.scores, _scored(evaluate, chunk))
        raced = _look(scores, original, budget, direction, planned, bounds, confidence)
    return raced


def _planned(original: Scores) -> tuple[int, ...]:
    planned = looks(original.samples)
    labelled = {int(row[0]) for row in original.pooled.rows}
    if labelled and any(labelled.isdisjoint(chunk) for chunk in chunks(planned)):
        # What has no label at any position has no score.
        return (original.samples,)
    return planned


def _look(
    scores: Scores,
    original: Scores,
    budget: Budget,
    direction: Direction,
    planned: tuple[int, ...],
    bounds: Bounds,
    confidence: float,
) -> Raced:
    return Raced(scores, judge(original, scores, budget, direction, planned, bounds=bounds, confidence=confidence))


def _scored(evaluate: EvaluateChunk, chunk: range) -> Scores:
    scores = evaluate(chunk)
    found = scores.samples if scores.pooled.rows else len(scores.per_sample)
    if found != len(chunk):
        raise MetricError(
            f"samples {chunk.start} to {chunk.stop - 1} gave {found} per-sample scores; {len(chunk)} were expected: an "
            "evaluator in pieces must score just the samples it is given, in their order"
        )
    return scores
