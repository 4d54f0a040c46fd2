"""Scores: what a metric or the user's own function gives for one model on one set of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from fewbits.data.batches import Arrays, Dataset

Predict = Callable[[Arrays], Arrays]


class Direction(StrEnum):
    """Which way a score is better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Pooled:
    """What a score of all samples together (F1) is made from: the `rows` of the metric whose text is `metric`, each
    (sample from 0, ..., how often); see `fewbits.metrics.Metric`."""

    metric: str = ""
    rows: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """A score over `samples` samples. `per_sample` has one entry per sample where the metric is a
    mean over samples; where it is made from all of them together (F1), `pooled` has what it is made from. Both are
    empty for a user's single number. `samples` is 0 where only the user's function knows."""

    value: float
    samples: int
    per_sample: tuple[float, ...] = ()
    pooled: Pooled = field(default_factory=Pooled)


class Evaluator(Protocol):
    """Gives a model its score: a metric by name, or the user's own function."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def direction(self) -> Direction:
        """Which way its score is better."""

    @property
    def uses_split(self) -> bool:
        """Whether it reads the split it is given; the user's own function brings its own data."""

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the original model's outputs instead of labels."""

    def __call__(self, predict: Predict, split: Dataset, batch: int) -> Scores:
        """The score of the model behind `predict` on `split`, read in batches of `batch`. Raises MetricError."""
