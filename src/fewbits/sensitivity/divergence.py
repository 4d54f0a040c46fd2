"""Kullback-Leibler divergence: how much less likely the changed model finds what the original would say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from fewbits.data.batches import Array, Arrays
from fewbits.errors import UsageError
from fewbits.sensitivity.ratio import Ratio

_ONE: Final = 1e-3
"""How far a sum of probabilities, or a norm, may be from 1."""
_LEAST: Final = float(np.finfo(np.float32).tiny)

Floats = NDArray[np.float64]


def divergence(original: Iterable[Arrays], changed: Iterable[Arrays]) -> Ratio:
    """The mean over positions of KL(original || changed) in nats, of paired batches.

    The first output has the scores of classes along its last axis, shape (samples, classes) or (samples, positions,
    classes): logits, or probabilities already (no softmax is taken of those). Positions at which the original is not
    finite do not count (minus infinity is a class that cannot be); a NaN that only the changed model gives is an
    infinite divergence. See `check_classes` for what it raises on other outputs.
    """
    pairs = [_sums(one, other) for one, other in zip(original, changed, strict=True)]
    return Ratio(tuple(part for part, _ in pairs), tuple(whole for _, whole in pairs))


def check_classes(outputs: Arrays) -> None:
    """Raise UsageError, which says why, unless the first output of `outputs` can be a distribution over classes."""
    name, values = next(iter(outputs.items()))
    reason = _unfit(values)
    if reason:
        raise UsageError(
            f"the divergence of class probabilities (kl) does not fit output {name!r}, of shape {values.shape}: "
            f"{reason}. Measure sensitivity by output"
        )


def _unfit(values: Array) -> str:
    if values.dtype.kind != "f":
        return f"it is of type {values.dtype}, and scores are floats"
    if values.ndim not in (2, 3):
        return "scores are (samples, classes) or (samples, positions, classes)"
    if values.shape[-1] < 2:
        return "its last axis has a single figure, and one class is always as likely as can be"
    norms = np.linalg.norm(values.astype(np.float64), axis=-1)
    if not _probabilities(values) and (abs(norms - 1) < _ONE).all():
        return "its rows have length 1, so they are embeddings and no scores"
    return ""


def _sums(original: Arrays, changed: Arrays) -> tuple[float, float]:
    check_classes(original)
    name, values = next(iter(original.items()))
    scores = _logs if _probabilities(values) else _plain
    with np.errstate(invalid="ignore"):
        ours, theirs = log_softmax(scores(values), axis=-1), log_softmax(scores(changed[name]), axis=-1)
        # What cannot be adds nothing, whatever its logarithm is.
        each = np.where(ours > -np.inf, np.exp(ours) * (ours - theirs), 0.0).sum(axis=-1)
    counted = np.isfinite(ours).any(axis=-1) & ~np.isnan(ours).any(axis=-1)
    # Below zero by rounding alone.
    return float(np.maximum(each[counted], 0.0).sum()), float(counted.sum())


def _plain(values: Array) -> Floats:
    return values.astype(np.float64)


def _logs(values: Array) -> Floats:
    return np.log(np.maximum(values.astype(np.float64), _LEAST))


def _probabilities(values: Array) -> bool:
    return bool((values >= 0).all() and (abs(values.sum(axis=-1, dtype=np.float64) - 1) < _ONE).all())
