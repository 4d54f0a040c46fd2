"""Models side by side: paired latency or throughput, size, and what really ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.benchmark import Candidate, compare
from fewbits.data import DataSource, open_data
from fewbits.errors import ModelError, UsageError
from fewbits.flow.goals.goal import objective_of, streams_of
from fewbits.flow.running import model_of, open_for
from fewbits.flow.scratch import scratch_file, scratch_folder
from fewbits.flow.sessions import call_inputs
from fewbits.graph import Tensor
from fewbits.machine import Machine
from fewbits.measurement import Comparison, MemoryComparison
from fewbits.memory import compare_memory
from fewbits.models import open_served
from fewbits.progress import Progress, Silent
from fewbits.targets import is_simulated
from fewbits.targets.protocol import Executed, Target
from fewbits.verify.acceptance import Objective

_PROFILED_CALLS = 12
_COMPARED = (Objective.LATENCY, Objective.THROUGHPUT, Objective.MEMORY)
_SILENT = Silent()


@dataclass(frozen=True)
class BenchReport:
    """Paired latencies or throughputs, bytes on disk, and the nodes that ran, by model name; peak memory
    where it was asked for."""

    comparison: Comparison
    bytes: Mapping[str, int]
    executed: Mapping[str, tuple[Executed, ...]]
    machine: Machine
    memory: MemoryComparison | None = None


def bench(
    models: Sequence[str | Path],
    data: DataSource,
    *,
    target: str = "auto",
    threads: int = 0,
    rounds: int = 8,
    batch: int = 1,
    objective: str = "latency",
    streams: int = 0,
    progress: Progress = _SILENT,
) -> BenchReport:
    """Compare `models` (ONNX files, modules that were stored as ``.pt``, or directories of finished runs) on the first
    `batch` samples of `data`; the first is the baseline.

    The `objective` ``latency`` is measured one call at a time; ``throughput`` with `streams` calls at the same time,
    which share the threads (0: as many as there are threads); ``memory`` adds the peaks of fresh processes to latency.

    Raises:
        UsageError: no model, files of one name, or what opening models, data and targets raises.
        WorkerError: a measuring process died.
    """
    if not models:
        raise UsageError("give at least one model")
    paths = [model_of(Path(model)) if Path(model).is_dir() else Path(model) for model in models]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError(f"a model is given twice: {', '.join(names)}; copy the file to compare a model with itself")
    if is_simulated(target):
        raise UsageError(
            f"{target} is emulated, which takes as long as this machine likes; measure on a runtime that is here, or "
            "read the predicted costs of a run of fewbits tune"
        )
    goal = _compared(objective_of(objective))
    calls = streams_of(goal, streams, threads)
    served = {name: open_served(path) for name, path in zip(names, paths, strict=True)}
    runtimes = {name: open_for(one, target, threads, max(1, calls)) for name, one in served.items()}
    reads = served[names[0]].inputs
    inputs = call_inputs(open_data(data, reads), reads, batch)
    sizes: dict[str, int] = {}
    executed: dict[str, tuple[Executed, ...]] = {}
    candidates = []
    with scratch_folder() as scratch:
        for number, (name, model) in enumerate(served.items()):
            _check_same_inputs(name, model.inputs, names[0], reads)
            # In one piece: weights that the file keeps beside itself belong to its size, too.
            artifact, runtime = model.artifact, runtimes[name]
            sizes[name] = artifact.size
            executed[name] = tuple(runtime.executed(artifact, inputs, _PROFILED_CALLS))
            file = scratch_file(scratch / f"{number}{artifact.suffix}", artifact)
            candidates.append(Candidate(name, file, runtime.name, threads, calls))
        comparison = compare(candidates, inputs, rounds=rounds, progress=progress)
        memory = compare_memory(candidates, inputs, progress=progress) if goal is Objective.MEMORY else None
    return BenchReport(comparison, sizes, executed, machine_of(list(runtimes.values())), memory)


def machine_of(runtimes: Sequence[Target]) -> Machine:
    """The machine, with the versions of all `runtimes`."""
    versions = {name: version for runtime in runtimes for name, version in runtime.machine.versions.items()}
    return replace(runtimes[0].machine, versions=versions)


def _compared(objective: Objective) -> Objective:
    if objective not in _COMPARED:
        raise UsageError(f"{', '.join(_COMPARED)} are compared, not {objective}; sizes are shown in any case")
    return objective


def _check_same_inputs(name: str, inputs: Sequence[Tensor], first_name: str, first: Sequence[Tensor]) -> None:
    if {tensor.name for tensor in inputs} != {tensor.name for tensor in first}:
        raise ModelError(
            f"{name} reads {_listed(inputs)}, but {first_name} reads {_listed(first)}; "
            "models are compared on the same inputs"
        )


def _listed(inputs: Sequence[Tensor]) -> str:
    return ", ".join(repr(tensor.name) for tensor in inputs)
