"""A model in two representations: a PyTorch module, and its ONNX export on every runtime that is installed.

Each representation has groups, costs and ranges of its own, so each is a job of its own, and the stages see one at a
time. What they share is the baseline: the original is timed everywhere at once, and the fastest of all is what every
plan must beat. The representation of the fastest original goes first. The other one is decided about as far as its
plans to begin with, and further only if the fastest of them, whatever its accuracy, could beat what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from fewbits.flow.accepting import Decision
from fewbits.flow.floats import time_floats
from fewbits.flow.job import Job
from fewbits.flow.names import TUNED
from fewbits.outcome import Outcome
from fewbits.verify.acceptance import Objective

Decide = Callable[[Job, float], Decision]
"""A job, and the speed over the fastest original that its answer must beat (0: any) → how it ends."""

_ACCEPTANCE = 2


def contest(jobs: Sequence[Job], decide: Decide, check: Callable[[Job], object]) -> tuple[Job, Decision]:
    """The best of what `decide` gives for `jobs`, and its job; on a time limit only the most promising is searched.
    `check` comes first: it says whether the metric works, before anything that takes long."""
    if len(jobs) == 1:
        return jobs[0], decide(jobs[0], 0.0)
    check(jobs[0])
    floats = time_floats(jobs[0])
    first, *others = sorted(jobs, key=lambda job: floats.fastest not in {site.name for site in job.sites})
    found = [(first, decide(first, 0.0))]
    notes: list[str] = []
    for job in others:
        names = " and ".join(site.name for site in job.sites)
        if first.deadline.is_set:
            notes.append(f"Only {floats.fastest} and its like were searched, for want of time; not {names}.")
            continue
        job.progress.say(f"searching on {names}, too")
        found.append((job, decide(job, _to_beat(found[0][0], found[0][1]))))
        notes.append(_told(names, found[-1][1]))
    chosen, decision = max(found, key=lambda one: _merit(*one))
    if decision is not found[0][1]:
        notes = [_told(" and ".join(site.name for site in first.sites), found[0][1])]
    every = [one for _, one in found]
    shared = first.baseline_evaluations
    evaluations = shared + sum(max(0, one.evaluations - shared) for one in every) if every[0].evaluations else 0
    most = sum(one.most_trials for one in every) + _ACCEPTANCE * (len(every) - 1)
    return chosen, replace(decision, evaluations=evaluations, most_trials=most, notes=(*decision.notes, *notes))


def _to_beat(job: Job, decision: Decision) -> float:
    """The speed of what was accepted over the fastest original; that of the original where nothing was."""
    accepted = decision.outcome is Outcome.MET and job.times and decision.comparison is not None
    return decision.comparison.speedups[TUNED].value if accepted and decision.comparison is not None else 1.0


def _merit(job: Job, decision: Decision) -> tuple[bool, float]:
    """What counts, the larger the better: first whether there is an answer, then the objective."""
    if decision.outcome is not Outcome.MET:
        return False, 0.0
    if job.objective is Objective.ACCURACY and decision.accuracy is not None:
        return True, -decision.accuracy.loss.value
    if decision.memory is not None:
        return True, -median(decision.memory.peaks[TUNED])
    if job.for_size or decision.comparison is None:
        return True, -float(decision.tuned_bytes)
    return True, decision.comparison.speedups[TUNED].value


def _told(names: str, decision: Decision) -> str:
    return f"On {names}: {decision.outcome}; {decision.reason}"
