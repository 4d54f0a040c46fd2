"""Paired latency and throughput: every candidate in its own process, one running at a time, in blocks that rotate.

Calling models in turn inside one process is unfair: a runtime's threads keep spinning after a call and take
the cores of whoever comes next. Here a worker that waits is stopped (SIGSTOP on POSIX; elsewhere a short
sleep lets its threads settle). One round runs one block of calls per candidate; the order rotates from round
to round and every second round runs backwards, so that drift of the machine cancels. The figure is the median
over rounds of the paired ratio of block medians, with its interval (`fewbits.verify.paired.ratio_interval`).

Rounds are added while an interval neither excludes 1 nor is narrow. Looking several times at growing data and
stopping at the first pleasant sight finds differences where there are none, so the number of looks is fixed
beforehand and every look is taken at the confidence that keeps the promise for all of them together (Bonferroni:
with error 5 % and 3 looks, each look allows 1.7 %). The promise is per candidate: who picks the best of many
must still account for the choice.

Where candidates have streams, the process calls its model from so many threads at the same time, and a block gives one
figure: its seconds for each sample of the calls that were completed in it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from fewbits.data.batches import Array, Batch
from fewbits.errors import DataError, ModelError, StorageError, UsageError
from fewbits.measurement import Comparison, Interval, Latency, Measure
from fewbits.progress import Progress, Silent
from fewbits.targets.client import WORKER, Block, Job, Worker
from fewbits.targets.probe import checked_threads, threads_of_stream
from fewbits.verify.paired import ratio_interval

KEPT_CALLS: Final = 200
"""At most so many calls of a block are kept, evenly spaced in time; all figures are made from those."""

_SILENT: Final = Silent()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file on a target. `threads` are those of all calls at the same time, 0 means all cores that this process
    may use. `streams` calls run at the same time; with 0 they run one after the other, and each is timed."""

    name: str
    model: Path
    target: str
    threads: int = 0
    streams: int = 0


def block_order(round_: int, candidates: int) -> tuple[int, ...]:
    """Who runs when in a round. Rounds 2k and 2k+1 mirror each other (linear drift cancels), and over any 2·n
    rounds from an even one on, each of n candidates stands twice at every place."""
    start = round_ // 2 % candidates
    order = tuple((start + step) % candidates for step in range(candidates))
    return order[::-1] if round_ % 2 else order


def rounds_needed(confidence: float) -> int:
    """The fewest rounds that can give an interval of the median at `confidence`: the range of n values holds it
    with probability 1 - 2^(1-n)."""
    return math.ceil(1 - math.log2(1 - confidence) - 1e-9)


def compare(
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    rounds: int = 8,
    looks: int = 3,
    block_seconds: float = 0.25,
    min_calls: int = 3,
    drop: int = 2,
    confidence: float = 0.95,
    half_width: float = 0.02,
    progress: Progress = _SILENT,
    worker: Sequence[str] = WORKER,
    start_seconds: float = 300.0,
) -> Comparison:
    """Measure `candidates` against the first of them on one batch of `inputs`: seconds per call, or per sample (entries
    of the first axis) where they have streams.

    Args:
        candidates: the baseline and those that are compared with it; their names differ.
        inputs: one array per model input, given to every call.
        rounds: rounds before the first look, and between looks.
        looks: after so many looks the measurement ends in any case; 1 means exactly `rounds` rounds.
        block_seconds: shortest duration of one candidate's block in one round.
        min_calls: fewest timed calls of a block, of each stream.
        drop: calls at the start of each block that do not count, of each stream.
        confidence: of every interval, all looks together.
        half_width: an interval whose half-width, relative to its value, is below this is narrow enough to stop.
        progress: told of every round.
        worker: the program that opens and times a model.
        start_seconds: how long opening a model and its first calls may take.

    Raises:
        UsageError: no or equally named candidates, some with streams and some without, more threads than cores, too few
            rounds for `confidence`.
        ModelError, DataError, TargetError: a candidate cannot be opened, or called with `inputs`.
        WorkerError: a measuring process died or did not answer.
    """
    _check_names(candidates)
    measure = _measure(candidates)
    samples = Batch(inputs).samples if measure is Measure.THROUGHPUT else 1
    look_confidence = 1 - (1 - confidence) / looks
    if rounds < rounds_needed(look_confidence):
        raise UsageError(
            f"{rounds} rounds cannot give {confidence:.0%} confidence with {looks} looks; "
            f"give at least {rounds_needed(look_confidence)}"
        )
    block = Block(block_seconds, min_calls, drop, KEPT_CALLS)
    blocks: dict[str, list[tuple[float, ...]]] = {candidate.name: [] for candidate in candidates}
    speedups: dict[str, Interval] = {}
    progress.stage(str(measure), rounds * looks)
    with _opened(candidates, inputs, worker, start_seconds) as workers:
        patience = [
            start_seconds + 10 * _expected_seconds(one, block) * max(1, candidate.streams)
            for one, candidate in zip(workers, candidates, strict=True)
        ]
        for round_ in range(rounds * looks):
            for place in block_order(round_, len(candidates)):
                taken = _turn(workers[place], block, patience[place])
                blocks[candidates[place].name].append(tuple(seconds / samples for seconds in taken))
            progress.advance(_note(blocks, measure))
            if (round_ + 1) % rounds == 0:
                speedups = _speedups(candidates, blocks, look_confidence, confidence)
                if all(_is_settled(interval, half_width) for interval in speedups.values()):
                    break
    done = len(blocks[candidates[0].name])
    return Comparison(
        baseline=candidates[0].name,
        latencies={name: Latency(name, median(map(median, taken)), tuple(taken)) for name, taken in blocks.items()},
        speedups=speedups,
        how=(
            f"median over {done} rounds of the ratio of {_block_text(measure)} (baseline over candidate), "
            f"{confidence:.0%} interval that allows for {looks} look{'s' if looks > 1 else ''}; one process per "
            f"candidate, one running at a time, blocks of {block_seconds:g} s and at least {min_calls} calls"
            f"{' of every stream' if measure is Measure.THROUGHPUT else ''} in rotating order, first {drop} calls of "
            f"each dropped; {_threads_text(candidates)}"
        ),
        measure=measure,
    )


