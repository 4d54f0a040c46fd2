"""The baseline: the model as it is on the runtime where it is fastest."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.benchmark import Candidate, compare
from fewbits.flow.job import Job
from fewbits.flow.names import ORIGINAL
from fewbits.flow.pace import Work
from fewbits.measurement import Comparison

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Floats:
    """`fastest` names the runtime that runs the original fastest; `comparisons` holds the timing of all of them, with
    the first as baseline, and is empty where there is only one."""

    fastest: str
    comparisons: tuple[Comparison, ...] = ()


def time_floats(job: Job) -> Floats:
    """Time the original on every runtime of `job`."""
    if len(job.sites) == 1:
        return Floats(job.sites[0].name)
    return job.journal.step("floats", "fastest", Floats, lambda: _run(job))


def _run(job: Job) -> Floats:
    file = job.candidate_file(ORIGINAL, job.model.original().content)
    candidates = [Candidate(site.name, file, site.name, job.threads) for site in job.sites]
    comparison = job.pace.timed(
        Work.ROUND,
        lambda: compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress),
        _ROUNDS * len(candidates),
    )
    fastest = min(comparison.latencies.values(), key=lambda latency: latency.median).name
    job.progress.say(f"the original is fastest on {fastest}")
    return Floats(fastest, (comparison,))
