"""Data before a model says what it reads: the first batches of it, as they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from os import PathLike, fspath
from pathlib import Path

from fewbits.data.batches import Batch
from fewbits.data.callables import load_callable, running
from fewbits.data.forms import DataSource, is_array, is_dataset, is_pair
from fewbits.data.npz import load_npz
from fewbits.errors import DataError

_LOOKED_AT = 64
_SAMPLES = 4


@dataclass(frozen=True)
class Raw:
    """`source` can still be opened, whatever was read of it; `items` are its first batches, without labels: each a
    mapping from name to values, a tuple of values in the model's order, or the values of the only input."""

    source: DataSource
    items: tuple[object, ...]


def look(source: DataSource) -> Raw:
    """The first batches of `source`. What can be read only once is read whole and kept.

    Raises DataError for a folder, which says nothing about the form of an input, and for data without batches.
    """
    if isinstance(source, str | PathLike):
        return _of_text(fspath(source))
    if is_dataset(source):
        return Raw(source, tuple(batch.inputs for batch in islice(source.batches(_SAMPLES), _LOOKED_AT)))
    if isinstance(source, Mapping | Batch) or is_array(source) or is_pair(source):
        return Raw(source, (_inputs(source),))
    if not isinstance(source, Iterable):
        raise DataError(f"{type(source).__name__} cannot be read as data; give arrays, or batches")
    with running("the data", DataError):
        kept = list(source)
    if not kept:
        raise DataError("the data has no batches; at least one is needed. A generator can be read only once")
    return Raw(kept, tuple(_inputs(item) for item in kept[:_LOOKED_AT]))


def _of_text(text: str) -> Raw:
    path = Path(text)
    if path.is_dir():
        raise DataError(
            f"the folder {text} does not say what a PyTorch model reads; give batches, arrays, or an .npz file"
        )
    if ":" in text and not path.exists():
        function = load_callable(text, DataError)
        with running(text, DataError):
            given = function()
        if isinstance(given, Iterable) or is_dataset(given):
            return look(given)
        raise DataError(f"{text} gives {type(given).__name__}; it should give arrays, or batches")
    return Raw(text, (_inputs(load_npz(path)),))


def _inputs(item: object) -> object:
    """`item` without its labels. Raises DataError for a tuple that is no (inputs, labels)."""
    if isinstance(item, Batch):
        return item.inputs
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(
                f"a batch has {len(item)} parts; give (inputs, labels), where several inputs are a mapping from name "
                "to array or a tuple of arrays in the model's order"
            )
        return tuple(item[0]) if isinstance(item[0], tuple | list) else _inputs(item[0])
    if isinstance(item, Mapping):
        return {name: values for name, values in item.items() if name != "labels" and values is not None}
    return item
