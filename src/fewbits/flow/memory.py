"""Memory where it is the objective: every choice between plans is by peaks of fresh processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from fewbits.benchmark import Candidate
from fewbits.flow.job import Job
from fewbits.flow.time.pace import Work
from fewbits.measurement import MemoryComparison
from fewbits.memory import ROUNDS, compare_memory


def peaks(job: Job, candidates: Sequence[Candidate]) -> Mapping[str, int]:
    """Peak bytes of each of `candidates`, of one process: what repeated ones scatter is small beside what plans differ
    by, and what is chosen is measured again at acceptance."""
    found = job.pace.timed(
        Work.PEAK,
        lambda: compare_memory(candidates, job.inputs, rounds=1, progress=job.progress),
        len(candidates),
    )
    return {name: taken[0] for name, taken in found.peaks.items()}


def original_on_each(job: Job) -> MemoryComparison:
    """The original on every runtime; candidates are called by the names of these."""
    candidates = [job.candidate(name, job.original_file(name), name) for name in sorted(job.runtimes)]
    return job.pace.timed(
        Work.PEAK,
        lambda: compare_memory(candidates, job.inputs, progress=job.progress),
        ROUNDS * len(candidates),
    )


def least(memory: MemoryComparison) -> str:
    """The candidate that takes the least."""
    return min(memory.peaks, key=lambda name: median(memory.peaks[name]))
