"""A model, or the model of a finished run, on data: outputs as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewbits.data import DataSource, open_data
from fewbits.data.batches import Arrays
from fewbits.errors import TargetError, UsageError
from fewbits.flow.sessions import predictor
from fewbits.models import open_served
from fewbits.models.protocol import TORCH, Served
from fewbits.progress import Progress, Silent
from fewbits.store import RunFile, read_record
from fewbits.targets import TORCH_TARGETS, open_target, serves_modules
from fewbits.targets.protocol import Target

_SILENT = Silent()


def run(
    source: str | Path,
    data: DataSource,
    *,
    target: str = "auto",
    threads: int = 0,
    batch: int = 16,
    progress: Progress = _SILENT,
) -> Arrays:
    """Outputs by name of the model at `source` (an ONNX file, or a module that was stored as ``.pt``) for every sample
    of `data`, read in batches of `batch`.

    For the directory of a run, its model on the target that it was tuned for, unless `target` names another.

    Raises:
        UsageError: what opening the run, the model, the data or the target raises.
    """
    path = Path(source)
    if path.is_dir():
        record = read_record(path)
        path, target = model_of(path), record.target if target == "auto" else target
    if batch < 1:
        raise UsageError(f"a batch has at least one sample, not {batch}")
    model = open_served(path)
    dataset = open_data(data, model.inputs)
    with open_for(model, target, threads).open(model.artifact) as session:
        predict = predictor(session, model.inputs)
        progress.stage("run", -(-dataset.samples // batch))

        def outputs() -> Iterator[Arrays]:
            for given in dataset.batches(batch):
                yield predict(given.inputs)
                progress.advance()

        parts = list(outputs())
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def model_of(run: Path) -> Path:
    """The file of the model in the directory of a finished run."""
    module = run / RunFile.MODULE
    return module if module.is_file() else run / RunFile.MODEL


def open_for(model: Served, target: str, threads: int, streams: int = 1) -> Target:
    """The runtime that `target` names, for `model`: for a stored module ``auto`` is PyTorch.

    Raises as `open_target`, and TargetError where that runtime does not read such a file.
    """
    is_module = model.artifact.suffix == TORCH
    name = TORCH_TARGETS[0] if is_module and target == "auto" else target
    if serves_modules(name) != is_module:
        what = "a stored PyTorch module" if is_module else "an ONNX model"
        raise TargetError(f"{name} does not run {what}; leave --target out, or choose another one")
    return open_target(name, threads, streams)
