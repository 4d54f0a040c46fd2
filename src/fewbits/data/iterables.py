"""Batches as Python code gives them, made into a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from fewbits.data.arrays import ArrayDataset
from fewbits.data.batches import Array, Batch, Dataset, concatenate
from fewbits.data.callables import running
from fewbits.data.checks import conform
from fewbits.data.items import ItemDataset
from fewbits.errors import DataError
from fewbits.graph import Tensor

_FORMS = (
    "a batch is (inputs, labels), a mapping from input name to array, or a single array if the model has one input; "
    "several inputs are a mapping, or a tuple of arrays in the model's order"
)


def from_batches(batches: Iterable[object], inputs: Sequence[Tensor], where: str) -> Dataset:
    """All `batches`, read once and held in memory, so that a generator that can be read only once serves too.

    Batches may differ in width (a dynamic axis); then samples are kept one by one.
    Raises DataError, naming the batch.
    """
    read = [as_batch(item, inputs, f"{where}, batch {number}") for number, item in enumerate(_read(batches, where))]
    if not read:
        raise DataError(f"{where}: no batches; at least one is needed. A generator can be read only once")
    unlabelled = [number for number, batch in enumerate(read) if batch.labels is None]
    if unlabelled and len(unlabelled) < len(read):
        raise DataError(f"{where}: batch {unlabelled[0]} has no labels but others have; give labels to all or to none")
    return ArrayDataset.of(concatenate(read)) if len({_widths(batch) for batch in read}) == 1 else ItemDataset.of(read)


def as_batch(item: object, inputs: Sequence[Tensor], where: str) -> Batch:
    """One batch in any of the accepted forms, checked and cast. Raises DataError."""
    match item:
        case Batch():
            return conform(item.inputs, inputs, where, item.labels)
        case Mapping():
            return conform(item, inputs, where)
        case tuple() | list():
            if len(item) == 1:
                return conform(_named(item[0], inputs, where), inputs, where)
            if len(item) != 2:
                raise DataError(f"{where} has {len(item)} parts; {_FORMS}")
            return conform(_named(item[0], inputs, where), inputs, where, item[1])
        case _:
            return conform(_named(item, inputs, where), inputs, where)


def _read(batches: Iterable[object], where: str) -> Iterator[object]:
    with running(where, DataError):
        yield from batches


def _named(value: object, inputs: Sequence[Tensor], where: str) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    # A list for a model with one input is a series of samples.
    several = isinstance(value, tuple) or (isinstance(value, list) and len(inputs) > 1)
    if isinstance(value, tuple | list) and several and len(value) == len(inputs):
        return {tensor.name: one for tensor, one in zip(inputs, value, strict=True)}
    if len(inputs) != 1 or isinstance(value, str | bytes) or value is None:
        names = ", ".join(repr(tensor.name) for tensor in inputs)
        raise DataError(f"{where}: {type(value).__name__} given for the inputs {names}; {_FORMS}")
    return {inputs[0].name: value}


def _widths(batch: Batch) -> tuple[tuple[int, ...], ...]:
    arrays: list[Array] = [*batch.inputs.values(), *([] if batch.labels is None else [np.asarray(batch.labels)])]
    return tuple(array.shape[1:] for array in arrays)
