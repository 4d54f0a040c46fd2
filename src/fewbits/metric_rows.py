"""What the metrics compute: outputs and a reference to rows, and rows to a score. Arrays in, arrays out.

A sample whose scores hold NaN gets the worst row there is: no class, a cosine of -1, an infinite error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.errors import MetricError

Rows = NDArray[np.float64]
_TOP = 5
# Equals no label.
_NO_CLASS = -1


def classes(outputs: Array, threshold: float | None) -> NDArray[np.int64]:
    """The class that each position of `outputs` names, -1 where its scores hold NaN.

    Integer outputs are class indices already. Scores (…, classes) give the index of the largest. A single
    column, (samples,) or (…, 1), gives 1 above `threshold`, else 0.

    Raises:
        MetricError: a single column without a threshold, or a threshold with several columns.
    """
    if outputs.dtype.kind in "biu":
        return outputs.astype(np.int64)
    single = outputs.ndim == 1 or outputs.shape[-1] == 1
    if single and threshold is None:
        raise MetricError(
            f"the model's output has shape {outputs.shape}: a single column, so the class depends on a threshold. "
            "Write accuracy@0.5 if it is a probability, accuracy@0 if it is a logit (f1 and agreement alike)"
        )
    if threshold is not None:
        if not single:
            raise MetricError(
                f"the model's output has shape {outputs.shape}; a threshold serves a single column only. Leave it away"
            )
        scores = outputs if outputs.ndim == 1 else outputs[..., 0]
        above: NDArray[np.int64] = np.where(np.isnan(scores), _NO_CLASS, (scores > threshold).astype(np.int64))
        return above
    best: NDArray[np.int64] = np.where(np.isnan(outputs).any(axis=-1), _NO_CLASS, outputs.argmax(axis=-1))
    return best


def _class_count(outputs: Array, threshold: float | None) -> int:
    """Number of classes; 0 where integer outputs leave it open."""
    if outputs.dtype.kind in "biu":
        return 0
    return 2 if threshold is not None else int(outputs.shape[-1])


def _targets(labels: Array, outputs: Array, shape: tuple[int, ...], count: int) -> NDArray[np.int64]:
    """`labels` as class indices of `shape`; one-hot labels and a trailing axis of 1 are accepted."""
    fitted = labels[..., 0] if labels.shape == (*shape, 1) else labels
    if fitted.shape != shape and fitted.shape == outputs.shape:
        if not (np.isin(fitted, (0, 1)).all() and (fitted.sum(axis=-1) == 1).all()):
            raise MetricError(f"labels of shape {labels.shape} must be class indices {shape}, or one-hot rows")
        fitted = fitted.argmax(axis=-1)
    if fitted.shape != shape:
        raise MetricError(
            f"labels have shape {labels.shape}, but the output of shape {outputs.shape} needs class indices of shape "
            f"{shape} (classes along the output's last axis); name another output, or give your own evaluate function"
        )
    indices = fitted.astype(np.int64)
    if fitted.dtype.kind == "f" and not (indices == fitted).all():
        raise MetricError("labels must be class indices, whole numbers from 0; fractions were given")
    if indices.size and count and indices.max() >= count:
        raise MetricError(
            f"labels reach {indices.max()}, but the output has {count} classes: indices go from 0 to {count - 1}"
        )
    if indices.size and indices.ndim == 1 and indices.min() < 0:
        raise MetricError(f"labels must not be negative; {indices.min()} was given. Class indices count from 0")
    return indices


def _mean_of_counted(hits: NDArray[np.bool_], targets: NDArray[np.int64]) -> Rows:
    """Per sample, the share of hits among the positions whose label is not negative (-100 marks padding)."""
    flat_hits, counted = hits.reshape(len(hits), -1), (targets >= 0).reshape(len(targets), -1)
    counts = counted.sum(axis=1)
    if (counts == 0).any():
        raise MetricError("a sample has no label at any position (all are negative); remove such samples")
    share: Rows = (flat_hits & counted).sum(axis=1) / counts
    return share


def _matched(outputs: Array, labels: Array, threshold: float | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted and true class indices of one shape."""
    predicted = classes(outputs, threshold)
    if predicted.shape == (*labels.shape, 1):
        predicted = predicted[..., 0]
    return predicted, _targets(labels, outputs, predicted.shape, _class_count(outputs, threshold))


def accuracy(outputs: Array, labels: Array, threshold: float | None) -> Rows:
    """Per sample, the share of positions whose class is the label's; negative labels of positions do not count."""
    predicted, targets = _matched(outputs, labels, threshold)
    return _mean_of_counted(predicted == targets, targets)


