"""The safest plan of the predicted front that is within measured limits, in few measurements.

The front is a ladder from fast to safe along which the cost about rises. The place where the measured cost crosses the
limit is bracketed and narrowed, as `fewbits.search.descent` does with the loss from the other side: by a straight line
through the measured costs against the predicted ones where that narrows the bracket, by halving where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fewbits.search.problem import Attempt, Finished, Ladder, Trial

_SAFETY: Final = 0.98
"""The share of the limit that is aimed at: just below it is where the next plan may still be within."""


@dataclass(frozen=True, slots=True)
class Ascent:
    """At most `trials` measurements, the original not counted. The loss of a `Trial` is its measured cost, in the unit
    of the budget, which is the limit; the last rung, if it is in the history, is the original and beyond it."""

    trials: int = 6

    @property
    def most(self) -> int:
        """See Strategy."""
        return self.trials

    def init(self, ladder: Ladder, budget: float) -> Climbing:
        """See Strategy."""
        return Climbing(tuple(rung.cost for rung in ladder), budget)

    def propose(self, state: Climbing, history: Sequence[Trial]) -> Attempt | Finished:
        """See Strategy."""
        original = len(state.costs) - 1
        tried = [trial for trial in history if trial.place < original]
        if not tried:
            return Attempt(0, "the fastest plan")
        holds = [trial for trial in tried if trial.within]
        lower = max((trial.place for trial in holds), default=-1)
        upper = min((trial.place for trial in history if not trial.within and trial.place > lower), default=original)
        spent = len(tried) >= self.trials
        if not holds:
            place = state.cheapest_untried(tried)
            if spent or place is None:
                return Finished(min(tried, key=lambda trial: trial.loss), found=False)
        elif spent or upper - lower <= 1:
            return Finished(next(trial for trial in holds if trial.place == lower), found=True)
        else:
            place = state.between(lower, upper, history)
        return Attempt(place, f"plan {place + 1} of {len(state.costs)} on the predicted front")


@dataclass(frozen=True, slots=True)
class Climbing:
    """Predicted cost by place, rising but for that of the first, and the limit."""

    costs: tuple[float, ...]
    budget: float

    def cheapest_untried(self, tried: Sequence[Trial]) -> int | None:
        """The place that is predicted to cost less than all that were tried; ``None`` if there is none."""
        least = min(self.costs[trial.place] for trial in tried)
        places = [place for place in range(len(self.costs) - 1) if self.costs[place] < least]
        return min(places, key=lambda place: self.costs[place], default=None)

    def between(self, lower: int, upper: int, history: Sequence[Trial]) -> int:
        """A place strictly between `lower`, which is within the limit, and `upper`, which is not."""
        first, final = lower + 1, upper - 1
        known = {trial.place: trial.loss for trial in history}
        wanted = self._cost_at_limit(lower, upper, known)
        guess = next((place for place in range(final, lower, -1) if self.costs[place] <= wanted), first)
        # A step of the secant that would hardly narrow the bracket is replaced by halving it.
        narrow = max(1, (upper - lower) // 8)
        if min(guess - lower, upper - guess) < narrow and len(known) > 2:
            return (lower + upper) // 2
        return guess

    def _cost_at_limit(self, lower: int, upper: int, known: dict[int, float]) -> float:
        """The predicted cost at which the measured one would be just within the limit."""
        goal, under = self.budget * _SAFETY, known[lower]
        if upper not in known or known[upper] <= under or self.costs[upper] <= self.costs[lower]:
            return self.costs[lower] * goal / under if under > 0 else self.costs[upper]
        slope = (self.costs[upper] - self.costs[lower]) / (known[upper] - under)
        return self.costs[lower] + (goal - under) * slope
