"""Limits beside what is measured: the original's figures, whether a plan fits, and what the solver may foresee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fewbits.benchmark import compare
from fewbits.flow.allocating import BYTES, SECONDS, Costing
from fewbits.flow.conversions import plan_key
from fewbits.flow.floats import Floats
from fewbits.flow.job import Job
from fewbits.flow.looks import quick
from fewbits.flow.names import ORIGINAL
from fewbits.formats.scheme import FP32
from fewbits.measurement import Latency
from fewbits.plan import Plan
from fewbits.verify.within import Figures

_ROUNDS: Final = 8


def original_figures(job: Job, floats: Floats) -> Figures:
    """What the original costs where it is fastest; timed only if a limit asks for it."""
    original = job.original_on(floats.fastest)
    if job.limits.seconds is None:
        return Figures(None, original.size)
    for comparison in floats.comparisons:
        return Figures.of(comparison.latencies[floats.fastest], original.size)

    def timed() -> Latency:
        candidate = job.candidate(ORIGINAL, job.original_file(floats.fastest), floats.fastest)
        return compare([candidate], job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress).latencies[ORIGINAL]

    return Figures.of(job.journal.step("limits", ORIGINAL, Latency, timed), original.size)


def quick_seconds(job: Job, plan: Plan) -> float:
    """Seconds per call of the model under `plan`, at a quick look."""

    def timed() -> float:
        file = job.candidate_file("plan", job.conversions.of(plan))
        return quick(job, [job.candidate("plan", file, plan.target)]).latencies["plan"].median

    return job.journal.step("limits", plan_key(plan), float, timed)


def fits(job: Job, plan: Plan) -> bool:
    """Whether `plan` is within the limits of what the search does not make small anyway: the file's size, and the
    latency where it does not look for a fast plan."""
    if not fits_file(job, plan):
        return False
    return job.times or job.limits.seconds is None or quick_seconds(job, plan) <= job.limits.seconds


def fits_file(job: Job, plan: Plan) -> bool:
    """Whether the file is within its limit, to the byte; so is any where a small file is looked for anyway."""
    return job.for_size or job.limits.size is None or job.conversions.of(plan).size <= job.limits.size


def foreseen(job: Job, costing: Costing) -> Mapping[str, float]:
    """The same limits for the solver, on what the tables predict: bytes of what it decides about, and seconds."""
    most: dict[str, float] = {}
    if not job.times and job.limits.seconds is not None:
        most[SECONDS] = job.limits.seconds
    if not job.for_size and job.limits.size is not None:
        # What no group decides about (other weights, the graph itself) takes its part of the file in any case.
        rest = job.model.original().size - costing.bytes().value(dict.fromkeys(costing.names, str(FP32)))
        most[BYTES] = max(0.0, job.limits.size - rest)
    return most
