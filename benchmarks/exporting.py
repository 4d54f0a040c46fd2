"""From a torch module to an ONNX file that agrees with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

OPSET = 20

Inputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Built:
    """A module ready for export: inputs to tune with, others for the output error, dynamic axes by position,
    the output's name, and whether torch's dynamo exporter writes it or the TorchScript one."""

    module: nn.Module
    inputs: Inputs
    held_out: Inputs
    axes: Mapping[int, str]
    output: str
    dynamo: bool = True


def export(built: Built, path: Path) -> None:
    """Write the module of `built` as ONNX, with all weights inside the file."""
    axes = {axis: torch.export.Dim(name) for axis, name in built.axes.items()}
    names = [*built.inputs, built.output]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporters
        torch.onnx.export(
            built.module,
            tuple(torch.from_numpy(array[:2]) for array in built.inputs.values()),
            path,
            input_names=list(built.inputs),
            output_names=[built.output],
            dynamic_shapes=tuple(axes for _ in built.inputs) if built.dynamo else None,
            dynamic_axes=None if built.dynamo else {name: dict(built.axes) for name in names},
            opset_version=OPSET,
            dynamo=built.dynamo,
            external_data=False,
            verbose=False,
        )


def check(built: Built, path: Path) -> None:
    """Stop if ONNX Runtime and torch disagree, or if activations exploded or vanished."""
    few = {name: array[:3] for name, array in built.inputs.items()}
    with torch.no_grad():
        expected = built.module(*(torch.from_numpy(array) for array in few.values())).numpy()
    found = session(path).run([built.output], dict(few))[0]
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error < 1e-3 or not 1e-3 < float(expected.std()) < 1e3:
        raise SystemExit(f"{path}: relative error {error:.2g} against torch, output spread {expected.std():.2g}")


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file on ONNX Runtime's CPU provider."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
