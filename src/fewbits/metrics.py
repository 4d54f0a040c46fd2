"""Metrics by name. A metric is a value: how outputs become rows, and how rows become a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import isfinite

from fewbits import metric_rows
from fewbits.data.batches import Array
from fewbits.errors import MetricError
from fewbits.evaluation import Direction
from fewbits.metric_rows import Rows


@dataclass(frozen=True)
class Metric:
    """How well outputs match a reference.

    `rows` takes outputs (samples, …), the reference (labels, or what `keep` left of the original model's
    outputs) and the threshold, and gives one row per sample where `per_sample`, else any number of rows
    (sample of the batch, ..., how often) that can be joined over batches; `value` makes the score from all
    rows, in any order. `threshold` turns a single output column into two classes: above it is class 1. The
    text form is ``name`` or ``name@threshold``.
    """

    name: str
    direction: Direction
    needs_labels: bool
    per_sample: bool
    summary: str
    rows: Callable[[Array, Array, float | None], Rows]
    value: Callable[[Rows], float]
    keep: Callable[[Array, float | None], Array]
    thresholds: bool = False
    threshold: float | None = None

    def __str__(self) -> str:
        """Text that `metric` reads back."""
        return self.name if self.threshold is None else f"{self.name}@{self.threshold!r}"


def metric(text: str) -> Metric:
    """The metric that `text` names: ``accuracy``, ``top5`` (or ``top-5``), ``f1``, ``mse``, ``cosine``, ``agreement``.

    ``accuracy``, ``f1`` and ``agreement`` of a model with a single output column need a threshold:
    ``accuracy@0.5`` for probabilities, ``accuracy@0`` for logits.
    Raises MetricError, listing the choices.
    """
    name, at, threshold = text.strip().partition("@")
    key = name.strip().lower().replace("-", "").replace("_", "")
    if key not in CATALOG:
        near = get_close_matches(key, CATALOG, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise MetricError(
            f"unknown metric {text!r}; {hint}The metrics are {', '.join(CATALOG)}; "
            "or give your own function as module:function or file.py:function"
        )
    found = CATALOG[key]
    if not at:
        return found
    if not found.thresholds:
        takers = ", ".join(each.name for each in CATALOG.values() if each.thresholds)
        raise MetricError(f"{text!r}: {found.name} takes no threshold; {takers} do")
    return replace(found, threshold=_threshold(threshold, text))


def _threshold(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise MetricError(f"{whole!r}: {text!r} is not a threshold; write for example accuracy@0.5") from error
    if not isfinite(value):
        raise MetricError(f"{whole!r}: the threshold must be finite")
    return value


def _catalog(*metrics: Metric) -> Mapping[str, Metric]:
    return {each.name: each for each in metrics}


CATALOG = _catalog(
    Metric(
        "accuracy",
        Direction.HIGHER,
        needs_labels=True,
        per_sample=True,
        summary="share of samples whose class is right; a mean over positions for outputs (samples, positions, "
        "classes), where negative labels do not count",
        rows=metric_rows.accuracy,
        value=metric_rows.mean,
        keep=metric_rows.classes,
        thresholds=True,
    ),
    Metric(
        "top5",
        Direction.HIGHER,
        needs_labels=True,
        per_sample=True,
        summary="share of samples whose class is among the five largest scores",
        rows=metric_rows.top5,
        value=metric_rows.mean,
        keep=metric_rows.classes,
    ),
    Metric(
        "f1",
        Direction.HIGHER,
        needs_labels=True,
        per_sample=False,
        summary="F1 of class 1 for two classes; for more, the plain mean (macro) over the classes that occur",
        rows=metric_rows.f1,
        value=metric_rows.f1_value,
        keep=metric_rows.classes,
        thresholds=True,
    ),
    Metric(
        "mse",
        Direction.LOWER,
        needs_labels=True,
        per_sample=True,
        summary="mean squared error against the labels",
        rows=metric_rows.squared_error,
        value=metric_rows.mean,
        keep=metric_rows.finite,
    ),
    Metric(
        "cosine",
        Direction.HIGHER,
        needs_labels=False,
        per_sample=True,
        summary="cosine similarity of each sample's output to the original model's; needs no labels",
        rows=metric_rows.cosine,
        value=metric_rows.mean,
        keep=metric_rows.finite,
    ),
    Metric(
        "agreement",
        Direction.HIGHER,
        needs_labels=False,
        per_sample=True,
        summary="share of samples for which the class is the original model's; needs no labels",
        rows=metric_rows.agreement,
        value=metric_rows.mean,
        keep=metric_rows.classes,
        thresholds=True,
    ),
)
