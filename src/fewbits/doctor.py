"""What this machine and its runtimes are good for: found, probed and measured, as plain data to print."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from fewbits.benchmark import Candidate, compare
from fewbits.costs.cache import CostCache
from fewbits.costs.measured import Measuring, cost_table
from fewbits.errors import FewbitsError, WorkerError
from fewbits.formats.scheme import FP32
from fewbits.grouping import group as grouped
from fewbits.machine import Machine
from fewbits.measurement import Interval
from fewbits.models import open_model
from fewbits.progress import Progress, Silent
from fewbits.targets import open_target
from fewbits.targets.onnxruntime_probe import OPERATIONS, Operation, probe_model
from fewbits.targets.probe import this_machine
from fewbits.targets.protocol import Target
from fewbits.targets.runtime_probe import DotProduct, ProbeModel, RuntimeProbe

PACKAGES: Final = ("fewbits", "numpy", "scipy", "onnx", "onnx-ir", "onnxruntime", "openvino", "torch")

_ONNXRUNTIME = "onnxruntime"
_OPENVINO = "openvino"
_NOT_USED_YET = ("torch",)
_PROBE = (sys.executable, "-P", "-m", "fewbits.targets.onnxruntime_probe")
_PROBE_SECONDS = 120.0
_FINDINGS = "probe.json"
_SILENT: Final = Silent()


class RuntimeState(StrEnum):
    """What fewbits makes of a runtime."""

    READY = "ready"
    NOT_INSTALLED = "not installed"
    NOT_USED_YET = "installed, but not used by this version of fewbits"
    BROKEN = "installed, but the probe failed"


@dataclass(frozen=True, slots=True)
class Ability:
    """One operation in one scheme as the runtime really ran it.

    `kernels` and `precision` were read back from the optimised model. `speedup` is float seconds over the
    seconds of this scheme, ``None`` where nothing was timed: the float line itself, a refusal, a probe
    without measuring. `refusal` says why the runtime does not run it, "" where it does.
    """

    operation: str
    scheme: str
    kernels: tuple[str, ...]
    precision: str
    seconds: float
    speedup: Interval | None
    refusal: str

    @property
    def verdict(self) -> str:
        """The speedup in a word; only an interval wholly on one side of 1 is called faster or slower."""
        if self.refusal:
            return "refused"
        if self.speedup is None:
            return ""
        if self.speedup.low > 1:
            return "faster"
        return "slower" if self.speedup.high < 1 else "no clear difference"


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """One runtime: whether it is there, what it offers, and what it really runs. `problem` is "" unless broken."""

    name: str
    state: RuntimeState
    version: str = ""
    providers: tuple[str, ...] = ()
    abilities: tuple[Ability, ...] = ()
    dots: tuple[DotProduct, ...] = ()
    problem: str = ""

    @property
    def saturates(self) -> bool:
        """Whether an int8 dot product came out wrong: then keep activations or weights to 7 bits."""
        return any(dot.saturates for dot in self.dots)


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The machine, every known runtime, and how the times were taken ("" without measuring)."""

    machine: Machine
    runtimes: tuple[RuntimeReport, ...]
    how: str


def doctor(*, measure: bool = True, block_seconds: float = 0.05, progress: Progress = _SILENT) -> DoctorReport:
    """Look at this machine and at every runtime that fewbits knows.

    A runtime that fails is reported, not raised. With `measure`, every int8 form of a few small operations is
    timed against float in blocks of `block_seconds` (about a quarter of a minute in all); without, kernels and
    arithmetic are probed but nothing is timed.
    """
    machine = this_machine(PACKAGES)
    runtime, how = _onnxruntime(machine.versions, block_seconds if measure else 0.0, progress)
    others = (_unused(name, machine.versions) for name in _NOT_USED_YET)
    return DoctorReport(machine, (runtime, _openvino(machine.versions, measure=measure), *others), how)


def runtimes() -> tuple[RuntimeReport, ...]:
    """Every runtime that fewbits knows, probed but not timed."""
    return doctor(measure=False).runtimes


def _unused(name: str, versions: Mapping[str, str]) -> RuntimeReport:
    state = RuntimeState.NOT_USED_YET if name in versions else RuntimeState.NOT_INSTALLED
    return RuntimeReport(name, state, versions.get(name, ""))


