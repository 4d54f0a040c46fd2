"""A dataset in memory whose samples differ in shape, as sentences do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from fewbits.data.batches import Array, Arrays, Batch
from fewbits.data.digest import Digest


@dataclass(frozen=True)
class Item:
    """One sample: its inputs and its label, without the sample axis."""

    inputs: Arrays
    label: Array | None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What two items must share to stand in one batch."""
        own = tuple(array.shape for array in self.inputs.values())
        return own if self.label is None else (*own, self.label.shape)


@dataclass(frozen=True, eq=False)
class ItemDataset:
    """Samples one by one. A batch holds consecutive samples of equal shape."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> ItemDataset:
        """The samples of `batches`, which may differ in every axis but the first."""
        return cls(tuple(item for batch in batches for item in _items(batch)))

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.items)

    @property
    def has_labels(self) -> bool:
        """Whether every batch carries labels."""
        return bool(self.items) and self.items[0].label is not None

    @cached_property
    def labels(self) -> Array | None:
        """Labels of shape (samples, …) if all have one shape."""
        labels = [item.label for item in self.items if item.label is not None]
        alike = len({label.shape for label in labels}) == 1 and len(labels) == len(self.items)
        return np.stack(labels) if alike else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes."""
        digest = Digest()
        for item in self.items:
            columns = dict(item.inputs) if item.label is None else {**item.inputs, "\0labels": item.label}
            for name in sorted(columns):
                digest.head(name, columns[name].dtype, columns[name].shape)
                digest.data(columns[name])
        return digest.text

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, at most `size` per batch; a change of shape ends a batch early."""
        for _, group in groupby(self.items, key=lambda item: item.shapes):
            alike = list(group)
            for start in range(0, len(alike), size):
                yield _stack(alike[start : start + size])

    def take(self, indices: Sequence[int]) -> ItemDataset:
        """The samples at `indices`, in that order."""
        return ItemDataset(tuple(self.items[index] for index in indices))


def _items(batch: Batch) -> Iterator[Item]:
    for sample in range(batch.samples):
        inputs = {name: array[sample] for name, array in batch.inputs.items()}
        yield Item(inputs, None if batch.labels is None else np.asarray(batch.labels[sample]))


def _stack(items: Sequence[Item]) -> Batch:
    inputs = {name: np.stack([item.inputs[name] for item in items]) for name in items[0].inputs}
    labels = [item.label for item in items if item.label is not None]
    return Batch(inputs, np.stack(labels) if labels else None)
