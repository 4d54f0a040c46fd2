"""A process that opens one model on one target and times it: ``python -m fewbits.targets.worker``.

It reads one JSON object per line from standard input and answers each with one line:

==========================================================================  ==========================================
request                                                                     answer
==========================================================================  ==========================================
``{"open": {"model", "target", "threads", "streams", "inputs", "names"}}``  ``{"ready": {"target", "threads"}}``
``{"run": {"seconds", "min_calls", "drop", "keep"}}``                       ``{"seconds": [per call, …]}``
``{"memory": {}}``                                                          ``{"memory": peak resident bytes}``
``{"quit": {}}``, or the end of standard input                              none: the process ends
==========================================================================  ==========================================

`inputs` is an ``.npz`` of positional arrays, in the order of `names`. With 0 `streams` calls run one after the other
and each is timed; with more, so many run at the same time, and ``seconds`` is one figure: the seconds of the block for
each call that was completed in it. What cannot be done is answered with
``{"error": {"kind": class in fewbits.errors, "message"}}`` and ends the process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import TextIO
from zipfile import BadZipFile

import numpy as np

from fewbits.data.batches import Arrays
from fewbits.errors import DataError, FewbitsError, ModelError, WorkerError
from fewbits.models.protocol import Artifact
from fewbits.targets import open_target
from fewbits.targets.protocol import Target
from fewbits.targets.streams import Callers, no_collection

Opener = Callable[[str, int, int], Target]
"""Text of a target, threads and streams → the target."""


def run_block(
    call: Callable[[], object],
    *,
    seconds: float,
    min_calls: int,
    drop: int,
    clock: Callable[[], int] = perf_counter_ns,
) -> list[float]:
    """Seconds of each call in a block of `seconds` or `min_calls` calls, whichever is longer, after `drop`
    calls that are not timed. `clock` gives nanoseconds."""
    for _ in range(drop):
        call()
    taken: list[float] = []
    end = clock() + round(seconds * 1e9)
    with no_collection():
        while len(taken) < min_calls or clock() < end:
            before = clock()
            call()
            taken.append((clock() - before) / 1e9)
    return taken


def thinned(calls: list[float], keep: int) -> list[float]:
    """At most `keep` of `calls`, evenly spaced in time."""
    count = len(calls)
    return calls if count <= keep else [calls[index * count // keep] for index in range(keep)]


def peak_resident_bytes() -> int:
    """The most memory that this process has held. Raises WorkerError where the system does not say."""
    if sys.platform == "linux":
        # Not getrusage: there the peak of the parent from before exec counts too.
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415  (absent on Windows)

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    raise WorkerError(f"peak memory cannot be read on {sys.platform}; it is known on Linux and macOS")


def read_inputs(path: Path, names: list[str]) -> Arrays:
    """The arrays of an ``.npz`` with positional arrays, under `names`. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.ascontiguousarray(stored[f"arr_{index}"]) for index, name in enumerate(names)}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"cannot read the inputs in {path}: {error}") from error


def read_model(path: Path) -> Artifact:
    """The model in the file at `path`, with whatever lies beside it. Raises ModelError."""
    try:
        return Artifact(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from error


def serve(opener: Opener, requests: Iterable[str], answers: TextIO) -> None:
    """Answer `requests` until they end. The first one is ``open``."""

    def answer(content: object) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    lines = iter(requests)
    try:
        for line in lines:
            match json.loads(line):
                case {
                    "open": {
                        "model": model,
                        "target": text,
                        "threads": threads,
                        "streams": streams,
                        "inputs": path,
                        "names": names,
                    }
                }:
                    target = opener(text, threads, max(1, streams))
                    inputs = read_inputs(Path(path), names)
                    with target.open(read_model(Path(model))) as session:
                        # What is loaded by now stays: the collections before each block need not look at it.
                        gc.freeze()
                        answer({"ready": {"target": target.name, "threads": target.threads}})
                        _time(partial(session, inputs), streams, lines, answer)
                    return
                case {"quit": _}:
                    return
                case _:
                    raise WorkerError(f"the first request opens a model, not {line.strip()!r}")
    except FewbitsError as error:
        answer({"error": {"kind": type(error).__name__, "message": str(error)}})


def _time(call: Callable[[], object], streams: int, lines: Iterable[str], answer: Callable[[object], None]) -> None:
    with _blocks(call, streams) as block:
        for line in lines:
            match json.loads(line):
                case {"run": {"seconds": seconds, "min_calls": min_calls, "drop": drop, "keep": keep}}:
                    answer({"seconds": block(seconds, min_calls, drop, keep)})
                case {"memory": _}:
                    answer({"memory": peak_resident_bytes()})
                case {"quit": _}:
                    return
                case _:
                    raise WorkerError(f"unknown request {line.strip()!r}")


@contextmanager
def _blocks(call: Callable[[], object], streams: int) -> Iterator[Callable[[float, int, int, int], list[float]]]:
    """What times one block, from its seconds, fewest calls, dropped calls and kept calls."""
    if not streams:
        yield lambda seconds, min_calls, drop, keep: thinned(
            run_block(call, seconds=seconds, min_calls=min_calls, drop=drop), keep
        )
        return
    with Callers(call, streams) as callers:
        yield lambda seconds, min_calls, drop, _keep: [callers.block(seconds=seconds, min_calls=min_calls, drop=drop)]


def main(opener: Opener = open_target) -> None:
    """Serve on the standard streams."""
    _end_with_parent()
    with _reserved_stdout() as answers:
        serve(opener, sys.stdin, answers)


def _reserved_stdout() -> TextIO:
    """Standard output for answers alone: what a library prints from now on goes to standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _end_with_parent() -> None:
    """Die when the parent is killed even while this process is stopped, when it cannot see its input end."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    main()
