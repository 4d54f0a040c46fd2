"""What an exact search gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isfinite

from fewbits.search.allocation import HARM, Choice


class Ending(StrEnum):
    """How an exact search ended."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    TIME_OUT = "time_out"


@dataclass(frozen=True, slots=True)
class Least:
    """The least value that a limited name can reach: `alone`, without other limits, and `beside` the other limits,
    infinite if those leave no choice. Both are found by solving for them."""

    limit: float
    alone: float
    beside: float


@dataclass(frozen=True, slots=True)
class Solution:
    """The best choice that was found, with its values worked out again from the tables.

    `choice` and `values` (harm and each resource) are empty if nothing was found. `aim` is the weighted sum that was
    minimised, `gap` the share of it by which a better choice may exist at most: 0 if optimal, unless a gap was allowed.
    `least`: for each limit, what could be reached, if infeasible.
    """

    ending: Ending
    choice: Choice = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    aim: float = inf
    gap: float = inf
    least: Mapping[str, Least] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether there is a choice."""
        return bool(self.choice)

    @property
    def harm(self) -> float:
        """The harm of the choice; infinite if nothing was found."""
        return self.values.get(HARM, inf)

    @property
    def costs(self) -> Mapping[str, float]:
        """Resource → what the choice costs."""
        return {name: value for name, value in self.values.items() if name != HARM}

    @property
    def text(self) -> str:
        """What happened and what to do next."""
        if self.ending is Ending.OPTIMAL:
            return "No better choice exists within the limits." if self.gap == 0 else f"Best to within {self.gap:.2g}."
        if self.ending is Ending.TIME_OUT:
            if self.found:
                return (
                    f"Stopped at the time limit with a choice that is within {self.gap:.2g} (relative) of the best; "
                    "use it, or allow more seconds or a larger gap."
                )
            return "Stopped at the time limit before any choice was found; allow more seconds, or looser limits."
        return (
            f"No choice is within the limits: {'; '.join(map(self._reach, self.least))}. Raise a limit that is missed."
        )

    def _reach(self, name: str) -> str:
        least = self.least[name]
        missed = f"{name} can be {least.alone:.6g} at least, the limit is {least.limit:.6g}"
        if isfinite(least.beside) and least.beside > least.alone:
            return f"{missed} ({least.beside:.6g} at least within the other limits)"
        return missed
