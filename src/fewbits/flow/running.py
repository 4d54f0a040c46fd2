"""A model, or the model of a finished run, on data: outputs as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewbits.data import DataSource, open_data
from fewbits.data.batches import Arrays
from fewbits.errors import UsageError
from fewbits.flow.sessions import predictor
from fewbits.models import open_model
from fewbits.progress import Progress, Silent
from fewbits.store import RunFile, read_record
from fewbits.targets import open_target

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
    """Outputs by name of the model at `source` for every sample of `data`, read in batches of `batch`.

    For the directory of a run, its model on the target that it was tuned for, unless `target` names another.

    Raises:
        UsageError: what opening the run, the model, the data or the target raises.
    """
    path = Path(source)
    if path.is_dir():
        record = read_record(path)
        path, target = path / RunFile.MODEL, record.target if target == "auto" else target
    if batch < 1:
        raise UsageError(f"a batch has at least one sample, not {batch}")
    model = open_model(path)
    dataset = open_data(data, model.inputs)
    with open_target(target, threads).open(model.original()) as session:
        predict = predictor(session, model.inputs)
        progress.stage("run", -(-dataset.samples // batch))

        def outputs() -> Iterator[Arrays]:
            for given in dataset.batches(batch):
                yield predict(given.inputs)
                progress.advance()

        parts = list(outputs())
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
