"""Quick looks: whole plans timed end to end, roughly, many in one go. They rank plans and correct the cost tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from fewbits.benchmark import Candidate, compare
from fewbits.costs.correction import Correction, corrected
from fewbits.errors import ModelError, WorkerError
from fewbits.flow.allocating import Costing
from fewbits.flow.floats import Floats
from fewbits.flow.job import Job
from fewbits.flow.names import ORIGINAL
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.measurement import Comparison
from fewbits.plan import Plan

_ROUNDS: Final = 3
_SECONDS: Final = 0.1
_CONFIDENCE: Final = 0.7
_MEMORY: Final = 6 << 30
_COPIES: Final = 4
"""About so many times a file's size is what a process holds that runs it."""


@dataclass(frozen=True, slots=True)
class Look:
    """Seconds per call of a plan (per sample where throughput counts), roughly, and its schemes (groups that are not
    named: fp32)."""

    target: str
    schemes: Mapping[str, str]
    seconds: float


def baseline(job: Job, floats: Floats) -> Candidate:
    """The original where it is fastest."""
    return job.candidate(ORIGINAL, job.original_file(floats.fastest), floats.fastest)


def originals(job: Job, first: Candidate) -> Sequence[Candidate]:
    """The original on the other runtimes than that of `first`."""
    others = [site.name for site in job.sites if site.name != first.target]
    return [job.candidate(f"{ORIGINAL} on {name}", job.original_file(name), name) for name in others]


def quick(job: Job, candidates: Sequence[Candidate]) -> Comparison:
    """A short comparison of `candidates`, the first of which is the baseline."""
    compared = partial(
        compare,
        candidates,
        job.inputs,
        rounds=_ROUNDS,
        looks=1,
        block_seconds=_SECONDS,
        confidence=_CONFIDENCE,
        progress=job.progress,
    )
    return job.pace.timed(Work.LOOK, compared, len(candidates))


def look(job: Job, first: Candidate, candidates: Sequence[Candidate], plans: Mapping[str, Plan]) -> Mapping[str, Look]:
    """A look at `first` and all `candidates`, as many at a time as memory holds; `plans` by candidate name, the
    original where a name has none. Candidates that the runtime does not load, or dies of, are told of and left out."""
    together = max(2, _MEMORY // (_COPIES * job.model.original().size))
    targets = {one.name: one.target for one in (first, *candidates)}
    looks: dict[str, Look] = {}
    for start in range(0, len(candidates), together):
        for name, latency in _survivors(job, first, candidates[start : start + together]).latencies.items():
            plan = plans.get(name)
            schemes = {} if plan is None else {group: str(plan.scheme(group)) for group in sorted(plan.low)}
            looks[name] = Look(targets[name], schemes, latency.median)
    return looks


def _survivors(job: Job, first: Candidate, candidates: Sequence[Candidate]) -> Comparison:
    """A quick look at `first` and those of `candidates` that run."""
    try:
        return quick(job, [first, *candidates])
    except (ModelError, WorkerError):
        if not candidates:
            raise
        # A runtime can die of a model without a word: who it was shows when each runs alone.
        return quick(job, [first, *(one for one in candidates if _runs(job, first, one))])


def _runs(job: Job, first: Candidate, one: Candidate) -> bool:
    try:
        quick(job, [first, one])
    except (ModelError, WorkerError) as error:
        job.progress.say(f"left out: {error}")
        return False
    return True


def correction(job: Job, site: Site, looks: Sequence[Look]) -> Correction:
    """What those of `looks` that were taken on `site` say about its cost table."""
    costing = Costing(job, site)
    return corrected([costing.parts(look.schemes, look.seconds) for look in looks if look.target == site.name])
