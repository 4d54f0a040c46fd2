"""Peak memory of models, compared: a fresh process for every candidate and round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fewbits.benchmark import Candidate, block_order, peak_memory
from fewbits.data.batches import Array
from fewbits.measurement import MemoryComparison
from fewbits.progress import Progress, Silent
from fewbits.targets.client import WORKER
from fewbits.verify.paired import median_difference

ROUNDS: Final = 6
"""The fewest whose range holds the median difference with 95 %."""
CALLS: Final = 3

_SILENT: Final = Silent()


def compare_memory(
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    rounds: int = ROUNDS,
    confidence: float = 0.95,
    progress: Progress = _SILENT,
    worker: Sequence[str] = WORKER,
) -> MemoryComparison:
    """The peak resident bytes of a process that opens a candidate and calls it on `inputs`, of `rounds` processes for
    each of `candidates`, one at a time, against the first of them.

    What an allocator asks the system for differs a little from process to process, so the saving has an interval: that
    of the median of the differences of a round, by order statistics (`fewbits.verify.paired.median_difference`).

    Raises:
        ModelError, DataError, TargetError: a candidate cannot be opened, or called with `inputs`.
        WorkerError: a process died or did not answer, or the system does not tell.
    """
    progress.stage("memory", rounds * len(candidates))
    peaks: dict[str, list[int]] = {candidate.name: [] for candidate in candidates}
    for round_ in range(rounds):
        for place in block_order(round_, len(candidates)):
            one = candidates[place]
            peaks[one.name].append(peak_memory(one, inputs, calls=CALLS, worker=worker))
            progress.advance(f"{one.name} {peaks[one.name][-1] / 2**20:.1f} MiB")
    baseline, *others = candidates
    return MemoryComparison(
        baseline=baseline.name,
        peaks={name: tuple(found) for name, found in peaks.items()},
        savings={one.name: median_difference(peaks[baseline.name], peaks[one.name], confidence) for one in others},
        how=(
            f"peak resident set of {rounds} fresh process{'es' if rounds > 1 else ''} each, while the model is loaded "
            f"and in {CALLS} calls, with Python and the runtime in it; what is saved is the median over rounds of the "
            f"paired difference with its {confidence:.0%} interval"
        ),
    )
