"""One run of NNCF's post-training quantiser, in an environment of its own: it imports nothing of fewbits.

::

    python nncf_quantise.py MODEL.onnx CALIBRATION.npz OUT.xml REPORT.json [--transformer] [--preset mixed]
        [--metric accuracy|agreement --data DATA.npz --max-drop 0.05 [--relative]]

Writes OpenVINO's IR (.xml and .bin) and a report: ``seconds`` of quantising, reading and writing left out;
``evaluations``, how often the metric was taken over all of DATA; ``samples`` that went through a model for the
metric or for NNCF's ranking; ``versions``. ``--metric`` makes it ``quantize_with_accuracy_control``.

``accuracy`` is the share of ``labels`` in DATA that the largest output names. ``agreement`` is that of ``minilm.py``:
the share of sentences whose nearest neighbour is the one in ``nearest``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import nncf
import numpy as np
import openvino as ov
from numpy.typing import NDArray

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]
# Per item: the score, or the outputs, by which NNCF then ranks instead.
Validated = tuple[float, list[float] | list[list[Array]]]

CALIBRATION_SAMPLES = 300  # NNCF's own default
BATCH = 50
LABELS, NEAREST, MASK = "labels", "nearest", "attention_mask"


@dataclass
class Count:
    """What went through a model so far."""

    evaluations: int = 0
    samples: int = 0


@dataclass
class Metric:
    """What NNCF calls to validate a model, on rows of `inputs` given by their indices."""

    inputs: Arrays
    reference: Array
    per_item: bool
    count: Count = field(default_factory=Count)

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.reference)

    def row(self, index: int) -> Arrays:
        """One sample for a model, when NNCF compares outputs."""
        self.count.samples += 1
        return {name: array[index : index + 1] for name, array in self.inputs.items()}

    def __call__(self, model: ov.CompiledModel, items: Iterable[int]) -> Validated:
        """The score over the rows `items`, and what NNCF wants of each."""
        rows = np.fromiter(items, np.int64)
        self.count.samples += len(rows)
        self.count.evaluations += len(rows) == self.size
        found = self._outputs(model, rows)
        if self.per_item:
            hits = (found.argmax(-1) == self.reference[rows]).astype(np.float64)
            return float(hits.mean()), hits.tolist()
        # The nearest of a few rows says nothing: NNCF is given the outputs, and ranks by their error.
        agreed = float((nearest(found) == self.reference).mean()) if len(rows) == self.size else 0.0
        return agreed, [[row] for row in found]

    def _outputs(self, model: ov.CompiledModel, rows: NDArray[np.int64]) -> Array:
        """The only output for `rows`, in their order. Rows of like length go together, cut to the longest: padding
        is masked out, so that only the time changes."""
        lengths = self.inputs[MASK].sum(1)[rows] if MASK in self.inputs else np.zeros(len(rows))
        order = np.argsort(lengths, kind="stable")
        parts = []
        for start in range(0, len(order), BATCH):
            some = rows[order[start : start + BATCH]]
            batch = {name: array[some] for name, array in self.inputs.items()}
            if MASK in batch:
                longest = int(batch[MASK].sum(1).max())
                batch = {name: np.ascontiguousarray(array[:, :longest]) for name, array in batch.items()}
            parts.append(next(iter(model(batch).values())))
        joined: Array = np.concatenate(parts)[np.argsort(order)]
        return joined


def nearest(embeddings: Array) -> NDArray[np.int64]:
    """For each row the index of the other row with the largest cosine, shape (sentences,); as in ``minilm.py``."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    best: NDArray[np.int64] = cosine.argmax(axis=1)
    return best


def load(path: Path) -> dict[str, Array]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def calibration(path: Path) -> nncf.Dataset:
    inputs = load(path)
    count = min(CALIBRATION_SAMPLES, len(next(iter(inputs.values()))))
    return nncf.Dataset([{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)])


def metric(name: str, path: Path) -> Metric:
    data = load(path)
    reference = data.pop(LABELS if name == "accuracy" else NEAREST)
    return Metric(data, reference, per_item=name == "accuracy")


def main() -> None:
    """Quantise one model."""
    parser = argparse.ArgumentParser(description="Quantise one model with NNCF.")
    for name in ("model", "calibration", "out", "report"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--transformer", action="store_true", help="model_type=TRANSFORMER")
    parser.add_argument("--preset", choices=[preset.value for preset in nncf.QuantizationPreset])
    parser.add_argument("--metric", choices=("accuracy", "agreement"), help="quantize_with_accuracy_control")
    parser.add_argument("--data", type=Path, help="what the metric is taken on")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--relative", action="store_true", help="the drop is a share of the original's score")
    arguments = parser.parse_args()

    model = ov.Core().read_model(arguments.model)
    samples = calibration(arguments.calibration)
    model_type = nncf.ModelType.TRANSFORMER if arguments.transformer else None
    preset = nncf.QuantizationPreset(arguments.preset) if arguments.preset else None
    count = Count()
    began = perf_counter()
    if arguments.metric:
        validate = metric(arguments.metric, arguments.data)
        count = validate.count
        quantised = nncf.quantize_with_accuracy_control(
            model,
            samples,
            nncf.Dataset(range(validate.size), validate.row),
            validate,
            max_drop=arguments.max_drop,
            drop_type=nncf.DropType.RELATIVE if arguments.relative else nncf.DropType.ABSOLUTE,
            preset=preset,
            model_type=model_type,
        )
    else:
        quantised = nncf.quantize(model, samples, preset=preset, model_type=model_type)
    report = {
        "seconds": perf_counter() - began,
        "evaluations": count.evaluations,
        "samples": count.samples,
        "versions": {package: version(package) for package in ("nncf", "openvino")},
    }
    ov.save_model(quantised, arguments.out, compress_to_fp16=False)
    arguments.report.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
