"""A run's record: everything a report needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median

from fewbits.attribution import Share
from fewbits.flow.accepting import Decision
from fewbits.flow.job import Job
from fewbits.flow.remedies.tried import found_codes
from fewbits.flow.setup import Opened
from fewbits.measurement import Comparison, MemoryComparison
from fewbits.record import GroupRow, Prediction, RunRecord, SchemeRow
from fewbits.sensitivity.table import Harm

_NONE = Share("", "", -1.0)
_UNKNOWN = Harm(-1.0)
_ACCEPTANCE = 2


def sum_up(job: Job, opened: Opened, decision: Decision, seconds: float, *, resumed: bool) -> RunRecord:
    """The record of a run that ended with `decision` after `seconds`, those of its last part if it was resumed."""
    return RunRecord(
        outcome=decision.outcome,
        reason=decision.reason,
        model=opened.name,
        model_sha256=job.model.sha256,
        target=decision.target,
        threads=job.threads,
        objective=decision.objective or str(job.objective),
        machine=job.target(decision.target).machine,
        calibration=decision.calibration,
        splits=job.splits.use,
        accuracy=decision.accuracy,
        latency=decision.comparison,
        floats=next(iter(decision.floats.comparisons), None),
        plans=decision.plans,
        original_bytes=job.model.original().size,
        tuned_bytes=decision.tuned_bytes,
        evaluations=decision.evaluations,
        max_evaluations=job.baseline_evaluations + decision.most_trials + _ACCEPTANCE,
        seconds=seconds,
        groups=tuple(_row(job, decision, name) for name in (group.name for group in job.groups)),
        trials=decision.trials,
        front=decision.front,
        prediction=_prediction(decision),
        kernels=_kernels(decision),
        notes=(
            *_notes(job, decision),
            *(() if decision.comparison is None else (_shapes(job, decision.comparison),)),
            *decision.notes,
            *job.deadline.notes,
            *(("The run was resumed: the time is that of its last part.",) if resumed else ()),
        ),
        settings=opened.settings,
        limits=job.limits,
        predicted=decision.predicted,
        streams=job.streams,
        memory=decision.memory,
        measure=job.measure.name,
        explanations=decision.explanations,
    )


def _row(job: Job, decision: Decision, name: str) -> GroupRow:
    choice = decision.plan.choices[name]
    ran = decision.executed.get(name, _NONE)
    kind = next(str(group.kind) for group in job.groups if group.name == name)
    harms = decision.table.harm.get(name, {})
    codes, share = found_codes(decision.remedies.get(name, ()), choice.scheme)
    return GroupRow(
        name=name,
        kind=kind,
        scheme=choice.scheme,
        reason=choice.reason,
        kernel=ran.kernel,
        precision=ran.precision,
        sensitivity=harms.get(choice.scheme, next(iter(harms.values()), _UNKNOWN)).value,
        float_seconds=decision.original_shares.get(name, _NONE).seconds,
        low_seconds=decision.low_shares.get(name, _NONE).seconds,
        schemes=tuple(_schemes(decision, name)),
        codes=codes,
        codes_share=share,
    )


def _schemes(decision: Decision, name: str) -> Iterator[SchemeRow]:
    harms = decision.table.harm.get(name, {})
    for scheme, cost in decision.site.costs.costs.get(name, {}).items():
        harm = harms.get(scheme, _UNKNOWN)
        yield SchemeRow(scheme, cost.entry, cost.compute, cost.exit, harm.value, harm.error, cost.kernel, cost.refusal)


def _prediction(decision: Decision) -> Prediction:
    correction = decision.correction
    return Prediction(correction.plans, correction.before, correction.after)


def _kernels(decision: Decision) -> dict[str, int]:
    found = Counter(f"{share.kernel} ({share.precision})" for share in decision.executed.values() if share.kernel)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _notes(job: Job, decision: Decision) -> tuple[str, ...]:
    return (*decision.site.space.remarks, *_left_alone(job), *map(_on_each, decision.floats.memories))


def _on_each(memory: MemoryComparison) -> str:
    listing = ", ".join(f"{median(peaks) / 2**20:.1f} MiB on {name}" for name, peaks in memory.peaks.items())
    return f"The original takes {listing}."


def _left_alone(job: Job) -> tuple[str, ...]:
    """The operations that belong to no group, with how often each occurs."""
    grouped = {node for group in job.groups for node in group.nodes}
    found = Counter(node.op for node in job.graph.nodes if node.name not in grouped)
    if not found:
        return ()
    listing = ", ".join(f"{count} {op}" for op, count in found.most_common())
    return (f"Operations of no group, which stay as they are: {listing}.",)


def _shapes(job: Job, comparison: Comparison) -> str:
    shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in job.inputs.items())
    return f"{comparison.measure.capitalize()} was measured with inputs of shape {shapes}."
