"""A dataset in memory: one array per input, samples along the first axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array, Arrays, Batch
from fewbits.data.digest import Digest

_STEP = 256


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """The samples `indices` of `inputs` (samples, …) and `labels` (samples, …). Taking a part copies nothing."""

    inputs: Arrays
    all_labels: Array | None
    indices: NDArray[np.intp]

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """All samples of `batch`."""
        return cls(batch.inputs, batch.labels, np.arange(batch.samples, dtype=np.intp))

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.indices)

    @property
    def has_labels(self) -> bool:
        """Whether every batch carries labels."""
        return self.all_labels is not None

    @property
    def labels(self) -> Array | None:
        """Labels of these samples, shape (samples, …)."""
        return None if self.all_labels is None else self.all_labels[self.indices]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes."""
        digest = Digest()
        columns = dict(self.inputs) if self.all_labels is None else {**self.inputs, "\0labels": self.all_labels}
        for name in sorted(columns):
            digest.head(name, columns[name].dtype, (self.samples, *columns[name].shape[1:]))
            for start in range(0, self.samples, _STEP):
                digest.data(columns[name][self.indices[start : start + _STEP]])
        return digest.text

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` per batch (the last may be smaller)."""
        for start in range(0, self.samples, size):
            chosen = self.indices[start : start + size]
            inputs = {name: array[chosen] for name, array in self.inputs.items()}
            yield Batch(inputs, None if self.all_labels is None else self.all_labels[chosen])

    def take(self, indices: Sequence[int]) -> ArrayDataset:
        """The samples at `indices`, in that order."""
        return ArrayDataset(self.inputs, self.all_labels, self.indices[np.asarray(indices, dtype=np.intp)])
