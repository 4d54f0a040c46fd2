"""Which of several candidates each tensor gets, by the effect on the end result: coordinate descent.

Ranges that are best for each tensor alone (least squares, entropy, percentiles) need not be best together. One tensor
at a time tries its candidates while all others stand (Nahshan et al., LAPQ, arXiv 1911.07190, section 4, where the
joint step sizes are searched from a good start); what does not lower the score is taken back, so the result is never
worse than the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Generic, TypeVar

from fewbits.errors import DataError

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Choice(Generic[C]):
    """What `descend` chose: tensor -> candidate, the score with it, and how often a score was asked for."""

    chosen: Mapping[str, C]
    score: float
    start_score: float
    evaluations: int


def descend(
    candidates: Mapping[str, Sequence[C]],
    score: Callable[[Mapping[str, C]], float],
    *,
    sweeps: int = 3,
    evaluations: int | None = None,
) -> Choice[C]:
    """Choose one of the `candidates` of every tensor so that `score`, which is lower for better, falls.

    The start is the first candidate of every tensor; tensors take their turn in the order of `candidates`, so those
    that matter most go first. It ends after `sweeps` over all tensors, after one that changed nothing, or once `score`
    was asked `evaluations` times. A score of NaN counts as infinitely bad, and of two equal ones the earlier stays.

    Raises:
        DataError: a tensor has no candidate, or not a single evaluation is allowed.
    """
    if evaluations is not None and evaluations < 1:
        raise DataError("the score of the start is needed: allow one evaluation at least")
    if empty := [name for name, options in candidates.items() if not options]:
        raise DataError(
            f"{', '.join(empty)} have no candidate; the first one of a tensor is what the search begins with"
        )
    asked = 0

    def scored(choice: Mapping[str, int]) -> float:
        nonlocal asked
        asked += 1
        found = score({name: candidates[name][place] for name, place in choice.items()})
        return inf if isnan(found) else found

    places = dict.fromkeys(candidates, 0)
    best = start = scored(places)
    seen = {tuple(places.values())}
    for _ in range(sweeps):
        before = dict(places)
        for name, options in candidates.items():
            for place in range(len(options)):
                trial = places | {name: place}
                if tuple(trial.values()) in seen or asked == evaluations:
                    continue
                seen.add(tuple(trial.values()))
                if (found := scored(trial)) < best:
                    best, places = found, trial
        if places == before:
            break
    return Choice({name: candidates[name][place] for name, place in places.items()}, best, start, asked)


def table_score(table: Mapping[str, Mapping[C, float]]) -> Callable[[Mapping[str, C]], float]:
    """The score of a `table`, tensor -> candidate -> harm, whose harms add up."""
    return lambda chosen: sum(table[name][candidate] for name, candidate in chosen.items())
