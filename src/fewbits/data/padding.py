"""Models whose batch dimension is fixed: how many samples they take, and how to feed them any other number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fewbits.data.batches import Array, Arrays, Batch
from fewbits.errors import DataError
from fewbits.graph import Tensor


def fixed_batch_size(inputs: Sequence[Tensor]) -> int | None:
    """The size of the first axis where the model fixes it, else ``None``. Raises DataError if inputs disagree."""
    fixed = {tensor.name: tensor.shape[0] for tensor in inputs if tensor.shape and isinstance(tensor.shape[0], int)}
    if len(set(fixed.values())) > 1:
        listing = ", ".join(f"{name!r} has {size}" for name, size in fixed.items())
        raise DataError(f"the first axis of every model input must be the samples, but their sizes differ: {listing}")
    return int(next(iter(fixed.values()))) if fixed else None


def batch_size(inputs: Sequence[Tensor], wanted: int) -> int:
    """The batch size that the model fixes, else `wanted`. Raises DataError if the inputs disagree."""
    return fixed_batch_size(inputs) or wanted


def pad(batch: Batch, size: int) -> Batch:
    """`batch` with its last sample repeated until it holds `size` samples (unchanged if it holds as many or more)."""
    missing = size - batch.samples
    if missing <= 0:
        return batch
    inputs = {name: _repeat_last(array, missing) for name, array in batch.inputs.items()}
    return Batch(inputs, None if batch.labels is None else _repeat_last(batch.labels, missing))


def trim(outputs: Arrays, size: int, samples: int) -> dict[str, Array]:
    """The rows of `outputs` that belong to the first `samples` of `size` padded samples.

    An output whose first axis is a multiple of `size` is cut in proportion (several rows per sample);
    any other has no sample axis and is kept whole.
    """
    return {name: _trim(array, size, samples) for name, array in outputs.items()}


def for_any_batch(predict: Callable[[Arrays], Arrays], size: int) -> Callable[[Arrays], Arrays]:
    """`predict`, which takes exactly `size` samples, made to take any number: cut, padded, trimmed, joined.

    An output without a sample axis is taken from the first piece.
    """

    def predict_any(inputs: Arrays) -> Arrays:
        samples = int(next(iter(inputs.values())).shape[0])
        parts = []
        for start in range(0, samples, size):
            piece = Batch({name: array[start : start + size] for name, array in inputs.items()})
            parts.append(trim(predict(pad(piece, size).inputs), size, piece.samples))
        return _join(parts, size)

    return predict_any


def _trim(array: Array, size: int, samples: int) -> Array:
    if array.ndim == 0 or array.shape[0] % size or array.shape[0] == 0:
        return array
    return array[: array.shape[0] // size * samples]


def _repeat_last(array: Array, times: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], times, axis=0)])


def _join(parts: Sequence[Mapping[str, Array]], size: int) -> dict[str, Array]:
    if len(parts) == 1:
        return dict(parts[0])
    # The first piece is always full, so its outputs show which have a sample axis.
    return {
        name: array if array.ndim == 0 or array.shape[0] % size else np.concatenate([part[name] for part in parts])
        for name, array in parts[0].items()
    }
