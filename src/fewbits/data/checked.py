"""A dataset of the user's own, held to what the model expects, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fewbits.data.batches import Batch, Dataset
from fewbits.data.checks import conform
from fewbits.errors import DataError
from fewbits.graph import Tensor


@dataclass(frozen=True, eq=False)
class CheckedDataset:
    """`dataset` with every batch checked and cast as it is read; it is never held in memory as a whole."""

    dataset: Dataset
    expected: tuple[Tensor, ...]

    @classmethod
    def of(cls, dataset: Dataset, inputs: Sequence[Tensor]) -> CheckedDataset:
        """`dataset` for a model with these inputs; its first sample is read. Raises DataError."""
        if dataset.samples < 1:
            raise DataError("the dataset has no samples; at least one is needed")
        checked = cls(dataset, tuple(inputs))
        next(checked.batches(1), None)
        return checked

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.dataset.samples

    @property
    def has_labels(self) -> bool:
        """Whether every batch carries labels."""
        return self.dataset.has_labels

    @property
    def digest(self) -> str:
        """The dataset's own digest."""
        return self.dataset.digest

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order. Raises DataError at the first batch that does not fit."""
        for number, batch in enumerate(self.dataset.batches(size)):
            yield conform(batch.inputs, self.expected, f"batch {number} of the dataset", batch.labels)

    def take(self, indices: Sequence[int]) -> CheckedDataset:
        """The samples at `indices`, in that order."""
        return CheckedDataset(self.dataset.take(indices), self.expected)
