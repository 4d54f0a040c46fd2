"""Memory where it is the objective: every choice between plans is by peaks of fresh processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from fewbits.benchmark import Candidate
from fewbits.flow.job import Job
from fewbits.flow.names import ORIGINAL
from fewbits.measurement import MemoryComparison
from fewbits.memory import compare_memory


def peaks(job: Job, candidates: Sequence[Candidate]) -> Mapping[str, int]:
    """Peak bytes of each of `candidates`, of one process: what repeated ones scatter is small beside what plans differ
    by, and what is chosen is measured again at acceptance."""
    found = compare_memory(candidates, job.inputs, rounds=1, progress=job.progress)
    return {name: taken[0] for name, taken in found.peaks.items()}


def original_on_each(job: Job) -> MemoryComparison:
    """The original on every runtime; candidates are called by the names of these."""
    file = job.candidate_file(ORIGINAL, job.model.original().content)
    return compare_memory(
        [Candidate(site.name, file, site.name, job.threads) for site in job.sites],
        job.inputs,
        progress=job.progress,
    )


def least(memory: MemoryComparison) -> str:
    """The candidate that takes the least."""
    return min(memory.peaks, key=lambda name: median(memory.peaks[name]))
