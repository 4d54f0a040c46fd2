"""Whether arrays fit a model's inputs: names, shapes, types, finite values; the message says what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array, Batch
from fewbits.errors import DataError
from fewbits.graph import Tensor

LABELS = "labels"
_LABEL_LIKE = frozenset({"label", "y", "target", "targets", "ys", "y_true"})


def conform(given: Mapping[str, object], inputs: Sequence[Tensor], where: str, labels: object = None) -> Batch:
    """`given` as a batch that the model can read: every input by name, in the model's type.

    The first axis of every array is samples and is not compared with the model's.
    An input that is ``None`` is not given. Labels of shape
    (samples, …) come from `labels`, or from the key ``labels`` unless the model has an input of that name.
    Integers become floats or other integers where every value survives, floats become wider or
    narrower floats; a float never becomes an integer.

    Raises:
        DataError: what is wrong, starting with `where`, and what was expected.
    """
    names = [tensor.name for tensor in inputs]
    arrays = {name: value for name, value in given.items() if value is not None}
    if labels is None and LABELS not in names:
        labels = arrays.pop(LABELS, None)
    _check_names(arrays, names, where)
    fitted = {tensor.name: conform_input(arrays[tensor.name], tensor, where) for tensor in inputs}
    samples = _common_samples(fitted, where)
    return Batch(fitted, None if labels is None else conform_labels(labels, samples, where))


def conform_input(value: object, tensor: Tensor, where: str) -> Array:
    """`value` as an array that fits the input `tensor`; see `conform`. Raises DataError."""
    array = as_array(value, f"{where}: input {tensor.name!r}")
    _check_shape(array, tensor, where)
    return _finite(_cast(array, tensor, where), f"{where}: input {tensor.name!r}")


def conform_labels(value: object, samples: int, where: str) -> Array:
    """`value` as numeric labels of shape (samples, …). Raises DataError."""
    array = as_array(value, f"{where}: {LABELS!r}")
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: {LABELS!r} must be numbers (a class index counts from 0), not {array.dtype}; "
            "number the classes first"
        )
    if array.ndim == 0 or array.shape[0] != samples:
        raise DataError(
            f"{where}: {LABELS!r} has shape {array.shape}, but the inputs hold {samples} samples; "
            "the first axis of both must be the samples"
        )
    return _finite(array, f"{where}: {LABELS!r}")


def as_array(value: object, what: str) -> Array:
    """`value` as an array of plain values (CPU tensors of any framework included). Raises DataError."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be read as an array ({error}); give a numpy array of numbers") from error
    if array.dtype.kind == "O":
        raise DataError(
            f"{what} is an array of Python objects ({type(value).__name__} given); give a plain array of numbers, "
            "with the samples along the first axis and all samples of one shape"
        )
    return array


def shape_text(tensor: Tensor) -> str:
    """The shape that `tensor` must have, with the first axis called samples."""
    if tensor.shape is None:
        return "(samples, …)"
    return f"({', '.join(['samples', *map(str, tensor.shape[1:])])}{',' if len(tensor.shape) < 2 else ''})"


def _check_names(given: Iterable[str], expected: Sequence[str], where: str) -> None:
    keys = [str(key) for key in given]
    missing = [name for name in expected if name not in keys]
    unknown = [name for name in keys if name not in expected]
    if not missing and not unknown:
        return
    faults = [f"{name!r} is missing" for name in missing]
    faults += [f"{name!r} is not an input{_hint(name, missing)}" for name in unknown]
    raise DataError(
        f"{where}: {'; '.join(faults)}. The model reads {_listing(expected)}; given: {_listing(keys)} "
        f"(labels, if there are any, are named {LABELS!r})"
    )


