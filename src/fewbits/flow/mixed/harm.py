"""What each group alone does to the outputs when it is small and all others are float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf, isfinite
from typing import Final

from fewbits.data.batches import Batch
from fewbits.flow.sessions import predictor
from fewbits.models.protocol import Model
from fewbits.plan import Plan
from fewbits.progress import Progress
from fewbits.sensitivity.output_error import output_error
from fewbits.targets.protocol import Target

_MOST: Final = 64
"""Conversions that a ranking may take: of more groups, neighbours are looked at together."""


def harms(
    model: Model,
    target: Target,
    groups: Sequence[str],
    small: Callable[[Sequence[str]], Plan],
    batch: Batch,
    progress: Progress,
) -> Mapping[str, float]:
    """The relative squared error that each of `groups`, in graph order, makes at the outputs of `model` on `batch`:
    where there are many, the same share of that of some neighbours. ``small(names)`` is the plan in which these groups
    alone are small. inf where outputs are not finite.

    The error of the group's own output would not tell: what is added to the output in the end, as a residual stream is,
    keeps every rounding, while a layer inside of a branch may be off by much more and change little.

    Raises:
        ModelError: the target does not load a plan.
        DataError: the model does not run on `batch`.
    """
    size = max(1, ceil(len(groups) / _MOST))
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    with target.open(model.original()) as session:
        expected = predictor(session, model.inputs)(batch.inputs)
    found: dict[str, float] = {}
    progress.stage("rank groups by the error at the outputs", len(parts))
    for part in parts:
        with target.open(model.converted(small(part))) as session:
            error = output_error([expected], [predictor(session, model.inputs)(batch.inputs)]).value
        found |= dict.fromkeys(part, error / len(part) if isfinite(error) else inf)
        progress.advance(f"{part[0]}: {error:.2g}")
    return found
