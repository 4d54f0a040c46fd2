"""Rows of tensors on calibration data: the last axis are the channels, everything else is rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

import numpy as np

from fewbits.data.batches import Array, Arrays
from fewbits.data.padding import batch_size
from fewbits.flow.job import Job
from fewbits.flow.observing import observed_with_positions
from fewbits.flow.real_positions import Real, without_padding
from fewbits.grouping import Group

_BATCH: Final = 8


def sampled_rows(job: Job, tensors: Sequence[str], samples: int, rows: int) -> Iterator[Arrays]:
    """About `rows` rows in all of each of `tensors`, from the first `samples` samples, one mapping per batch; rows of
    padding, or that hold NaN or infinity, are left out."""
    size = batch_of(job)
    share = max(1, rows // ceil(max(min(samples, job.splits.calibration.samples), 1) / size))
    for seen, real in observed_with_positions(job, tensors, samples, size):
        found = {}
        for tensor in tensors:
            whole = without_padding(seen[tensor], real)
            flat = whole.reshape(-1, whole.shape[-1])
            part = flat[:: max(1, len(flat) // share)][:share]
            found[tensor] = _finite(part)
        yield found


def batch_of(job: Job) -> int:
    """Samples in a batch."""
    return batch_size(job.model.inputs, 0) or _BATCH


def finite_rows(values: Array, real: Real | None) -> Array:
    """All rows of `values` but those of padding, or that hold NaN or infinity."""
    whole = without_padding(values, real)
    return _finite(whole.reshape(-1, whole.shape[-1]))


def _finite(rows: Array) -> Array:
    return np.asarray(rows[np.isfinite(rows).all(axis=1)])


def by_outputs(job: Job, group: Group) -> Array:
    """The weight of `group`, a product by a matrix, as (outputs, inputs)."""
    weight = job.model.weight(group.weight)
    return weight if job.graph.node[group.name].attributes.get("transB", 0) else weight.T
