"""Whole models correct the table: factors on its parts that make predicted times those that were measured.

Regions timed alone know nothing of fusions with neighbours, of caches that are warm or cold, and of what is no group.
Non-negative least squares on a few whole plans, drawn to factors of 1 (ridge), so that a part about which the plans
say little keeps its measured cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

_RIDGE: Final = 0.1
REST: Final = "rest"
"""What belongs to no group: a constant number of seconds."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One plan: seconds that the table predicts, by part (a scheme's arithmetic, conversions), and those measured."""

    predicted: Mapping[str, float]
    measured: float


@dataclass(frozen=True, slots=True)
class Correction:
    """`factors` by part (1 where a part is not named), `rest` in seconds. `before` and `after` are Spearman's rank
    correlations of predicted and measured times over the `plans` that it was made from, 1 for fewer than three."""

    factors: Mapping[str, float] = field(default_factory=dict)
    rest: float = 0.0
    before: float = 1.0
    after: float = 1.0
    plans: int = 0

    def factor(self, part: str) -> float:
        """What the table's seconds of `part` are multiplied by."""
        return self.factors.get(part, 1.0)


def corrected(plans: Sequence[Parts]) -> Correction:
    """The correction from `plans`; none at all from fewer than two."""
    if len(plans) < 2:
        return Correction()
    names = sorted({name for plan in plans for name in plan.predicted})
    matrix = np.array([[*(plan.predicted.get(name, 0.0) for name in names), 1.0] for plan in plans])
    measured = np.array([plan.measured for plan in plans])
    scale = float(measured.mean())
    # In units of the mean plan; the rest is drawn to nothing, every factor to 1.
    weights = np.array([*(matrix[:, index].max() for index in range(len(names))), scale]) / scale
    ridge = np.diag(np.sqrt(_RIDGE) * weights)
    target = np.concatenate([measured / scale, ridge @ np.array([*([1.0] * len(names)), 0.0])])
    whole = np.vstack([np.column_stack([matrix[:, :-1] / scale, matrix[:, -1]]), ridge])
    found, _ = nnls(whole, target)
    before = matrix[:, :-1].sum(axis=1)
    after = matrix[:, :-1] @ found[:-1] + found[-1] * scale
    return Correction(
        dict(zip(names, map(float, found[:-1]), strict=True)),
        float(found[-1] * scale),
        _rank(before, measured),
        _rank(after, measured),
        len(plans),
    )


def _rank(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> float:
    if len(measured) < 3 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 1.0
    return float(spearmanr(predicted, measured).statistic)
