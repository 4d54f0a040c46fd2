"""Positions that are no padding: what moments, errors and means are taken over, so that padding does not weigh as much
as real tokens."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array, Arrays, Batch, Dataset
from fewbits.evaluation import Predict
from fewbits.graph import Graph
from fewbits.masking import padding_mask

_SAMPLES: Final = 64
_TRIED: Final = 4
_SAME: Final = 1e-3
"""Of an output's largest magnitude: what the runtime's own rounding may come to."""
_ROWS_OF_POSITIONS: Final = 3

Real = NDArray[np.bool_]
"""(samples, positions): which positions are no padding."""


def mask_of(graph: Graph, original: Predict, data: Dataset) -> str:
    """The input of a model that is 0 at padded positions and 1 at others, "" if there is none, or nothing is padded.

    The graph names who may be it (`fewbits.masking`); that other inputs make no difference where it is 0, but for
    what the model gives at those positions themselves, is tried out on some of `data` that are padded.
    """
    name = padding_mask(graph)
    if not name:
        return ""
    some = data.take(range(min(_SAMPLES, data.samples)))
    for batch in some.batches(_TRIED):
        real = real_positions(batch.inputs, name)
        if real is not None and not real.all():
            return name if _is_deaf_to_padding(original, batch, name, real) else ""
    return ""


def real_positions(inputs: Arrays, mask: str) -> Real | None:
    """What the input `mask` says of a batch; ``None`` if there is no such input, or it says it in another way than by 1
    and 0 with a 1 in every sample."""
    if not mask or mask not in inputs:
        return None
    values = inputs[mask]
    real = values != 0
    return real if np.array_equal(values.astype(np.int64), real) and real.any(axis=1).all() else None


def without_padding(values: Array, real: Real | None) -> Array:
    """The rows of `values`, whose channels are along the last axis, at real positions, shape (rows, channels); `values`
    themselves if they have no positions, or there is no padding."""
    if real is None or real.all():
        return values
    if values.ndim == _ROWS_OF_POSITIONS and values.shape[:2] == real.shape:
        return np.asarray(values[real])
    if values.ndim == 2 and len(values) == real.size != len(real):
        return np.asarray(values[real.reshape(-1)])
    return values


def _is_deaf_to_padding(original: Predict, batch: Batch, mask: str, real: Real) -> bool:
    changed = {name: array if name == mask else _with_first(array, real) for name, array in batch.inputs.items()}
    if all(changed[name] is array for name, array in batch.inputs.items()):
        return False
    before, after = original(batch.inputs), original(changed)
    return all(
        _same(without_padding(before[name], real), without_padding(after[name], real))
        for name in before
        if before[name].dtype.kind == "f"
    )


def _with_first(array: Array, real: Real) -> Array:
    """`array` with another real position's value at every padded one: something that the model takes."""
    if array.shape[:2] != real.shape:
        return array
    changed = array.copy()
    for row, places in enumerate(real):
        changed[row, ~places] = array[row, int(places.argmax())]
    return changed


def _same(before: Array, after: Array) -> bool:
    return bool(np.abs(before - after).max(initial=0) <= _SAME * np.abs(before).max(initial=0))
