"""Which samples serve which purpose: calibration, search, selection, acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array, Dataset
from fewbits.data.labels import labels_of
from fewbits.errors import DataError
from fewbits.record import SplitUse

LITTLE = 64
CALIBRATION = 512
SEARCH = 256


@dataclass(frozen=True)
class Splits:
    """One dataset per purpose. `shared` says in sentences what serves more than one purpose, and why."""

    calibration: Dataset
    search: Dataset
    selection: Dataset
    acceptance: Dataset
    shared: tuple[str, ...]

    @property
    def use(self) -> SplitUse:
        """How many samples each purpose has."""
        return SplitUse(
            self.calibration.samples,
            self.search.samples,
            self.selection.samples,
            self.acceptance.samples,
            self.shared,
        )


def split(data: Dataset, *, calibration: Dataset | None = None, scored: bool = True, seed: int = 0) -> Splits:
    """Divide `data`, each class in the same proportion everywhere if its labels are class indices.

    A quarter of the samples (at most 512) calibrates, an eighth (at most 256) ranks groups in the search;
    half of the rest selects among plans and the other half is for acceptance, which reads it once.
    With fewer than 64 samples the first three purposes share one half and acceptance has the other;
    a single sample serves everything. `calibration`, if given, is used as it is, and for nothing else.
    With ``scored=False`` (an evaluate function that brings its own data) no samples are kept for selection
    and acceptance.

    The same data and `seed` give the same splits. Raises DataError on an empty dataset.
    """
    if data.samples < 1:
        raise DataError("the data has no samples; at least one is needed")
    order = spread(labels_of(data), data.samples, seed)
    own = calibration is not None
    parts = _whole(order, own) if scored else _unscored(order, own)
    chosen, search, selection, acceptance = (data.take(part.tolist()) for part in parts.indices)
    return Splits(chosen if calibration is None else calibration, search, selection, acceptance, parts.shared)


def spread(labels: Array | None, samples: int, seed: int) -> NDArray[np.intp]:
    """A shuffled order in which every stretch holds each class in about its share (within one sample or two).

    Labels that are not class indices of shape (samples,) are ignored. The k-th of n samples of a class stands at
    (k + u) / n with one random u per class: systematic sampling, Madow & Madow 1944.
    """
    random = np.random.default_rng(seed)
    position = np.empty(samples)
    for members in _members(labels, samples):
        shuffled = random.permutation(members)
        position[shuffled] = (np.arange(len(members)) + random.random()) / len(members)
    return np.argsort(position, kind="stable")


@dataclass(frozen=True)
class _Parts:
    indices: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    shared: tuple[str, ...] = ()


def _whole(order: NDArray[np.intp], own_calibration: bool) -> _Parts:
    samples = len(order)
    if samples < LITTLE:
        return _little(order, own_calibration)
    calibration = 0 if own_calibration else min(CALIBRATION, samples // 4)
    search = min(SEARCH, samples // 8)
    selection = (samples - calibration - search) // 2
    first, second, third, last = np.split(order, np.cumsum([calibration, search, selection]))
    return _Parts((first, second, third, last))


def _little(order: NDArray[np.intp], own_calibration: bool) -> _Parts:
    samples = len(order)
    purposes = ("search", "selection") if own_calibration else ("calibration", "search", "selection")
    why = f"the data has {_count(samples)} and {LITTLE} are needed to keep all purposes apart"
    if samples == 1:
        everything = (*purposes, "acceptance")
        reason = f"{_listing(everything)} share the only sample, so the accuracy is not independent: {why}"
        return _Parts((order, order, order, order), (reason,))
    used, kept = order[: samples // 2], order[samples // 2 :]
    return _Parts((used, used, used, kept), (f"{_listing(purposes)} share {_count(len(used))}: {why}",))


def _unscored(order: NDArray[np.intp], own_calibration: bool) -> _Parts:
    none = order[:0]
    note = "selection and acceptance both use the evaluate function's own data: only it can keep them apart"
    samples = len(order)
    if own_calibration:
        return _Parts((none, order[:SEARCH], none, none), (note,))
    if samples < LITTLE:
        both = f"calibration and search share {_count(samples)}: {LITTLE} are needed to keep them apart"
        return _Parts((order, order, none, none), (both, note))
    search = min(SEARCH, samples // 3)
    calibration = min(CALIBRATION, samples - search)
    return _Parts((order[:calibration], order[calibration : calibration + search], none, none), (note,))


def _members(labels: Array | None, samples: int) -> list[NDArray[np.intp]]:
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "biu":
        return [np.arange(samples)]
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]


def _listing(purposes: Sequence[str]) -> str:
    return f"{', '.join(purposes[:-1])} and {purposes[-1]}"


def _count(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{samples} samples"
