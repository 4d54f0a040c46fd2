"""The result files: what is stored, how a new run is merged in, and how a file is read back."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from fewbits.machine import Machine
from fewbits.measurement import Comparison
from fewbits.record import RunRecord

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("fewbits", "numpy", "onnx", "onnxruntime", "openvino", "torch", "transformers")

_STRICT = ConfigDict(extra="forbid")
_INNERMOST_LIST = re.compile(r"\[([^\[\]{}\"]*)\]")


@dataclass(frozen=True, slots=True)
class Taken:
    """How and where a row was taken."""

    command: str
    date: str
    machine: Machine

    __pydantic_config__ = _STRICT

    @classmethod
    def now(cls, machine: Machine) -> Taken:
        """By the running command, on `machine`, today."""
        words = [Path(sys.argv[0]).name, *sys.argv[1:]]
        return cls(f"python benchmarks/{shlex.join(words)}", datetime.now(UTC).date().isoformat(), machine)


@dataclass(frozen=True, slots=True)
class Tuned:
    """One model tuned. `relative_error` is ‖y - y_fp32‖ / ‖y_fp32‖ over held-out inputs; `record` has the rest,
    the raw blocks of the latency included."""

    name: str
    title: str
    note: str
    relative_error: float
    record: RunRecord
    taken: Taken

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a model, run on `target`. `seconds` and `evaluations` (of the metric, over all data) are what making
    it took; `score` is the row's metric, where the row has one. `failure` is empty where it worked; where it did not,
    the other figures are 0."""

    name: str
    settings: str
    bytes: int
    relative_error: float
    failure: str
    target: str = "onnxruntime:cpu"
    seconds: float = 0.0
    evaluations: int = 0
    score: float = 0.0

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One model in all its forms, timed in one run; the names in `comparison` are those of `forms`. `metric` is what
    `Form.score` is, empty where accuracy means nothing; `max_loss` is the budget that those tools got that keep one."""

    name: str
    title: str
    note: str
    forms: tuple[Form, ...]
    comparison: Comparison
    taken: Taken
    metric: str = ""
    max_loss: str = ""

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Foretold:
    """One random plan: groups in each scheme, and seconds per call as the table predicts them, as the corrected table
    does, and as they were measured."""

    schemes: dict[str, int]
    plain: float
    corrected: float
    measured: float

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Prediction:
    """Random plans of one model on one runtime. The rank correlations are over `plans`, none of which the correction
    was made from."""

    name: str
    title: str
    target: str
    regions: int
    corrected_by: int
    plain: float
    corrected: float
    plans: tuple[Foretold, ...]
    taken: Taken

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Exported:
    """One graph that an exporter wrote: its nodes, what `tune` said (or the error, which is a defect), the loss of what
    it gives; and what each other tool did with the graph, "" for a model that runs. No speeds: graphs so small have
    none worth telling, and other work runs beside."""

    name: str
    exporter: str
    nodes: int
    outcome: str
    reason: str
    loss: float
    peers: Mapping[str, str]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class AllExported:
    """All such graphs, and how the last ones were taken."""

    outcomes: tuple[Exported, ...]
    taken: Taken

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class ExportedModule:
    """One PyTorch module in bf16: why it is not exported ("" where it is), its groups and those in bf16, the casts in
    the converted graph, and ‖y - y_fp32‖ / ‖y_fp32‖ of the plan of nothing, of the converted module, of
    ``module.bfloat16()`` (NaN where that does not run) and of ``torch.autocast``."""

    name: str
    refusal: str
    groups: int
    low: int
    casts: int
    unchanged: float
    error: float
    all_bf16: float
    autocast: float

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True, slots=True)
class AllModules:
    """All such modules, and how the last ones were taken."""

    modules: tuple[ExportedModule, ...]
    taken: Taken

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True, slots=True)
class Trained:
    """One training run of a paper's row: `accuracy` on held-out data (images, or words of greedy translations), `whole`
    the share of sentences that are right (-1 for images), `loss` on held-out sentences, or in the last epoch on images,
    `squares` the sum of the squares of the weights (-1 for translations), and the curves of training, a point for every
    `every` steps."""

    paper: str
    task: str
    row: str
    recipe: str
    loss_factor: float
    seed: int
    accuracy: float
    whole: float
    loss: float
    squares: float
    skipped: int
    diverged: bool
    every: int
    losses: tuple[float, ...]
    scales: tuple[float, ...]
    layer_scales: tuple[float, ...]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class AllTrained:
    """All such runs, and how those of each paper and task were taken."""

    taken: Mapping[str, Taken]
    runs: tuple[Trained, ...]

    __pydantic_config__ = _STRICT


_TUNED = TypeAdapter(tuple[Tuned, ...])
_PEERS = TypeAdapter(tuple[SideBySide, ...])
_PREDICTIONS = TypeAdapter(tuple[Prediction, ...])
_EXPORTED = TypeAdapter(AllExported)
_MODULES = TypeAdapter(AllModules)
_EXPORTED_FILE = FOLDER / "exported_graphs.json"
_TRAINED = TypeAdapter(AllTrained)
_TRAINED_FILE = FOLDER / "papers_training.json"


def add_module(one: ExportedModule, machine: Machine, path: Path = FOLDER / "torch_architectures.json") -> None:
    """Store `one`, taken on `machine` today, in place of an older one of the same name."""
    stored = _MODULES.validate_json(path.read_bytes()).modules if path.is_file() else ()
    modules = {other.name: other for other in stored} | {one.name: one}
    write(_MODULES.dump_json(AllModules(tuple(modules.values()), Taken.now(machine)), indent=1), path)


def read_latency(path: Path = FOLDER / "latency.json") -> tuple[Tuned, ...]:
    """The stored rows, none if there is no file."""
    return _TUNED.validate_json(path.read_bytes()) if path.is_file() else ()


def read_peers(path: Path = FOLDER / "peers.json") -> tuple[SideBySide, ...]:
    """The stored rows, none if there is no file."""
    return _PEERS.validate_json(path.read_bytes()) if path.is_file() else ()


def read_predictions(path: Path = FOLDER / "cost_prediction.json") -> tuple[Prediction, ...]:
    """The stored rows, none if there is no file."""
    return _PREDICTIONS.validate_json(path.read_bytes()) if path.is_file() else ()


def read_exported(path: Path = _EXPORTED_FILE) -> tuple[Exported, ...]:
    """The stored outcomes, none if there is no file."""
    return _EXPORTED.validate_json(path.read_bytes()).outcomes if path.is_file() else ()


def add_exported(one: Exported, machine: Machine, path: Path = _EXPORTED_FILE) -> None:
    """Store `one`, taken on `machine` today, in place of an older one of the same graph."""
    outcomes = {(other.name, other.exporter): other for other in read_exported(path)} | {(one.name, one.exporter): one}
    write(_EXPORTED.dump_json(AllExported(tuple(outcomes.values()), Taken.now(machine)), indent=1), path)


def read_trained(path: Path = _TRAINED_FILE) -> AllTrained:
    """The stored runs, none if there is no file."""
    return _TRAINED.validate_json(path.read_bytes()) if path.is_file() else AllTrained({}, ())


def add_trained(run: Trained, taken: Taken, rows: Sequence[tuple[str, str, str]], path: Path = _TRAINED_FILE) -> None:
    """Store `run` in place of an older one of the same row and seed, in the order of `rows` (paper, task, name).

    Runs of rows that there are no more are dropped.
    """
    before = read_trained(path)
    found = {(one.paper, one.task, one.row, one.seed): one for one in (*before.runs, run)}
    runs = sorted(
        (one for key, one in found.items() if key[:3] in rows), key=lambda one: (rows.index(_row(one)), one.seed)
    )
    takes = {**before.taken, f"{run.paper}, {run.task}": taken}
    groups = dict.fromkeys(f"{paper}, {task}" for paper, task, _ in rows)
    taken_of = {group: takes[group] for group in groups if group in takes}
    write(_TRAINED.dump_json(AllTrained(taken_of, tuple(runs)), indent=1), path)


def _row(run: Trained) -> tuple[str, str, str]:
    return run.paper, run.task, run.row


def add_latency(row: Tuned, path: Path = FOLDER / "latency.json") -> None:
    """Store `row` in place of an older one of the same model."""
    rows = {stored.name: stored for stored in read_latency(path)} | {row.name: row}
    write(_TUNED.dump_json(tuple(rows.values()), indent=1), path)


def add_peers(row: SideBySide, path: Path = FOLDER / "peers.json") -> None:
    """Store `row` in place of an older one of the same model."""
    rows = {stored.name: stored for stored in read_peers(path)} | {row.name: row}
    write(_PEERS.dump_json(tuple(rows.values()), indent=1), path)


def add_prediction(row: Prediction, path: Path = FOLDER / "cost_prediction.json") -> None:
    """Store `row` in place of an older one of the same model on the same runtime."""
    rows = {(stored.name, stored.target): stored for stored in read_predictions(path)} | {(row.name, row.target): row}
    write(_PREDICTIONS.dump_json(tuple(rows.values()), indent=1), path)


def write(content: bytes, path: Path) -> None:
    """Put the JSON `content` into `path`, whole or not at all."""
    # A list of numbers on one line: the raw calls would fill a line each.
    text = _INNERMOST_LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", content.decode())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
