"""Scores: what a metric or the user's own function gives for one model on one set of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from fewbits.data.batches import Arrays

Predict = Callable[[Arrays], Arrays]


class Direction(StrEnum):
    """Which way a score is better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Scores:
    """A score over `samples` samples. `per_sample` has one entry per sample where the metric is a
    mean over samples, and is empty where it is not (F1, a user's single number)."""

    value: float
    samples: int
    per_sample: tuple[float, ...] = ()
