"""Why groups lose accuracy: a diagnosis of those that have more than their share of the harm, and what was tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from fewbits.data.batches import Arrays
from fewbits.flow.accepting import Decision
from fewbits.flow.job import Job
from fewbits.flow.observing import observed
from fewbits.flow.remedies.products import as_identity, as_product
from fewbits.flow.remedies.tried import SMOOTHED, Remedy
from fewbits.formats.granularity import Channel
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.graph import Graph, Kind
from fewbits.grouping import CARRIERS, Group, has_constant_first
from fewbits.plan import Plan, smoothed
from fewbits.record import Explanation, RemedyRow
from fewbits.refine.diagnosis import Cause, Diagnosis, diagnose
from fewbits.sensitivity.table import SensitivityTable
from fewbits.smoothing import parse

_MOST: Final = 12
_SAMPLES: Final = 4
_UNKNOWN: Final = "not known: operations of this kind, or without a range, are not looked into"


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A group, the static scheme in which it harms most, and its share of the harm of all."""

    group: Group
    scheme: Scheme
    share: float


def explain(job: Job, plan: Plan, decision: Decision) -> tuple[Explanation, ...]:
    """The groups with more than their share of the harm, the worst first; `plan` has ranges. Empty where nothing was
    ranked, because the first plan held."""
    suspects = list(_suspects(job, decision.table))
    if not suspects:
        return ()
    job.progress.stage("explain losses", len(suspects))
    values = _observed(job, suspects)
    found = []
    for one in suspects:
        seen = _seen(job, plan, one, values)
        cause = _cause(job, one, seen) if seen is not None else _UNKNOWN
        result = decision.plan.scheme(one.group.name)
        found.append(
            Explanation(
                group=one.group.name,
                kind=str(one.group.kind),
                scheme=str(one.scheme),
                share=one.share,
                cause=str(cause),
                seen=_figures(seen),
                remedies=tuple(_rows(job.remedies.get(one.group.name, ()), result)),
                result=str(result),
            )
        )
        job.progress.advance(one.group.name)
    return tuple(found)


def _suspects(job: Job, table: SensitivityTable) -> Iterator[_Suspect]:
    worst: dict[str, tuple[float, Scheme]] = {}
    for name, harms in table.harm.items():
        static = [(harm.value, Scheme.parse(text)) for text, harm in harms.items() if Scheme.parse(text).is_static]
        plain = [one for one in static if not one[1].smoothed] or static
        if plain:
            worst[name] = max(plain, key=lambda one: one[0])
    whole = sum(harm for harm, _ in worst.values())
    groups = {group.name: group for group in job.groups}
    ranked = sorted(worst, key=lambda name: -worst[name][0])[:_MOST]
    for name in ranked:
        harm, scheme = worst[name]
        if harm > 0 and harm * len(worst) >= whole:
            yield _Suspect(groups[name], scheme, harm / whole)


def _observed(job: Job, suspects: Sequence[_Suspect]) -> Arrays:
    """What the suspects read, on a few samples."""
    tensors = dict.fromkeys(name for one in suspects for name in one.group.operands)
    return next(observed(job, tuple(tensors), _SAMPLES))


def _seen(job: Job, plan: Plan, one: _Suspect, values: Arrays) -> Diagnosis | None:
    """``None`` for what has no range, is no product of matrices, or has a constant first, whose range is its own."""
    group, scheme = one.group, one.scheme
    weight_format = scheme.weight
    if group.kind is Kind.CONV_TRANSPOSE or not isinstance(weight_format, ScaledFormat):
        return None
    if has_constant_first(job.graph, group):
        return None
    if not group.is_product:
        return _worst_operand(plan, one, values, weight_format)
    tensor = smoothed(group.operands[0]) if scheme.smoothed else group.operands[0]
    if tensor not in plan.ranges:
        return None
    product = as_product(job.model, group, values)
    inputs, weight = product.inputs, product.weight
    if scheme.smoothed:
        factors = parse(job.smoothing[group.operands[0]])
        inputs, weight = inputs / factors, weight * factors
    whole = np.isfinite(inputs).all(axis=(0, 2))
    low, high = plan.ranges[tensor]
    return diagnose(inputs[:, whole], weight, low, high, integer(scheme.activation), weight_format, product.channels)


def _worst_operand(plan: Plan, one: _Suspect, values: Arrays, format: ScaledFormat) -> Diagnosis | None:
    """What a joint reads with the most error: it has no arithmetic of its own."""
    found = []
    for tensor in one.group.operands:
        if tensor in plan.ranges and values[tensor].ndim > 1:
            product = as_identity(values[tensor])
            whole = np.isfinite(product.inputs).all(axis=(0, 2))
            low, high = plan.ranges[tensor]
            codes = integer(one.scheme.activation)
            found.append(diagnose(product.inputs[:, whole], product.weight, low, high, codes, format, product.channels))
    return max(found, key=lambda seen: seen.inputs_error, default=None)


def _cause(job: Job, one: _Suspect, seen: Diagnosis) -> Cause:
    activation, weight = one.scheme.activation, one.scheme.weight
    assert isinstance(weight, ScaledFormat)
    return seen.cause(
        shared_scale=not isinstance(weight.granularity, Channel),
        symmetric_inputs=integer(activation).signed,
        behind_softmax=_behind(job.graph, one.group.operands[0], Kind.SOFTMAX),
    )


def _behind(graph: Graph, tensor: str, kind: Kind) -> bool:
    node = graph.producer.get(tensor)
    while node is not None and node.kind in CARRIERS:
        node = graph.producer.get(node.inputs[0])
    return node is not None and node.kind is kind


def _figures(seen: Diagnosis | None) -> Mapping[str, float]:
    return {} if seen is None else asdict(seen)


def _rows(tried: Sequence[Remedy], result: Scheme) -> Iterator[RemedyRow]:
    for one in tried:
        fits = result.is_static and (not one.scheme or result.smoothed)
        if one.scheme not in ("", SMOOTHED):
            fits = one.scheme == str(result)
        yield RemedyRow(one.name, one.share, one.measured, used=one.taken and fits)
