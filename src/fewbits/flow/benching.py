"""Models side by side: paired latency, size, and what really ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.benchmark import Candidate, compare
from fewbits.data import DataSource, open_data
from fewbits.errors import UsageError
from fewbits.flow.sessions import call_inputs
from fewbits.machine import Machine
from fewbits.measurement import Comparison
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.progress import Progress, Silent
from fewbits.targets import open_target
from fewbits.targets.protocol import Executed

_PROFILED_CALLS = 12
_SILENT = Silent()


@dataclass(frozen=True)
class BenchReport:
    """Paired latencies, bytes on disk, and the nodes that ran, by model name."""

    comparison: Comparison
    bytes: Mapping[str, int]
    executed: Mapping[str, tuple[Executed, ...]]
    machine: Machine


def bench(
    models: Sequence[str | Path],
    data: DataSource,
    *,
    target: str = "auto",
    threads: int = 0,
    rounds: int = 8,
    batch: int = 1,
    progress: Progress = _SILENT,
) -> BenchReport:
    """Compare the ONNX files `models` on the first `batch` samples of `data`; the first is the baseline.

    Raises:
        UsageError: no model, files of one name, or what opening models, data and targets raises.
        WorkerError: a measuring process died.
    """
    if not models:
        raise UsageError("give at least one model")
    paths = [Path(model) for model in models]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    runtime = open_target(target, threads)
    inputs = call_inputs(open_data(data, open_model(paths[0]).inputs), open_model(paths[0]).inputs, batch)
    candidates = [Candidate(name, path, runtime.name, runtime.threads) for name, path in zip(names, paths, strict=True)]
    comparison = compare(candidates, inputs, rounds=rounds, progress=progress)
    executed = {
        name: tuple(runtime.executed(Artifact(path.read_bytes()), inputs, _PROFILED_CALLS))
        for name, path in zip(names, paths, strict=True)
    }
    sizes = {name: path.stat().st_size for name, path in zip(names, paths, strict=True)}
    return BenchReport(comparison, sizes, executed, runtime.machine)
