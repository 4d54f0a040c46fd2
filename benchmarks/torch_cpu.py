"""PyTorch modules on the CPU: MiniLM, ResNet-50 and MobileNetV2, call by call, in bf16, int8 and weights alone.

Every form is one plan: all groups that can be in bf16, or all products in one int8 scheme with the rest in fp32; with
ranges, the sums behind convolutions are in int8, too. The
original is PyTorch's own float32, eager. Latency is compared as everywhere (one process per candidate, rotating
blocks, paired ratios with an interval); error is that of the output on held-out inputs, for MiniLM also the agreement
of the nearest neighbours over 2,100 sentences; size that of the stored file.

    python benchmarks/models.py --only minilm,resnet50,mobilenetv2   # once: what agreement is measured on
    python benchmarks/torch_cpu.py                                   # -> results/torch_cpu.json
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

import minilm
from fewbits.benchmark import Candidate, compare
from fewbits.data.batches import Arrays, Batch
from fewbits.eligibility import module_obstacle
from fewbits.formats.scheme import BF16, INT8_DYNAMIC, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.measurement import Comparison
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from fewbits.sensitivity.output_error import output_error
from fewbits.targets import open_target
from fewbits.targets.probe import this_machine
from models import BUILDERS
from results import FOLDER, Taken, write

RESULT = FOLDER / "torch_cpu.json"
PACKAGES = ("fewbits", "torch", "transformers", "numpy")
MODELS = ("minilm", "resnet50", "mobilenetv2")
FORMS: Mapping[str, Scheme] = {
    "bf16": BF16,
    "int8 static": INT8_STATIC,
    "int8 dynamic": INT8_DYNAMIC,
    "int8 weights": INT8_WEIGHT,
}
CALIBRATION = 32


@dataclass(frozen=True)
class Row:
    """One form: groups that are in it, bytes of the file and of the original's, error of the output, agreement of the
    nearest neighbours (-1: not that sort of model)."""

    model: str
    form: str
    groups: int
    bytes: int
    original_bytes: int
    error: float
    agreement: float = -1.0


@dataclass(frozen=True)
class Stored:
    """All rows, and by model how they were taken and the comparison of its forms with the original."""

    taken: Mapping[str, Taken]
    rows: tuple[Row, ...]
    comparisons: Mapping[str, Comparison]


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--dry", action="store_true", help="store nothing, time nothing")
    options = parser.parse_args()
    rows: list[Row] = []
    comparisons: dict[str, Comparison] = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            candidates, found, inputs = made(name, options.forms, Path(folder))
            rows += found
            if not options.dry:
                comparisons[name] = compare(candidates, inputs, rounds=options.rounds, looks=1)
        for row in found:
            speed = comparisons[name].speedups[row.form] if name in comparisons else None
            shown = "" if speed is None else f"{speed.value:.2f}x [{speed.low:.2f}, {speed.high:.2f}], "
            print(
                f"{name:12} {row.form:13} {shown}{row.bytes / row.original_bytes:.3f} of the file, error "
                f"{row.error:.2g}, agreement {row.agreement:.4f}, {row.groups} groups",
                flush=True,
            )
    if not options.dry:
        taken = Taken.now(this_machine(PACKAGES))
        stored = merged(Stored(dict.fromkeys(options.only, taken), tuple(rows), comparisons))
        write(TypeAdapter(Stored).dump_json(stored, indent=1), RESULT)


def merged(new: Stored) -> Stored:
    """What is stored, with the models of `new` in place of their older rows."""
    if not RESULT.is_file():
        return new
    old = TypeAdapter(Stored).validate_json(RESULT.read_bytes())
    kept = tuple(row for row in old.rows if row.model not in new.taken)
    order = {name: place for place, name in enumerate(MODELS)}
    rows = sorted((*kept, *new.rows), key=lambda row: order[row.model])
    return Stored({**old.taken, **new.taken}, tuple(rows), {**old.comparisons, **new.comparisons})


def made(name: str, forms: Sequence[str], folder: Path) -> tuple[list[Candidate], list[Row], Arrays]:
    """The forms of one model as files, what they are, and one call's inputs."""
    built = BUILDERS[name]()
    data = {key: np.asarray(value) for key, value in built.inputs.items()}
    few = {key: value[:CALIBRATION] for key, value in data.items()}
    example = {key: torch.from_numpy(value[:3]) for key, value in few.items()}
    model = TorchModel.of(built.module, example, dict.fromkeys(example, frozenset(built.axes)))
    ranges = calibrated(model, few)
    held_out = {key: np.asarray(value) for key, value in built.held_out.items()}
    target = open_target("torch:cpu")
    original = model.original()
    reference = target.open(original)(held_out)
    agreement = minilm.Agreement.load() if name == "minilm" else None
    (folder / "original").write_bytes(original.content)
    candidates, rows = [Candidate("original", folder / "original", target.name)], []
    for form, scheme in ((one, FORMS[one]) for one in forms):
        chosen = {
            made.name: Choice(str(scheme), "benchmark")
            for made in group(model.graph)
            if (made.weight or scheme.is_cast or made.kind is Kind.ADD)
            and not module_obstacle(model.graph, made, scheme)
        }
        artifact = model.converted(Plan(model.sha256, chosen, ranges if scheme.is_static else {}, target=target.name))
        (folder / form).write_bytes(artifact.content)
        candidates.append(Candidate(form, folder / form, target.name))
        session = target.open(artifact)
        error = output_error([reference], [session(held_out)]).value ** 0.5
        same = -1.0 if agreement is None else float(np.mean(agreement(lambda given, one=session: named(one(given)))))
        rows.append(Row(name, form, len(chosen), artifact.size, original.size, error, same))
    return candidates, rows, {key: value[:1] for key, value in data.items()}


def named(outputs: Arrays) -> Arrays:
    """The only output under the name that the metric looks for."""
    (values,) = outputs.values()
    return {minilm.OUTPUT: values}


def calibrated(model: TorchModel, inputs: Arrays) -> dict[str, tuple[float, float]]:
    """The least and the largest value of everything that a product or a sum reads."""
    read = [made for made in group(model.graph) if made.is_product or made.kind is Kind.ADD]
    operands = sorted({name for made in read for name in made.operands})
    (values,) = model.observe([Batch(inputs)], operands)
    return {name: (min(0.0, float(array.min())), max(0.0, float(array.max()))) for name, array in values.items()}


if __name__ == "__main__":
    main()
