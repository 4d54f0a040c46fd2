"""Conversions that are asked for in a row by several stages, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fewbits.models.protocol import Artifact, Model
from fewbits.plan import Plan

_KEPT = 3
_Key = tuple[
    str,
    frozenset[tuple[str, str]],
    Mapping[str, tuple[float, float]],
    tuple[Mapping[str, str], ...],
    tuple[tuple[str, ...], bool],
]


def plan_key(plan: Plan) -> str:
    """The same for plans that convert to the same model."""
    groups = (f"{name}={plan.scheme(name)} {plan.codes.get(name, '')}".rstrip() for name in sorted(plan.low))
    corrected = "biases corrected" if plan.means else ""
    text = "\n".join([plan.target, plan.calibration, corrected, *groups])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _remedies(plan: Plan) -> tuple[Mapping[str, str], ...]:
    """What of `plan` changes weights and biases besides its schemes."""
    return plan.codes, plan.equalised, plan.smoothing, plan.scaling, plan.means


class Conversions:
    """`model` under plans; the last few artefacts are remembered, because screening, search and acceptance
    mostly work on the same one."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._last: list[tuple[_Key, Artifact]] = []

    def of(self, plan: Plan) -> Artifact:
        """The model under `plan`. Raises PlanError if the plan does not fit."""
        # The target decides on the form of the graph, too (`fewbits.dialect`).
        key: _Key = (
            plan.target,
            frozenset((name, str(plan.scheme(name))) for name in plan.low),
            plan.ranges,
            _remedies(plan),
            (plan.kept, plan.wide_weights),
        )
        found = next((artifact for known, artifact in self._last if known == key), None)
        artifact = self._model.converted(plan) if found is None else found
        self._last = [(key, artifact), *((known, other) for known, other in self._last if known != key)][:_KEPT]
        return artifact
