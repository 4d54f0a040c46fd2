"""Rows of tensors on calibration data: the last axis are the channels, everything else is rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

import numpy as np

from fewbits.data.batches import Array, Arrays
from fewbits.data.padding import batch_size
from fewbits.flow.job import Job
from fewbits.flow.observing import padded
from fewbits.grouping import Group

_BATCH: Final = 8


def sampled_rows(job: Job, tensors: Sequence[str], samples: int, rows: int) -> Iterator[Arrays]:
    """About `rows` rows in all of each of `tensors`, from the first `samples` samples, one mapping per batch; rows that
    hold NaN or infinity are left out."""
    split = job.splits.calibration
    data = split.take(range(min(samples, split.samples)))
    fixed = batch_size(job.model.inputs, 0)
    share = max(1, rows // ceil(max(data.samples, 1) / (fixed or _BATCH)))
    for seen in job.observe(padded(job, data, fixed or _BATCH), tensors):
        found = {}
        for tensor in tensors:
            flat = seen[tensor].reshape(-1, seen[tensor].shape[-1])
            part = flat[:: max(1, len(flat) // share)][:share]
            found[tensor] = part[np.isfinite(part).all(axis=1)]
        yield found


def by_outputs(job: Job, group: Group) -> Array:
    """The weight of `group`, a product by a matrix, as (outputs, inputs)."""
    weight = job.model.weight(group.weight)
    return weight if job.graph.node[group.name].attributes.get("transB", 0) else weight.T
