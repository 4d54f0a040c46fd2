"""The baseline: the model as it is on the runtime where it is fastest, or takes the least memory if that counts."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.benchmark import compare
from fewbits.flow.job import Job
from fewbits.flow.memory import least, original_on_each
from fewbits.flow.time.pace import Work
from fewbits.measurement import Comparison, MemoryComparison
from fewbits.verify.acceptance import Objective

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Floats:
    """`fastest` names the runtime that runs the original fastest (in the least memory where that is the objective);
    `comparisons` holds the timing of all of them, `memories` their memory, with the first as baseline; both are empty
    where there is only one."""

    fastest: str
    comparisons: tuple[Comparison, ...] = ()
    memories: tuple[MemoryComparison, ...] = ()


def time_floats(job: Job) -> Floats:
    """Time the original on every runtime of `job`, or measure its memory."""
    if len(job.runtimes) == 1:
        return Floats(job.sites[0].name)
    if job.objective is Objective.MEMORY:
        return job.journal.step("floats", "least memory", Floats, lambda: _remember(job))
    return job.journal.step("floats", "fastest", Floats, lambda: _run(job))


def _run(job: Job) -> Floats:
    candidates = [job.candidate(name, job.original_file(name), name) for name in sorted(job.runtimes)]
    comparison = job.pace.timed(
        Work.ROUND,
        lambda: compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress),
        _ROUNDS * len(candidates),
    )
    fastest = min(comparison.latencies.values(), key=lambda latency: latency.median).name
    job.progress.say(f"the original is fastest on {fastest}")
    return Floats(fastest, (comparison,))


def _remember(job: Job) -> Floats:
    memory = original_on_each(job)
    job.progress.say(f"the original takes the least memory on {least(memory)}")
    return Floats(least(memory), memories=(memory,))
