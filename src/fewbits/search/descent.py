"""The fastest plan of the predicted front that holds in reality, in few evaluations.

The front is a ladder from fast to safe along which the loss about falls. The first trial is the fastest plan. Then the
place where the loss crosses the budget is bracketed and narrowed: by interpolation of the loss against the predicted
harm on logarithmic scales where trials allow it, by halving where they do not (Dekker's and Brent's idea of a secant
step kept inside a bracket; Brent 1973, chapter 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Final

from fewbits.search.problem import Attempt, Finished, Ladder, Trial

_LEAST: Final = 1e-12
_LOSS_OF_HARM: Final = 0.5
"""Where harm is a squared error, as a metric moves about as the error itself."""
_SAFETY: Final = 0.8


@dataclass(frozen=True, slots=True)
class Descent:
    """At most `trials` evaluations; loss is taken to go about as harm to this `power` until trials tell."""

    trials: int = 5
    power: float = _LOSS_OF_HARM

    @property
    def most(self) -> int:
        """See Strategy."""
        return self.trials

    def init(self, ladder: Ladder, budget: float) -> Bracketing:
        """See Strategy."""
        return Bracketing(tuple(rung.harm for rung in ladder), budget, self.power)

    def propose(self, state: Bracketing, history: Sequence[Trial]) -> Attempt | Finished:
        """See Strategy."""
        if not history:
            return Attempt(0, "the fastest plan")
        holds = [trial for trial in history if trial.within]
        fails = [trial for trial in history if not trial.within]
        # The last rung is the original, which needs no trial.
        upper = min((trial.place for trial in holds), default=len(state.harms) - 1)
        lower = max((trial.place for trial in fails if trial.place < upper), default=-1)
        if upper - lower <= 1 or len(history) >= self.trials:
            if holds:
                return Finished(min(holds, key=lambda trial: trial.place), found=True)
            return Finished(min(history, key=lambda trial: trial.loss), found=False)
        place = state.between(lower, upper, history, last=len(history) == self.trials - 1 and not holds)
        return Attempt(place, f"plan {place + 1} of {len(state.harms)} on the predicted front")


@dataclass(frozen=True, slots=True)
class Bracketing:
    """Predicted harm by place, falling, the allowed loss, and the power of harm that loss goes about as."""

    harms: tuple[float, ...]
    budget: float
    power: float

    def between(self, lower: int, upper: int, history: Sequence[Trial], *, last: bool) -> int:
        """A place strictly between `lower` and `upper`; the safest of them if it is the `last` chance."""
        first, final = lower + 1, upper - 1
        if last:
            return final
        middle = (lower + upper) // 2
        known = {trial.place: max(trial.loss, _LEAST) for trial in history}
        # A model that breaks says nothing about how the loss falls.
        if not isfinite(known.get(lower, inf)):
            return middle
        wanted = self._harm_at_budget(lower, known)
        guess = next((place for place in range(first, upper) if self.harms[place] <= wanted), final)
        # A step of the secant that would hardly narrow the bracket is replaced by halving it.
        narrow = max(1, (upper - lower) // 8)
        if min(guess - lower, upper - guess) < narrow and len(history) > 2:
            return middle
        return min(max(guess, first), final)

    def _harm_at_budget(self, lower: int, known: Mapping[int, float]) -> float:
        """The harm at which the loss would be a little less than the budget, from the `known` losses nearest to it."""
        goal = max(self.budget * _SAFETY, _LEAST)
        over = known[lower]
        power = self.power
        under = [place for place in known if place > lower and known[place] < over]
        if under and self.harms[under[0]] > 0:
            nearest = min(under)
            run = log(max(self.harms[lower], _LEAST) / max(self.harms[nearest], _LEAST))
            rise = log(over / known[nearest])
            power = rise / run if run > 0 and rise > 0 else power
        return self.harms[lower] * exp(log(goal / over) / power)
