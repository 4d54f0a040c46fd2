"""Predicted costs as text: figures in a unit of their own, and never without saying that they are predictions."""

from __future__ import annotations

from fewbits.record import PredictedCost
from fewbits.report.words import significant

_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_SMALL = (("", 1.0), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9), ("p", 1e-12))


def amount(value: float) -> str:
    """`value` with a decimal prefix: ``812``, ``3.41 k``, ``98.1 M``, ``4.20 u``; ``-`` where there is none (< 0)."""
    if value < 0:
        return "-"
    for prefix, size in _PREFIXES:
        if value >= size:
            return f"{significant(value / size)} {prefix}"
    for prefix, size in _SMALL:
        if value >= size:
            return f"{significant(value / size)} {prefix}".rstrip()
    return significant(value)


def predicted_row(cost: PredictedCost) -> tuple[str, str, str, str]:
    """A row of the summary: what is predicted, for the original, for the result, and the change."""
    label = f"predicted {cost.unit} ({cost.model})"
    if cost.original >= 0:
        return label, amount(cost.original), amount(cost.tuned), _less(cost.original, cost.tuned)
    than = f" than {amount(cost.widest)} with the most bits" if cost.tuned < cost.widest else " as with the most bits"
    return label, "none for fp32", amount(cost.tuned), f"{_less(cost.widest, cost.tuned)}{than}"


def _less(before: float, after: float) -> str:
    return f"{significant(before / after)}x less" if 0 < after < before else "the same"