def _hint(name: str, candidates: Sequence[str]) -> str:
    if hint := label_hint(name):
        return hint
    near = get_close_matches(name, candidates, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def label_hint(name: str) -> str:
    """What to say of a `name` that no input has, where labels often have it; "" where not."""
    return f" (if it holds the labels, name it {LABELS!r})" if name.lower() in {*_LABEL_LIKE, LABELS} else ""


def _listing(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _check_shape(array: Array, tensor: Tensor, where: str) -> None:
    prefix = f"{where}: input {tensor.name!r} must have shape {shape_text(tensor)}; {array.shape} was given"
    if tensor.shape is not None and len(tensor.shape) == 0:
        raise DataError(f"{where}: the model's input {tensor.name!r} is a single value, so it has no axis for samples")
    if array.ndim == 0:
        raise DataError(f"{prefix}, which has no axis for samples")
    if tensor.shape is None:
        return
    if array.ndim != len(tensor.shape):
        lacks = _fits(array.shape, tensor.shape[1:])
        advice = "; for a single sample, add an axis of 1 in front" if lacks else ""
        raise DataError(f"{prefix}: {array.ndim} axes instead of {len(tensor.shape)}{advice}")
    if not _fits(array.shape[1:], tensor.shape[1:]):
        wrong = [
            f"axis {axis} is {size} instead of {wanted}"
            for axis, (size, wanted) in enumerate(zip(array.shape, tensor.shape, strict=True))
            if axis and isinstance(wanted, int) and size != wanted
        ]
        swapped = sorted(array.shape[1:]) == sorted(d for d in tensor.shape[1:] if isinstance(d, int))
        advice = " (the axes look transposed)" if swapped else ""
        raise DataError(f"{prefix}: {', '.join(wrong)}{advice}")


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(shape, expected, strict=True)
    )


def _cast(array: Array, tensor: Tensor, where: str) -> Array:
    what = f"{where}: input {tensor.name!r}"
    try:
        wanted = np.dtype(tensor.dtype)
    except TypeError as error:
        raise DataError(f"{what} has type {tensor.dtype} in the model, which numpy arrays cannot hold") from error
    if array.dtype == wanted:
        return array
    refusal = DataError(f"{what} must be {wanted}; {array.dtype} was given and cannot be converted without loss")
    if array.dtype.kind not in "biuf" or wanted.kind not in "biuf" or (array.dtype.kind == "f" and wanted.kind != "f"):
        raise refusal
    if array.size == 0:
        return array.astype(wanted)
    low, high = _bounds(array)
    exact_low, exact_high = _exact(wanted)
    if array.dtype.kind != "f" and not (exact_low <= int(low) and int(high) <= exact_high):
        raise DataError(
            f"{what} must be {wanted}, which holds every integer from {exact_low} to {exact_high}; "
            f"the given {array.dtype} values reach from {low} to {high}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
    if array.dtype.kind == "f" and np.isfinite([low, high]).all() and not np.isfinite(_bounds(cast)).all():
        raise DataError(
            f"{what} must be {wanted}, whose largest value is {np.finfo(wanted.name).max:g}; "
            f"the given {array.dtype} values reach from {low:g} to {high:g}"
        )
    return cast


def _exact(wanted: np.dtype[np.generic]) -> tuple[int, int]:
    """The integers that `wanted` holds exactly, from the lowest to the highest."""
    if wanted.kind == "b":
        return 0, 1
    if wanted.kind == "f":
        limit = 1 << (np.finfo(wanted.name).nmant + 1)
        return -limit, limit
    limits = np.iinfo(wanted.name)
    return int(limits.min), int(limits.max)


def _bounds(array: Array) -> NDArray[np.generic]:
    # NaN wins both min and max, so these two values show every NaN and Inf without a mask as large as the data.
    with np.errstate(invalid="ignore"):
        return np.array([array.min(), array.max()])


def _finite(array: Array, what: str) -> Array:
    if array.dtype.kind not in "fc" or array.size == 0 or np.isfinite(_bounds(array)).all():
        return array
    for sample, values in enumerate(array):
        if not np.isfinite(values).all():
            name = "NaN" if np.isnan(values).any() else "Inf"
            raise DataError(f"{what} holds {name}, first in sample {sample}; remove or repair such samples")
    return array


def _common_samples(arrays: Mapping[str, Array], where: str) -> int:
    counts = {name: int(array.shape[0]) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise DataError(f"{where}: all inputs must hold the same number of samples (first axis): {listing}")
    samples = next(iter(counts.values()), 0)
    if samples == 0:
        raise DataError(f"{where}: no samples; at least one is needed")
    return samples