def peak_memory(
    candidate: Candidate,
    inputs: Mapping[str, Array],
    *,
    calls: int = 3,
    worker: Sequence[str] = WORKER,
    start_seconds: float = 300.0,
) -> int:
    """Peak resident bytes of a fresh process that opens `candidate` and calls it `calls` times: the model, the
    runtime and the Python that drives it.

    Raises:
        ModelError, DataError, TargetError: the candidate cannot be opened, or called with `inputs`.
        WorkerError: the process died or did not answer, or the system does not tell.
    """
    with _opened([candidate], inputs, worker, start_seconds) as (one,):
        one.resume()
        one.run(Block(seconds=0.0, min_calls=calls, drop=0, keep=calls), start_seconds)
        return one.memory()


@contextmanager
def _opened(
    candidates: Sequence[Candidate], inputs: Mapping[str, Array], command: Sequence[str], start_seconds: float
) -> Iterator[list[Worker]]:
    """A paused worker per candidate, each with its model loaded. No process is left when this ends."""
    threads = [checked_threads(candidate.threads) for candidate in candidates]
    for candidate in candidates:
        if not candidate.model.is_file():
            raise ModelError(f"{candidate.name}: there is no file {candidate.model}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewbits-")))
        stored = _store(inputs, folder / "inputs.npz")
        workers = []
        for candidate, count in zip(candidates, threads, strict=True):
            file = candidate.model.absolute()
            job = Job(candidate.name, file, candidate.target, count, stored, tuple(inputs), candidate.streams)
            worker = stack.enter_context(Worker(job, command=command, start_seconds=start_seconds))
            worker.open()
            workers.append(worker)
        for worker in workers:
            worker.wait()
            worker.pause()
        yield workers


def _store(inputs: Mapping[str, Array], path: Path) -> Path:
    for name, array in inputs.items():
        if array.dtype.hasobject:
            raise DataError(f"input {name!r} holds Python objects ({array.dtype}); give an array of numbers or of text")
    try:
        np.savez(path, *inputs.values())
    except OSError as error:
        raise StorageError(
            f"could not write the inputs to the temporary file {path}: {error.strerror or error}. "
            "Free some space there, or set TMPDIR to a place that has it"
        ) from error
    return path


def _turn(worker: Worker, block: Block, patience: float) -> tuple[float, ...]:
    worker.resume()
    taken = worker.run(block, patience)
    worker.pause()
    return taken


def _expected_seconds(worker: Worker, block: Block) -> float:
    """About how long a block takes, from first calls that also warm the runtime up."""
    first = _turn(worker, Block(seconds=0.0, min_calls=2, drop=0, keep=2), worker.start_seconds)
    return block.seconds + max(first) * (block.drop + block.min_calls)


def _speedups(
    candidates: Sequence[Candidate],
    blocks: Mapping[str, Sequence[tuple[float, ...]]],
    look_confidence: float,
    confidence: float,
) -> dict[str, Interval]:
    baseline, *others = ([median(taken) for taken in blocks[candidate.name]] for candidate in candidates)
    intervals = (ratio_interval(baseline, other, look_confidence) for other in others)
    return {
        candidate.name: Interval(interval.value, interval.low, interval.high, confidence)
        for candidate, interval in zip(candidates[1:], intervals, strict=True)
    }


def _is_settled(interval: Interval, half_width: float) -> bool:
    clear = interval.low > 1 or interval.high < 1
    return clear or (interval.high - interval.low) / 2 < half_width * interval.value


def _check_names(candidates: Sequence[Candidate]) -> None:
    names = [candidate.name for candidate in candidates]
    if not names:
        raise UsageError("nothing to measure; give at least one candidate")
    if len(set(names)) < len(names):
        raise UsageError(f"candidates share a name: {', '.join(names)}; give each its own")


def _measure(candidates: Sequence[Candidate]) -> Measure:
    found = {Measure.THROUGHPUT if candidate.streams else Measure.LATENCY for candidate in candidates}
    if len(found) > 1:
        raise UsageError("some candidates have streams and some have none; only what is measured alike is compared")
    return found.pop()


def _block_text(measure: Measure) -> str:
    return "block medians" if measure is Measure.LATENCY else "seconds per completed sample"


def _note(blocks: Mapping[str, Sequence[tuple[float, ...]]], measure: Measure) -> str:
    last = {name: median(taken[-1]) for name, taken in blocks.items()}
    if measure is Measure.THROUGHPUT:
        return ", ".join(f"{name} {1 / seconds:.4g} samples/s" for name, seconds in last.items())
    return ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in last.items())


def _threads_text(candidates: Sequence[Candidate]) -> str:
    return " and ".join(sorted({_counts(candidate) for candidate in candidates}))


def _counts(candidate: Candidate) -> str:
    streams = candidate.streams
    if not streams:
        return _counted(checked_threads(candidate.threads), "thread")
    each = _counted(threads_of_stream(candidate.threads, streams), "thread")
    return f"{_counted(streams, 'stream')} of {each}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
