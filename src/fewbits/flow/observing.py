"""Calibration data as the model takes it, in batches whose observed values stay small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fewbits.data.batches import Arrays, Batch, Dataset
from fewbits.data.padding import batch_size, pad
from fewbits.flow.job import Job
from fewbits.flow.real_positions import Real, real_positions

_BYTES_PER_BATCH: Final = 64 << 20
_MOST: Final = 16


def observed(job: Job, tensors: Sequence[str], samples: int) -> Iterator[Arrays]:
    """What `tensors` hold on the first `samples` samples of the calibration data, one mapping per batch."""
    return (values for values, _ in observed_with_positions(job, tensors, samples, samples_per_batch(job, tensors)))


def observed_with_positions(
    job: Job, tensors: Sequence[str], samples: int, size: int
) -> Iterator[tuple[Arrays, Real | None]]:
    """The same in batches of `size`, each with its real positions (`fewbits.flow.real_positions`)."""
    split = job.splits.calibration
    data = split.take(range(min(samples, split.samples)))
    wanted = dict.fromkeys([*tensors, *([job.mask] if job.mask else [])])
    for values in job.observe(padded(job, data, size), list(wanted)):
        yield {name: values[name] for name in tensors}, real_positions(values, job.mask)


def samples_per_batch(job: Job, tensors: Sequence[str]) -> int:
    """So many samples that the values of `tensors` in one batch stay small, whatever the model."""
    fixed = batch_size(job.model.inputs, 0)
    if fixed:
        return fixed
    per_sample = 4 * sum(job.graph.tensors[name].elements for name in tensors)
    return max(1, min(_MOST, _BYTES_PER_BATCH // max(per_sample, 1)))


def padded(job: Job, data: Dataset, size: int) -> Iterator[Batch]:
    """`data` in batches of `size`, the last one filled up where the model fixes its batch."""
    fixed = batch_size(job.model.inputs, 0)
    return (pad(batch, fixed) if fixed else batch for batch in data.batches(size))
