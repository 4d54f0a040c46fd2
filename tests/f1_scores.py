"""F1 of made-up classifiers, and what it would be of endless samples."""

from __future__ import annotations

import numpy as np

from fewbits.evaluation import Pooled, Scores
from fewbits.verify.resampling import pooled_score


def f1(predicted: np.ndarray, true: np.ndarray, sample: np.ndarray | None = None) -> Scores:
    """The score of answers of a classifier of two classes; `sample` where a sample has several."""
    of_row = np.arange(len(true)) if sample is None else sample
    rows = np.column_stack([of_row, predicted, true, np.full(len(true), 2), np.ones(len(true))]).astype(float)
    return pooled_score(Pooled("f1", tuple(map(tuple, rows.tolist()))), int(of_row.max()) + 1)


def answers(random: np.random.Generator, samples: int, flips: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers of a model that errs in a tenth of the samples, of one that changes `flips` of them, and the truth."""
    true = random.random(samples) < 0.3
    before = true ^ (random.random(samples) < 0.1)
    return before, before ^ (random.random(samples) < flips), true


def classified(random: np.random.Generator, samples: int, flips: float) -> tuple[Scores, Scores]:
    before, after, true = answers(random, samples, flips)
    return f1(before, true), f1(after, true)


def true_score(wrong: float) -> float:
    """From the shares of the four outcomes."""
    hits, predicted = 0.3 * (1 - wrong), 0.3 * (1 - wrong) + 0.7 * wrong
    return 2 * hits / (predicted + 0.3)


def true_loss(flips: float) -> float:
    return true_score(0.1) - true_score(0.1 * (1 - flips) + 0.9 * flips)
