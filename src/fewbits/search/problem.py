"""What a search strategy sees and says: trials in, the next one out. No model, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fewbits.sensitivity.table import SensitivityTable

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Trial:
    """One full evaluation: the groups that were back in fp32, and whether the loss was within the budget."""

    reverted: frozenset[str]
    loss: float
    within: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """The next plan to evaluate: these groups back in fp32. `why` says what it is good for."""

    reverted: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing more to try. `best` is a trial of the history; where nothing was within the budget it is
    the one with the least loss, and `found` is false."""

    best: Trial
    found: bool


class Strategy(Protocol, Generic[State]):
    """Decides on the next trial from the table and the trials so far, deterministically, so that a
    resumed run goes the same way."""

    def init(self, table: SensitivityTable) -> State:
        """What is worked out once."""

    def propose(self, state: State, history: Sequence[Trial]) -> Attempt | Finished:
        """The next trial. `history` starts with the trial in which nothing is reverted."""

    def most(self, groups: int) -> int:
        """The most trials that this strategy makes for so many groups."""
