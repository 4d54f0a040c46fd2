"""How long each sort of work takes in this run, measured as it is done."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from fewbits.store import Journal

T = TypeVar("T")


class Work(StrEnum):
    """One piece of work whose duration foretells that of the next."""

    EVALUATION = "evaluation"
    """The original on the whole selection split, or the user's function once."""
    TRIAL = "trial"
    """A plan converted and evaluated, as far as was needed."""
    FORM = "form"
    """One scheme of one group ranked."""
    CODES = "codes"
    """Codes of one weight in one scheme searched for."""
    ROUNDING = "rounding"
    """How weights round learnt, for 1e9 products of a weight and a second moment."""
    ROUND = "round"
    """One candidate in one round of a careful comparison, with its share of the start."""
    LOOK = "look"
    """A quick look at the latency of one plan."""
    PROFILE = "profile"
    PEAK = "peak"
    """The peak memory of one fresh process."""


class Pace:
    """Mean seconds by sort of work. The first of each sort is kept in the `journal`, so that a resumed run, which does
    not repeat what is done, knows them as well."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._journal = journal
        self._seen: dict[Work, tuple[float, float]] = {}

    def timed(self, work: Work, do: Callable[[], T], pieces: float = 1) -> T:
        """What `do` gives; it did `pieces` of `work`."""
        start = self.clock()
        value = do()
        seconds, done = self._seen.get(work, (0.0, 0.0))
        self._seen[work] = (seconds + self.clock() - start, done + pieces)
        self._journal.step("pace", work, float, lambda: self._mean(work))
        return value

    def each(self, work: Work) -> float:
        """Mean seconds of one piece; 0 while none was measured."""
        if work in self._seen:
            return self._mean(work)
        return self._journal.step("pace", work, float, lambda: 0.0) if ("pace", work) in self._journal else 0.0

    def _mean(self, work: Work) -> float:
        seconds, done = self._seen[work]
        return seconds / done if done else 0.0
