"""Models as something that can be called on any number of samples."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.data.batches import Arrays, Dataset
from fewbits.data.padding import batch_size, fixed_batch_size, for_any_batch, pad
from fewbits.evaluation import Predict
from fewbits.graph import Tensor
from fewbits.targets.protocol import Session


def predictor(session: Session, inputs: Sequence[Tensor]) -> Predict:
    """`session` for any number of samples, also where the model fixes its batch size."""
    fixed = fixed_batch_size(inputs)
    return session if fixed is None else for_any_batch(session, fixed)


def call_inputs(data: Dataset, inputs: Sequence[Tensor], batch: int) -> Arrays:
    """What one call gets when latency is measured: the first samples of `data`, the last repeated if there are few."""
    size = batch_size(inputs, batch)
    first = next(iter(data.take(range(min(size, data.samples))).batches(size)))
    return pad(first, size).inputs
