"""Batches of model inputs, with or without labels, and what can be done to them without a framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Batch:
    """Inputs by name, first axis = samples, and optional labels of shape (samples, …)."""

    inputs: Arrays
    labels: Array | None = None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(next(iter(self.inputs.values())).shape[0])


class Dataset(Protocol):
    """Data that can be read any number of times, always in the same order."""

    @property
    def samples(self) -> int:
        """Number of samples."""

    @property
    def has_labels(self) -> bool:
        """Whether every batch carries labels."""

    @property
    def digest(self) -> str:
        """Hash of the contents: the same data gives the same digest in every process."""

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` per batch (the last may be smaller)."""

    def take(self, indices: Sequence[int]) -> Dataset:
        """The samples at `indices`, in that order."""


def concatenate(batches: Iterable[Batch]) -> Batch:
    """One batch of all samples. Raises ValueError on nothing."""
    parts = list(batches)
    names = parts[0].inputs.keys() if parts else ()
    if not parts:
        raise ValueError("no batches to concatenate")
    inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in names}
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(inputs, np.concatenate(labels) if len(labels) == len(parts) else None)
