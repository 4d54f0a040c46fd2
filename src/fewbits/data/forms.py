"""What sort of data was given, told by looking at it and nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np

from fewbits.data.batches import Array, Batch, Dataset

DataSource = str | PathLike[str] | Dataset | Mapping[str, Array] | Array | Iterable[object]


@runtime_checkable
class _Readable(Protocol):
    """The methods of a Dataset: looking at these computes nothing, while its properties might."""

    def batches(self, size: int) -> Iterable[Batch]: ...

    def take(self, indices: Sequence[int]) -> Dataset: ...


def is_dataset(source: object) -> TypeGuard[Dataset]:
    """Whether `source` reads like a Dataset."""
    return isinstance(source, _Readable)


def is_pair(source: object) -> bool:
    """Whether `source` is one (inputs, labels) rather than a tuple of batches."""
    return (
        isinstance(source, tuple)
        and len(source) == 2
        and isinstance(source[0], np.ndarray | Mapping)
        and isinstance(source[1], np.ndarray)
    )
