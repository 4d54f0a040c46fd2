"""Ranges chosen tensor by tensor, by what they do to the outputs of the whole model: slower than one method for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fewbits.flow.calibrate import Ranges, outputs, search_sample, under
from fewbits.flow.job import Job
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import ranging_ends
from fewbits.grouping import tied
from fewbits.plan import Plan, smoothed
from fewbits.refine.ranges import descend
from fewbits.sensitivity.output_error import output_error

_SAMPLES: Final = 64
_MOST: Final = 96
"""Plans that are converted and run for it."""
_SWEEPS: Final = 2

Range = tuple[float, float]
Found = dict[str, Range]


def choose_ranges(job: Job, plan: Plan, methods: Mapping[str, Ranges]) -> Plan:
    """`plan` with the range of each tensor replaced by that of another of `methods` where the outputs are closer to the
    original's with it; once in a run."""
    wanted = _candidates(job, plan, methods)
    if not wanted:
        return plan
    found = job.journal.step("calibration", "ranges by tensor", Found, lambda: _descended(job, plan, wanted))
    return replace(plan, ranges={**plan.ranges, **found}, calibration=f"{plan.calibration}, then tensor by tensor")


def _candidates(job: Job, plan: Plan, methods: Mapping[str, Ranges]) -> Mapping[frozenset[str], list[Range]]:
    """Tensors that share a range → the ranges that they may have, that of `plan` first; those first whose ranges differ
    most."""
    static = [group for group in job.groups if plan.scheme(group.name).is_static]
    read = {name for group in static for name in (*group.operands, *map(smoothed, group.operands), group.inner)}
    classes = {name: members for members in tied(job.graph, job.groups) for name in members}
    found: dict[frozenset[str], list[Range]] = {}
    for name in sorted(read & set(plan.ranges)):
        others = [ranges[name] for ranges in methods.values() if name in ranges]
        options = list(dict.fromkeys([plan.ranges[name], *others]))
        if len(options) > 1:
            found[classes.get(name, frozenset({name}))] = options
    return dict(sorted(found.items(), key=lambda item: -_spread(item[1])))


def _spread(options: list[Range]) -> float:
    widths = [high - low for low, high in options]
    return max(widths) / min(widths) if min(widths) > 0 else 1.0


def _descended(job: Job, plan: Plan, wanted: Mapping[frozenset[str], list[Range]]) -> Found:
    named = {min(members): options for members, options in wanted.items()}
    members = {min(members): members for members in wanted}
    most = min(_MOST, 1 + sum(len(options) - 1 for options in named.values()) * _SWEEPS)
    job.progress.stage("choose ranges by tensor", most)
    sample = search_sample(job, _SAMPLES)
    reference = list(outputs(job, job.original, sample))
    asked = 0

    def spread(chosen: Mapping[str, Range]) -> Found:
        return {name: chosen[least] for least, others in members.items() for name in others if name in plan.ranges}

    def score(chosen: Mapping[str, Range]) -> float:
        nonlocal asked
        if asked and ranging_ends(job, asked, most):
            return float("inf")
        asked += 1
        changed = replace(plan, ranges={**plan.ranges, **spread(chosen)})
        error = job.pace.timed(
            Work.FORM,
            lambda: output_error(reference, under(job, changed, lambda p: list(outputs(job, p, sample)))).value,
        )
        job.progress.advance(f"relative output error {error:.3g}")
        return error

    return spread(descend(named, score, sweeps=_SWEEPS, evaluations=most).chosen)