def top5(outputs: Array, labels: Array, _threshold: float | None) -> Rows:
    """Per sample, the share of positions whose label is among the five largest scores."""
    if outputs.dtype.kind != "f" or outputs.ndim < 2 or outputs.shape[-1] <= _TOP:
        raise MetricError(
            f"top{_TOP} needs scores of more than {_TOP} classes; the output has shape {outputs.shape} and type "
            f"{outputs.dtype}. Use accuracy"
        )
    targets = _targets(labels, outputs, outputs.shape[:-1], outputs.shape[-1])
    wanted = np.maximum(targets, 0)[..., None]
    score = np.take_along_axis(outputs, wanted, axis=-1)
    # Among equal scores the lower index wins, as in argmax: coarse outputs tie often.
    earlier = np.arange(outputs.shape[-1]) < wanted
    rank = ((outputs > score) | ((outputs == score) & earlier)).sum(axis=-1)
    return _mean_of_counted((rank < _TOP) & ~np.isnan(outputs).any(axis=-1), targets)


def f1(outputs: Array, labels: Array, threshold: float | None) -> Rows:
    """Rows of (sample, predicted class, true class, number of classes or 0 where unknown, at how many positions)."""
    predicted, targets = _matched(outputs, labels, threshold)
    counted = targets >= 0
    sample = np.nonzero(counted)[0]
    found, often = np.unique(
        np.stack([sample, predicted[counted], targets[counted]], axis=1), axis=0, return_counts=True
    )
    classes = np.full(len(found), _class_count(outputs, threshold))
    return np.column_stack([found, classes, often]).astype(np.float64)


def f1_value(rows: Rows) -> float:
    """F1 of class 1 where there are two classes, else the mean F1 over the classes that occur (macro).

    Integer outputs leave the number of classes open; then two means that no label is above 1.
    """
    rows = rows[rows[:, -1] > 0] if len(rows) else rows
    if not len(rows):
        raise MetricError("f1 needs labels; all are negative")
    # No class comes first.
    predicted, true = (rows[:, column].astype(np.int64) - _NO_CLASS for column in (1, 2))
    often, size = rows[:, 4], int(max(predicted.max(), true.max(), 1 - _NO_CLASS)) + 1
    same = predicted == true
    hits = np.bincount(true[same], often[same], size)
    marked = np.bincount(predicted, often, size) + np.bincount(true, often, size)
    places = np.arange(size) + _NO_CLASS
    count = rows[:, 3].max() or true.max() + _NO_CLASS + 1
    wanted = places == 1 if count <= 2 else (places >= 0) & (marked > 0)
    return float(np.mean(2 * hits[wanted] / np.maximum(marked[wanted], 1)))


def _flat(values: Array) -> Rows:
    return values.reshape(len(values), -1).astype(np.float64)


def squared_error(outputs: Array, labels: Array, _threshold: float | None) -> Rows:
    """Per sample, the mean squared difference; one of the two may have a trailing axis of 1 more."""
    trailing = (*labels.shape, 1) == outputs.shape or (*outputs.shape, 1) == labels.shape
    if outputs.shape != labels.shape and not trailing:
        raise MetricError(
            f"mse compares values of one shape; the output has {outputs.shape} and the labels have {labels.shape}"
        )
    errors: Rows = np.square(_flat(outputs) - _flat(labels)).mean(axis=1)
    return np.where(np.isnan(errors), np.inf, errors)


def cosine(outputs: Array, reference: Array, _threshold: float | None) -> Rows:
    """Per sample, the cosine of the angle between the two flattened outputs."""
    _check_same_shape("cosine", outputs, reference)
    ours, theirs = _flat(outputs), _flat(reference)
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine: Rows = (ours * theirs).sum(axis=1) / (norms[0] * norms[1])
    # Two zero vectors are the same answer; a zero beside another vector shares nothing with it.
    cosine = np.where((norms[0] == 0) | (norms[1] == 0), (norms[0] == norms[1]).astype(np.float64), cosine)
    return np.where(np.isnan(cosine), -1.0, np.clip(cosine, -1.0, 1.0))


def agreement(outputs: Array, reference: Array, threshold: float | None) -> Rows:
    """Per sample, the share of positions with the same class as `reference` (classes already)."""
    predicted = classes(outputs, threshold)
    _check_same_shape("agreement", predicted, reference)
    same: Rows = (predicted == reference).reshape(len(predicted), -1).mean(axis=1)
    return same


def _check_same_shape(name: str, outputs: Array, reference: Array) -> None:
    if outputs.shape != reference.shape:
        raise MetricError(
            f"{name} compares with the original model, whose output has shape {reference.shape}; "
            f"this one has {outputs.shape}"
        )


def finite(outputs: Array, _threshold: float | None) -> Array:
    """The original's outputs as they are. Raises MetricError on NaN or Inf."""
    if outputs.dtype.kind == "f" and not np.isfinite(outputs).all():
        raise MetricError(
            "the original model's output holds NaN or Inf, so its cosine similarity is undefined; use agreement"
        )
    return outputs


def mean(rows: Rows) -> float:
    """The mean of all rows."""
    return float(rows.mean())
