"""How far a converted model's output is from the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewbits.models.protocol import Artifact
from fewbits.targets import open_target
from fewbits.targets.protocol import Target


def output(
    model: Path,
    inputs: Mapping[str, NDArray[np.generic]],
    threads: int,
    target: str = "onnxruntime:cpu",
    opener: Callable[[str, int], Target] = open_target,
) -> NDArray[np.float64]:
    """The first output over all samples, one sample per call, on `target` as `opener` opens it."""
    samples = len(next(iter(inputs.values())))
    with opener(target, threads).open(Artifact(model.read_bytes())) as session:
        calls = [session({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(samples)]
    return np.concatenate([next(iter(call.values())) for call in calls]).astype(np.float64)


def relative_error(found: NDArray[np.float64], original: NDArray[np.float64]) -> float:
    """‖found - original‖ / ‖original‖."""
    return float(np.linalg.norm(found - original) / np.linalg.norm(original))
