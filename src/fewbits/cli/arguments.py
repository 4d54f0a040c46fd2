"""Arguments that several commands share, and how their texts are read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fewbits.errors import UsageError

Model = Annotated[Path, typer.Argument(help="The model, an ONNX file.", show_default=False)]
Data = Annotated[
    str,
    typer.Option(
        help="Held-out data: an .npz with one array per input and optional 'labels', a folder of images (one "
        "sub-folder per class), or module:function or file.py:function that yields batches.",
        show_default=False,
    ),
]
Target = Annotated[str, typer.Option(help="The runtime that serves the model, for example onnxruntime:cpu.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads of the runtime; 0 means every core.")]
Streams = Annotated[
    int,
    typer.Option(
        min=0,
        help="Calls at the same time when throughput is measured, which share the threads; 0 means one per thread.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


class Objective(StrEnum):
    """What is made as small as possible; or the accuracy, as high as the limits allow."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SIZE = "size"
    MEMORY = "memory"
    ACCURACY = "accuracy"


class CalibrationMethod(StrEnum):
    """How the range of an activation is found."""

    AUTO = "auto"
    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class Sensitivity(StrEnum):
    """What harm is when groups are ranked."""

    AUTO = "auto"
    OUTPUT = "output"
    KL = "kl"
    LOSS = "loss"


def image_size(text: str) -> tuple[int, int]:
    """Height and width from ``224`` or ``224x320``. Raises UsageError."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--image-size {text!r}: give the side in pixels, or HEIGHTxWIDTH, for example 224 or 224x320")
    return int(parts[0]), int(parts[-1])


def channels(option: str, text: str) -> tuple[float, ...]:
    """One figure, or one per channel, from ``0.485,0.456,0.406``. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r}: give one number, or one per channel with commas, for example 0.485,0.456,0.406"
        ) from error


def must_not_exist(path: Path, *, force: bool) -> None:
    """Raise UsageError if writing `path` would overwrite something unasked."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give the name of a file")
    if path.exists() and not force:
        raise UsageError(f"{path} exists and was not changed; overwrite it with --force, or choose another name")


def resuming(words: Sequence[str]) -> str:
    """The command line that goes on where the one with `words` was stopped."""
    kept = [word for word in words if word not in ("--force", "--resume")]
    return shlex.join(["fewbits", *kept, "--resume"])
