"""What limits make of a decision: the original where it is within them already, and where it is not."""

from __future__ import annotations

from dataclasses import replace

from fewbits.flow.accepting import Decision, all_float, on_fastest
from fewbits.flow.floats import Floats
from fewbits.flow.goals.limited import original_figures
from fewbits.flow.job import Job
from fewbits.outcome import Outcome
from fewbits.verify.acceptance import Objective
from fewbits.verify.within import kept, missed

_WHO = "The original"


def original_suffices(job: Job, floats: Floats) -> bool:
    """Whether the original is the answer: the most accurate model is asked for, and it is within the limits."""
    return job.objective is Objective.ACCURACY and not original_misses(job, floats)


def original_misses(job: Job, floats: Floats) -> str:
    """What limit the original misses where it is fastest, as a sentence; "" if none."""
    return missed(job.limits, original_figures(job, floats), _WHO) if job.limits.any else ""


def keep(job: Job, floats: Floats) -> Decision:
    """The original comes back, because it is within the limits and nothing can be more accurate."""
    site = job.home(floats.fastest)
    reason = (
        f"{kept(job.limits, original_figures(job, floats), _WHO)} Nothing can be more accurate than it"
        f"{on_fastest(floats)}."
    )
    return Decision(
        outcome=Outcome.KEPT_ORIGINAL,
        reason=reason,
        artifact=job.original_on(floats.fastest),
        plan=all_float(job, site, floats, "the original is within the limits as it is", {}),
        target=floats.fastest,
        site=site,
        floats=floats,
        tuned_bytes=job.original_on(floats.fastest).size,
        evaluations=job.baseline_evaluations,
    )


def bounded(job: Job, floats: Floats, decision: Decision) -> Decision:
    """`decision`; but where the original would come back and misses a limit, the limits cannot be reached, and the
    original is the closest that is known."""
    misses = original_misses(job, floats) if decision.outcome is Outcome.KEPT_ORIGINAL else ""
    if not misses:
        return decision
    return replace(
        decision,
        outcome=Outcome.BUDGET_UNREACHABLE,
        reason=f"{decision.reason.rstrip('.')}. {misses}",
        best=decision.artifact,
        best_plan=decision.plan,
    )
