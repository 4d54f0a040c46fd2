"""Every model of the set through ONNX Runtime's own quantiser, beside fewbits' result: ``python benchmarks/peers.py``.

All forms of a model are timed in one run against the float original: batch 1, two threads, one process each,
rotating blocks. fewbits' result is the one that ``latency.py`` left in the cache folder. Writes
``benchmarks/results/peers.json``. ``--quick`` is a smoke run: short blocks, and nothing is written to the results.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import minilm
import results
from fewbits.benchmark import Candidate, compare
from fewbits.console import stderr_progress
from fewbits.targets.probe import this_machine
from latency import run_folder
from output_error import output, relative_error
from suite import SUITE, THREADS, Arrays, Member

ORIGINAL = "original"
FEWBITS = "fewbits"
TARGET = "onnxruntime:cpu"
CALIBRATION_SAMPLES = 64


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration inputs one sample at a time, as ONNX Runtime's quantiser reads them."""

    def __init__(self, inputs: Arrays) -> None:
        self._samples = _samples(inputs)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """The next sample, ``None`` at the end."""
        return next(self._samples, None)


def _samples(inputs: Arrays) -> Iterator[dict[str, NDArray[np.generic]]]:
    count = min(CALIBRATION_SAMPLES, len(next(iter(inputs.values()))))
    for i in range(count):
        yield {name: array[i : i + 1] for name, array in inputs.items()}


@dataclass(frozen=True)
class Job:
    """What a quantiser gets: the original, where to write, and calibration inputs."""

    model: Path
    out: Path
    inputs: Arrays

    def prepare(self) -> Prepared:
        """The original after ``quant_pre_process``; without its symbolic shape inference where that fails, as its
        message advises."""
        path = self.out.with_suffix(".prepared.onnx")
        try:
            quant_pre_process(self.model, path)
        except Exception as error:  # noqa: BLE001  it raises plain Exception
            quant_pre_process(self.model, path, skip_symbolic_shape=True)
            return Prepared(path, f"; with skip_symbolic_shape=True ({_one_line(error)})")
        return Prepared(path)


@dataclass(frozen=True)
class Prepared:
    """A pre-processed model, and what to say about how it came about."""

    path: Path
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """One way through ONNX Runtime's quantiser. `quantise` gives what to add to `settings`."""

    settings: str
    quantise: Callable[[Job], str]


def static_default(job: Job) -> str:
    quantize_static(job.model, job.out, Reader(job.inputs))
    return ""


def static_per_channel(job: Job) -> str:
    prepared = job.prepare()
    quantize_static(
        prepared.path,
        job.out,
        Reader(job.inputs),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return prepared.note


def conv_and_matmul(job: Job) -> str:
    prepared = job.prepare()
    quantize_static(prepared.path, job.out, Reader(job.inputs), op_types_to_quantize=["Conv", "MatMul"])
    return prepared.note


def dynamic(job: Job) -> str:
    prepared = job.prepare()
    quantize_dynamic(prepared.path, job.out)
    return prepared.note


RECIPES: Mapping[str, Recipe] = {
    "static default": Recipe("quantize_static, defaults", static_default),
    "static per-channel u8s8": Recipe(
        "quant_pre_process, quantize_static(per_channel=True, activation_type=QUInt8, weight_type=QInt8)",
        static_per_channel,
    ),
    "conv+matmul only": Recipe(
        'quant_pre_process, quantize_static(op_types_to_quantize=["Conv", "MatMul"])', conv_and_matmul
    ),
    "dynamic": Recipe("quant_pre_process, quantize_dynamic, defaults", dynamic),
}


def measure(member: Member, folder: Path, *, quick: bool = False) -> results.SideBySide:
    """All forms of `member`, timed together."""
    original, held_out = member.model(folder), member.held_out(folder)
    expected = output(original, held_out, THREADS)
    calibration = member.calibration(folder) or member.data(folder)
    forms = [results.Form(ORIGINAL, "float32", original.stat().st_size, 0.0, "")]
    candidates = [Candidate(ORIGINAL, original, TARGET, THREADS)]
    with TemporaryDirectory() as name:
        made = {FEWBITS: _Made("fewbits.tune, see latency.json", run_folder(member, folder) / "model.onnx")}
        for recipe_name, recipe in RECIPES.items():
            path = Path(name) / f"{recipe_name.replace(' ', '-')}.onnx"
            made[recipe_name] = _make(recipe, Job(original, path, calibration))
        for form_name, one in made.items():
            form = _form(form_name, one, held_out, expected)
            forms.append(form)
            if not form.failure:
                candidates.append(Candidate(form_name, one.path, TARGET, THREADS))
        with stderr_progress() as progress:
            comparison = compare(
                candidates,
                member.one(folder),
                rounds=6 if quick else 8,
                looks=1 if quick else 3,
                block_seconds=0.05 if quick else 0.25,
                progress=progress,
            )
    return results.SideBySide(
        name=member.name,
        title=member.title,
        note=member.note,
        forms=tuple(forms),
        comparison=comparison,
        taken=results.Taken.now(this_machine(results.PACKAGES)),
    )


@dataclass(frozen=True)
class _Made:
    settings: str
    path: Path
    failure: str = ""


def _make(recipe: Recipe, job: Job) -> _Made:
    """What the quantiser makes, or what it raised: a failure is a result here."""
    try:
        note = recipe.quantise(job)
    except Exception as error:  # noqa: BLE001  a foreign tool may raise anything, and all of it is reported
        return _Made(recipe.settings, job.out, _one_line(error))
    return _Made(recipe.settings + note, job.out)


def _form(name: str, made: _Made, inputs: Arrays, expected: NDArray[np.float64]) -> results.Form:
    if made.failure:
        return results.Form(name, made.settings, 0, 0.0, made.failure)
    if not made.path.is_file():
        return results.Form(name, made.settings, 0, 0.0, "not there: run python benchmarks/latency.py first")
    try:
        found = output(made.path, inputs, THREADS)
    except Exception as error:  # noqa: BLE001  what the quantiser wrote may fail in any way
        return results.Form(name, made.settings, 0, 0.0, _one_line(error))
    return results.Form(name, made.settings, made.path.stat().st_size, relative_error(found, expected), "")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Time ONNX Runtime's own quantiser beside fewbits.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where models.py put them (%(default)s)")
    parser.add_argument("--only", choices=tuple(SUITE), action="append", help="only this model; may be repeated")
    parser.add_argument("--quick", action="store_true", help="smoke run: short blocks, nothing stored")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    for name in arguments.only or SUITE:
        row = measure(SUITE[name], arguments.dir, quick=arguments.quick)
        print(row.title)
        for form in row.forms:
            speedup = row.comparison.speedups.get(form.name)
            figure = f"{speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]" if speedup else form.failure
            print(f"  {form.name}: {figure} error {form.relative_error:.3f}")
        if not arguments.quick:
            results.add_peers(row)


if __name__ == "__main__":
    main()
