"""What a search strategy sees and says: predicted plans and trials in, the next trial out. No model, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fewbits.search.allocation import Choice

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Rung:
    """A plan on the predicted front: group → scheme text, its predicted harm, and its predicted cost."""

    choice: Choice
    harm: float
    cost: float


Ladder = Sequence[Rung]
"""The front from the fastest plan to the safest; the last rung is the original."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation: the place of the plan on the ladder, its loss in the budget's unit, and whether that was within
    the budget."""

    place: int
    loss: float
    within: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """The next plan to evaluate, by its place on the ladder. `why` says what it is good for."""

    place: int
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing more to try. `best` is a trial of the history; where nothing was within the budget it is
    the one with the least loss, and `found` is false."""

    best: Trial
    found: bool


class Strategy(Protocol[State]):
    """Decides on the next trial from the ladder and the trials so far, deterministically, so that a resumed run goes
    the same way."""

    def init(self, ladder: Ladder, budget: float) -> State:
        """What is worked out once; `budget` is the allowed loss in its own unit."""

    def propose(self, state: State, history: Sequence[Trial]) -> Attempt | Finished:
        """The next trial. `history` starts with the trial of the first rung."""

    @property
    def most(self) -> int:
        """The most trials that this strategy makes."""
