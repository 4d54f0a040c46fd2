"""Data as users have it, read as batches. `open_data` is the only door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

from fewbits.data.arrays import ArrayDataset
from fewbits.data.batches import Batch, Dataset
from fewbits.data.callables import load_callable, running
from fewbits.data.checked import CheckedDataset
from fewbits.data.checks import conform
from fewbits.data.forms import DataSource, is_array, is_dataset, is_pair
from fewbits.data.image_form import image_form
from fewbits.data.image_options import ImageOptions, Layout
from fewbits.data.iterables import as_batch, from_batches
from fewbits.data.npz import load_npz
from fewbits.errors import DataError
from fewbits.graph import Tensor

__all__ = ["DataSource", "Dataset", "ImageOptions", "Layout", "open_data"]

_SOURCES = (
    "give an .npz file, a folder of images, or a function that yields batches as module:function or file.py:function"
)


def open_data(source: DataSource, inputs: Sequence[Tensor], *, images: ImageOptions | None = None) -> Dataset:
    """Data for a model that reads `inputs`, checked against them.

    `source` is one of

    - the path of an ``.npz`` with one array per model input, samples along the first axis, and
      optional ``labels``;
    - a folder of images whose sub-folders name the classes (class index = position in sorted order), decoded
      as they are read; how is said by `images`. Needs ``fewbits[images]``;
    - the text ``module:function`` or ``file.py:function`` of a function that takes nothing and gives anything below;
    - a mapping from input name (and ``labels``) to array, or a pair ``(inputs, labels)`` as a tuple;
    - an iterable of batches: each ``(inputs, labels)``, a mapping, or a single array for a model with one
      input; several inputs without names are a tuple of arrays in the model's order. It is read once, at once,
      into memory: a generator serves, and a shuffled loader stays as it was read;
    - a Dataset, whose batches are then checked as they are read.

    An array given on its own, which may be a tensor of any framework, holds the samples of a model with one input.
    Everything that sits in memory is checked here: names, shapes, types, counts, NaN and Inf.

    Raises:
        DataError: the data is missing, damaged, or does not fit; the message says what was expected.
    """
    if isinstance(source, str | PathLike):
        return _from_text(fspath(source), inputs, images)
    if images is not None:
        raise DataError("image options serve a folder of images only; leave them away for other data")
    return _from_object(source, inputs, "the data")


def _from_text(text: str, inputs: Sequence[Tensor], images: ImageOptions | None) -> Dataset:
    path = Path(text)
    if path.is_dir():
        return _from_folder(path, inputs, images or ImageOptions())
    if images is not None:
        raise DataError(f"image options serve a folder of images only, and {text} is not a folder")
    if path.exists() or path.suffix == ".npz":
        return ArrayDataset.of(conform(load_npz(path), inputs, text))
    if ":" in text:
        function = load_callable(text, DataError)
        with running(text, DataError):
            given = function()
        return _from_object(given, inputs, text)
    raise DataError(f"there is no file or folder {text}; {_SOURCES}")


def _from_folder(path: Path, inputs: Sequence[Tensor], options: ImageOptions) -> Dataset:
    form = image_form(inputs, options)
    try:
        from fewbits.data.images import open_folder  # noqa: PLC0415  Pillow is optional
    except ModuleNotFoundError as error:
        raise DataError("reading images needs Pillow: pip install fewbits[images]") from error
    return open_folder(path, form)


def _from_object(source: object, inputs: Sequence[Tensor], where: str) -> Dataset:
    if is_dataset(source):
        return CheckedDataset.of(source, inputs)
    if isinstance(source, Batch | Mapping) or is_array(source) or is_pair(source):
        return ArrayDataset.of(as_batch(source, inputs, where))
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise DataError(f"{where}: {type(source).__name__} cannot be read as data; {_SOURCES}, arrays, or batches")
    return from_batches(source, inputs, where)
