"""Ranges of a model's tensors: one pass over the observations, nothing kept but a statistic per tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fewbits.calibration.ranges import Method, Range
from fewbits.calibration.statistics import Statistic
from fewbits.data.batches import Arrays
from fewbits.errors import DataError
from fewbits.formats.integer import IntFormat
from fewbits.progress import Progress


def collect(
    observations: Iterable[Arrays],
    methods: Collection[Method[Any]],
    formats: Mapping[str, IntFormat],
    progress: Progress,
    batches: int | None = None,
) -> dict[str, dict[str, Range]]:
    """Method text → the range of every tensor in `formats`, chosen for the format that it is to get.

    `observations` gives one mapping of tensor names to values per batch and is read once, whatever the
    number of methods: those that need the same statistic share it. Tensors that `formats` does not name
    are ignored. `batches` is their number, for the progress, if known.

    Raises:
        DataError: NaN or Inf in a tensor, a tensor that is missing or never had an element, no batch at all.
    """
    progress.stage(f"calibrate ({', '.join(map(str, methods))})", batches)
    kinds: dict[type[Statistic], None] = dict.fromkeys(method.statistic for method in methods)
    statistics = {(kind, name): kind.init() for kind in kinds for name in formats}
    for observation in observations:
        for (kind, name), statistic in statistics.items():
            statistics[kind, name] = _updated(statistic, name, observation)
        # While the next batch is made, this one need not be held.
        del observation
        progress.advance()
    empty = list(dict.fromkeys(name for (_, name), statistic in statistics.items() if statistic.count == 0))
    if empty:
        raise DataError(
            f"no value was seen during calibration of {', '.join(map(repr, empty[:5]))}"
            f"{f' and {len(empty) - 5} more' if len(empty) > 5 else ''}; give at least one sample for which "
            "these tensors are not empty"
        )
    return {
        str(method): {name: method.range(statistics[method.statistic, name], formats[name]) for name in formats}
        for method in methods
    }


def tie(ranges: Mapping[str, Range], classes: Iterable[Collection[str]]) -> dict[str, Range]:
    """`ranges` in which all tensors of a class have one range, the smallest that holds those of all.

    For tensors that must share a scale: the inputs of a concat, what goes into and out of a max-pool
    (Rodriguez et al. 2018: one scale, that of the largest range). Classes with a common tensor count as
    one; names without a range are ignored.
    """
    tied = dict(ranges)
    for names in _disjoint(classes):
        members = [name for name in ranges if name in names]
        if members:
            low, high = min(ranges[name][0] for name in members), max(ranges[name][1] for name in members)
            tied.update(dict.fromkeys(members, (low, high)))
    return tied


def _updated(statistic: Statistic, name: str, observation: Arrays) -> Statistic:
    if name not in observation:
        raise DataError(f"tensor {name!r} was to be calibrated but is not among the observed tensors")
    try:
        return statistic.update(observation[name])
    except DataError as error:
        raise DataError(f"tensor {name!r}: {error}") from error


def _disjoint(classes: Iterable[Collection[str]]) -> list[set[str]]:
    """The classes, those with a common member joined."""
    joined: list[set[str]] = []
    for names in classes:
        touching = [other for other in joined if not other.isdisjoint(names)]
        joined = [other for other in joined if other not in touching] + [set(names).union(*touching)]
    return joined
