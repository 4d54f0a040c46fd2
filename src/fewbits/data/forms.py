"""What sort of data was given, told by looking at it and nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Protocol, TypeGuard, runtime_checkable

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


@runtime_checkable
class _ArrayLike(Protocol):
    """What numpy reads as an array: its own, and tensors of any framework."""

    def __array__(self) -> Array: ...


def is_array(source: object) -> TypeGuard[Array]:
    """Whether `source` is one array of numbers, of numpy or another framework, rather than a series of them."""
    return isinstance(source, _ArrayLike)


def is_pair(source: object) -> bool:
    """Whether `source` is one (inputs, labels) rather than a tuple of batches."""
    return (
        isinstance(source, tuple)
        and len(source) == 2
        and (is_array(source[0]) or isinstance(source[0], Mapping))
        and is_array(source[1])
    )
