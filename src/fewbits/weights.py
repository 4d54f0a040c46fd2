"""The door to weights, whatever file they are in."""

from __future__ import annotations

from pathlib import Path

from fewbits.data.weights import Weights, open_arrays
from fewbits.models import open_tensors

__all__ = ["Weights", "open_weights"]


def open_weights(path: Path) -> Weights:
    """The named tensors of an ``.onnx``, ``.safetensors``, ``.npz`` or ``.npy`` file, read one at a time.

    Raises:
        DataError, ModelError: missing, damaged, or no such file.
    """
    return open_tensors(path) if path.suffix.lower() == ".onnx" else open_arrays(path)
