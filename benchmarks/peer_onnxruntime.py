"""ONNX Runtime's own quantiser: the recipes that are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from peer_job import Job, Made, one_line
from suite import Arrays

TARGET = "onnxruntime:cpu"
CALIBRATION_SAMPLES = 64
PER_CHANNEL = "static per-channel u8s8"


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
class Prepared:
    """A pre-processed model, and what to say about how it came about."""

    path: Path
    note: str = ""


def prepare(job: Job) -> Prepared:
    """The original after ``quant_pre_process``; without its symbolic shape inference where that fails, as its
    message advises."""
    path = job.out.with_suffix(".prepared.onnx")
    try:
        quant_pre_process(job.model, path)
    except Exception as error:  # noqa: BLE001  it raises plain Exception
        quant_pre_process(job.model, path, skip_symbolic_shape=True)
        return Prepared(path, f"; with skip_symbolic_shape=True ({one_line(error)})")
    return Prepared(path)


@dataclass(frozen=True)
class Recipe:
    """One way through ONNX Runtime's quantiser. `quantise` gives what to add to `settings`."""

    settings: str
    quantise: Callable[[Job], str]


def static_default(job: Job) -> str:
    quantize_static(job.model, job.out, Reader(job.inputs))
    return ""


def static_per_channel(job: Job) -> str:
    prepared = prepare(job)
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
    prepared = prepare(job)
    quantize_static(prepared.path, job.out, Reader(job.inputs), op_types_to_quantize=["Conv", "MatMul"])
    return prepared.note


def dynamic(job: Job) -> str:
    prepared = prepare(job)
    quantize_dynamic(prepared.path, job.out)
    return prepared.note


RECIPES: Mapping[str, Recipe] = {
    "static default": Recipe("quantize_static, defaults", static_default),
    PER_CHANNEL: Recipe(
        "quant_pre_process, quantize_static(per_channel=True, activation_type=QUInt8, weight_type=QInt8)",
        static_per_channel,
    ),
    "conv+matmul only": Recipe(
        'quant_pre_process, quantize_static(op_types_to_quantize=["Conv", "MatMul"])', conv_and_matmul
    ),
    "dynamic": Recipe("quant_pre_process, quantize_dynamic, defaults", dynamic),
}


def make(recipe: Recipe, job: Job) -> Made:
    """What the quantiser makes, or what it raised: a failure is a result here."""
    began = perf_counter()
    try:
        # It leaves files behind in the working directory.
        with chdir(job.out.parent):
            note = recipe.quantise(job)
    except Exception as error:  # noqa: BLE001  a foreign tool may raise anything, and all of it is reported
        return Made(recipe.settings, job.out, TARGET, failure=one_line(error), seconds=perf_counter() - began)
    return Made(recipe.settings + note, job.out, TARGET, seconds=perf_counter() - began)
