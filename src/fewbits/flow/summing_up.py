"""A run's record: everything a report needs."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2

from fewbits.attribution import Share
from fewbits.flow.accepting import Decision
from fewbits.flow.job import Job
from fewbits.flow.setup import Opened
from fewbits.record import GroupRow, RunRecord

_NONE = Share("", "", -1.0)


def sum_up(job: Job, opened: Opened, decision: Decision, seconds: float, *, resumed: bool) -> RunRecord:
    """The record of a run that ended with `decision` after `seconds`, those of its last part if it was resumed."""
    most = 6 + (ceil(log2(decision.low_groups)) if decision.low_groups > 1 else 0)
    return RunRecord(
        outcome=decision.outcome,
        reason=decision.reason,
        model=opened.name,
        model_sha256=job.model.sha256,
        target=job.target.name,
        threads=job.target.threads,
        objective=str(job.objective),
        machine=job.target.machine,
        calibration=decision.calibration,
        splits=job.splits.use,
        accuracy=decision.accuracy,
        latency=decision.comparison,
        original_bytes=job.model.original().size,
        tuned_bytes=decision.tuned_bytes,
        evaluations=decision.evaluations,
        max_evaluations=most,
        seconds=seconds,
        groups=tuple(_row(job, decision, name) for name in (group.name for group in job.groups)),
        trials=decision.trials,
        kernels=_kernels(decision),
        notes=(
            *_notes(job),
            *(() if decision.comparison is None else (_shapes(job),)),
            *decision.notes,
            *(("The run was resumed: the time is that of its last part.",) if resumed else ()),
        ),
        settings=opened.settings,
    )


def _row(job: Job, decision: Decision, name: str) -> GroupRow:
    choice = decision.plan.choices[name]
    ran = decision.executed.get(name, _NONE)
    kind = next(str(group.kind) for group in job.groups if group.name == name)
    return GroupRow(
        name=name,
        kind=kind,
        scheme=choice.scheme,
        reason=choice.reason,
        kernel=ran.kernel,
        precision=ran.precision,
        sensitivity=decision.harm.get(name, -1.0),
        float_seconds=decision.original_shares.get(name, _NONE).seconds,
        low_seconds=decision.low_shares.get(name, _NONE).seconds,
    )


def _kernels(decision: Decision) -> dict[str, int]:
    found = Counter(f"{share.kernel} ({share.precision})" for share in decision.executed.values() if share.kernel)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _notes(job: Job) -> tuple[str, ...]:
    return (*job.space.remarks, *_left_alone(job))


def _left_alone(job: Job) -> tuple[str, ...]:
    """The operations that belong to no group, with how often each occurs."""
    grouped = {node for group in job.groups for node in group.nodes}
    found = Counter(node.op for node in job.graph.nodes if node.name not in grouped)
    if not found:
        return ()
    listing = ", ".join(f"{count} {op}" for op, count in found.most_common())
    return (f"Operations of no group, which stay as they are: {listing}.",)


def _shapes(job: Job) -> str:
    shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in job.inputs.items())
    return f"Latency was measured with inputs of shape {shapes}."
