"""Models as something that can be called on any number of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fewbits.data.batches import Arrays, Dataset
from fewbits.data.padding import batch_size, fixed_batch_size, for_any_batch, pad
from fewbits.evaluation import Predict
from fewbits.graph import Tensor
from fewbits.models.protocol import Model
from fewbits.targets.protocol import Session, Target

LARGE: Final = 1 << 30
"""Bytes of a model from which on opening it again costs less than the memory of a second session."""


class Original:
    """The original on a runtime, for any number of samples. One of `large` bytes or more is opened when it is called
    and closed to `rest`, so that it is not in memory beside another model."""

    def __init__(self, target: Target, model: Model, large: int = LARGE) -> None:
        self.target = target
        self._model = model
        self._large = model.original().size >= large
        self._predict: Predict | None = None

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by name. Raises DataError if the runtime refuses `inputs`, ModelError if it does not load it."""
        if self._predict is None:
            self._predict = predictor(self.target.open(self._model.original()), self._model.inputs)
        return self._predict(inputs)

    def rest(self) -> None:
        """Make room for another model."""
        if self._large:
            self._predict = None


def predictor(session: Session, inputs: Sequence[Tensor]) -> Predict:
    """`session` for any number of samples, also where the model fixes its batch size."""
    fixed = fixed_batch_size(inputs)
    return session if fixed is None else for_any_batch(session, fixed)


def call_inputs(data: Dataset, inputs: Sequence[Tensor], batch: int) -> Arrays:
    """What one call gets when latency is measured: the first samples of `data`, the last repeated if there are few."""
    size = batch_size(inputs, batch)
    first = next(iter(data.take(range(min(size, data.samples))).batches(size)))
    return pad(first, size).inputs