def _openvino(versions: Mapping[str, str], *, measure: bool) -> RuntimeReport:
    """OpenVINO by its own performance counters: one layer per operation, in every scheme that can be asked for."""
    version = versions.get(_OPENVINO, "")
    if not version:
        return RuntimeReport(_OPENVINO, RuntimeState.NOT_INSTALLED)
    try:
        target = open_target(_OPENVINO)
        abilities = [ability for operation in OPERATIONS for ability in _asked(target, operation, measure=measure)]
    except FewbitsError as error:
        return RuntimeReport(_OPENVINO, RuntimeState.BROKEN, version, problem=str(error))
    return RuntimeReport(_OPENVINO, RuntimeState.READY, version, abilities=tuple(abilities))


def _asked(target: Target, operation: Operation, *, measure: bool) -> Iterator[Ability]:
    # Twice in a row: what gives the output of the whole model keeps fp32.
    model = open_model(probe_model(operation, FP32, repeats=2).SerializeToString())
    group, *_ = grouped(model.graph)
    (given,) = group.operands
    values = {given: np.random.default_rng(0).standard_normal(operation.shape).astype(np.float32)}
    wanted = {group.name: target.menu(model.graph, group).schemes}
    with tempfile.TemporaryDirectory(prefix="fewbits-") as folder, CostCache.open(Path(folder) / "costs") as cache:
        table = cost_table(Measuring(model, target, (group,), values, _SILENT), wanted, cache)
    for scheme, cost in table.costs.get(group.name, {}).items():
        seconds = cost.total if measure else 0.0
        yield Ability(operation.name, scheme, (cost.kernel,), cost.precision, seconds, None, cost.refusal)


def _onnxruntime(versions: Mapping[str, str], block_seconds: float, progress: Progress) -> tuple[RuntimeReport, str]:
    with tempfile.TemporaryDirectory(prefix="fewbits-") as name:
        folder = Path(name)
        try:
            found = run_probe(folder)
        except WorkerError as error:
            version = versions.get(_ONNXRUNTIME, "")
            state = RuntimeState.BROKEN if version else RuntimeState.NOT_INSTALLED
            return RuntimeReport(_ONNXRUNTIME, state, version, problem=str(error) if version else ""), ""
        untimed = tuple(_untimed(model) for model in found.models)
        report = RuntimeReport(
            _ONNXRUNTIME, RuntimeState.READY, found.version, found.providers, abilities=untimed, dots=found.dots
        )
        if not block_seconds:
            return report, ""
        progress.stage("int8 against float on this machine", len({model.operation for model in found.models}))
        try:
            timed, how = _timed(found.models, folder, block_seconds, progress)
        except FewbitsError as error:
            return replace(report, problem=f"not timed: {error}"), ""
        return replace(report, abilities=timed), how


def run_probe(folder: Path, command: Sequence[str] = _PROBE, seconds: float = _PROBE_SECONDS) -> RuntimeProbe:
    """What the probing program finds; the models that it made stay in `folder`.

    Raises:
        WorkerError: it died, took more than `seconds`, or left no readable findings.
    """
    try:
        said = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=seconds, check=False)
        if said.returncode:
            last = said.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise WorkerError(f"the probe ended with exit code {said.returncode}: {last[0]}")
        return TypeAdapter(RuntimeProbe).validate_json((folder / _FINDINGS).read_bytes())
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"the probe did not finish within {seconds:.0f} s") from error
    except (OSError, ValidationError) as error:
        raise WorkerError(f"the probe left no readable findings: {error}") from error


def _untimed(model: ProbeModel) -> Ability:
    return Ability(model.operation, model.scheme, model.kernels, model.precision, 0.0, None, model.refusal)


def _timed(
    models: Sequence[ProbeModel], folder: Path, block_seconds: float, progress: Progress
) -> tuple[tuple[Ability, ...], str]:
    timed: list[Ability] = []
    how = ""
    for operation, group in groupby(models, key=lambda model: model.operation):
        # The float form comes first: it is the baseline.
        members = list(group)
        runnable = [model for model in members if not model.refusal]
        values = np.random.default_rng(0).standard_normal(members[0].shape).astype(np.float32)
        comparison = compare(
            [Candidate(model.scheme, folder / model.file, "onnxruntime:cpu") for model in runnable],
            {"x": values},
            looks=1,
            block_seconds=block_seconds,
        )
        how = comparison.how
        for model in members:
            found = _untimed(model)
            if not model.refusal:
                latency = comparison.latencies[model.scheme].median
                found = replace(found, seconds=latency, speedup=comparison.speedups.get(model.scheme))
            timed.append(found)
        progress.advance(operation)
    return tuple(timed), how
