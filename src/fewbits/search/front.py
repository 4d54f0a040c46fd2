"""The predicted Pareto front of harm against one resource, from the fastest choice to the safest.

Budgets are limits on one of the two while the other is minimised (Haimes et al. 1971, the epsilon-constraint method),
then the first is minimised at what was reached, so that nothing is better in one and as good in the other. Each budget
halves the widest gap that is left: linearly in the resource, geometrically in harm, whichever is wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf, log
from time import monotonic
from typing import Final

from fewbits.errors import UsageError
from fewbits.search.allocation import HARM, within
from fewbits.search.milp import solve
from fewbits.search.program import Program
from fewbits.search.solution import Ending, Least, Solution

_NO_LIMITS: Final[Mapping[str, float]] = {}
_FLOOR: Final = 1e-4  # harm under this share of the largest is not told apart, so that 0 has a logarithm
_FINE: Final = 8  # gaps under 1 / (points * _FINE) of the whole are left alone
_SHORTEST: Final = 1e-2


class FrontEnding(StrEnum):
    """Why a front has no more points. `advice` says what that means and what to do."""

    ENOUGH = "enough"
    NO_MORE = "no_more"
    TIME_OUT = "time_out"
    INFEASIBLE = "infeasible"

    @property
    def advice(self) -> str:
        """What happened and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    FrontEnding.ENOUGH: "As many points as were asked for; ask for more to fill the gaps between them.",
    FrontEnding.NO_MORE: "There are no more points that differ visibly; this is the whole front.",
    FrontEnding.TIME_OUT: "Stopped at the time limit; the points found are good, allow more seconds for more of them.",
    FrontEnding.INFEASIBLE: "No choice is within the limits; raise one that is missed to what can be reached.",
}


@dataclass(frozen=True, slots=True)
class Front:
    """`solutions` by rising cost in `resource` and falling harm, none as good as another in both. `least`: for each
    limit, what could be reached, if infeasible."""

    resource: str
    ending: FrontEnding
    solutions: tuple[Solution, ...] = ()
    least: Mapping[str, Least] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Gap:
    """Neighbours on the front, and the box in which points between them must lie."""

    fast: Solution
    safe: Solution
    costs: tuple[float, float]
    harms: tuple[float, float]


def trace(
    program: Program,
    resource: str,
    *,
    points: int = 20,
    limits: Mapping[str, float] = _NO_LIMITS,
    gap: float = 1e-3,
    seconds: float = 60.0,
) -> Front:
    """The front of harm against `resource`: both ends, and points well spread between them.

    Args:
        program: made by `program.init`.
        resource: what is traded for harm.
        points: at most so many solutions, 2 or more.
        limits: kept by all solutions.
        gap: how far, relative to the best, each point between the ends may be from it; the ends are optimal. 0 takes
            several times as long.
        seconds: stop after about so long, with what was found.

    Raises:
        UsageError: an unknown name, a limit that is not a number, fewer than 2 points.
        ToolError: HiGHS failed.
    """
    if resource not in program.values or resource == HARM:
        raise UsageError(f"{resource!r} is no resource; there are {', '.join(map(repr, program.allocation.names[1:]))}")
    if points < 2:
        raise UsageError(f"a front has 2 points or more, not {points}: the fastest and the safest")
    return _Tracer(program, resource, limits, gap, monotonic() + seconds).run(points)


@dataclass(slots=True)
class _Tracer:
    program: Program
    resource: str
    limits: Mapping[str, float]
    gap: float
    deadline: float
    stopped: bool = False

    def run(self, points: int) -> Front:
        """See `trace`."""
        fast = self._reach(self.resource, HARM, inf, Solution(Ending.INFEASIBLE), 0.0)
        if not fast.found:
            ending = FrontEnding.TIME_OUT if self.stopped else FrontEnding.INFEASIBLE
            return Front(self.resource, ending, least=fast.least)
        safe = self._reach(HARM, self.resource, inf, fast, 0.0)
        found = [fast, safe]
        gaps = [_Gap(fast, safe, (self._cost(fast), self._cost(safe)), (safe.harm, fast.harm))]
        whole = gaps[0]
        while len(found) < points and not self.stopped:
            widest = max(gaps, key=lambda one: max(self._widths(one, whole)))
            if max(self._widths(widest, whole)) * points * _FINE < 1:
                return self._front(FrontEnding.NO_MORE, found)
            gaps.remove(widest)
            point, parts = self._halve(widest, whole)
            found += [point] if point.found else []
            gaps += parts
        return self._front(FrontEnding.TIME_OUT if self.stopped else FrontEnding.ENOUGH, found)

    def _halve(self, gap: _Gap, whole: _Gap) -> tuple[Solution, list[_Gap]]:
        """A point in `gap`, unfound if half of it is empty, and what is left of it."""
        along_cost, along_harm = self._widths(gap, whole)
        if along_cost >= along_harm:
            middle = sum(gap.costs) / 2
            point = self._reach(HARM, self.resource, middle, gap.fast, self.gap)
            if not point.found or within(gap.fast.harm, point.harm):
                return Solution(Ending.INFEASIBLE), [replace(gap, costs=(middle, gap.costs[1]))]
            costs, harms = (self._cost(point), middle), (point.harm, point.harm)
        else:
            floor = _FLOOR * whole.harms[1]
            middle = ((gap.harms[0] + floor) * (gap.harms[1] + floor)) ** 0.5 - floor
            point = self._reach(self.resource, HARM, middle, gap.safe, self.gap)
            if not point.found or within(self._cost(gap.safe), self._cost(point)):
                return Solution(Ending.INFEASIBLE), [replace(gap, harms=(middle, gap.harms[1]))]
            costs, harms = (self._cost(point), self._cost(point)), (middle, point.harm)
        return point, [
            _Gap(gap.fast, point, (gap.costs[0], costs[0]), (harms[0], gap.harms[1])),
            _Gap(point, gap.safe, (costs[1], gap.costs[1]), (gap.harms[0], harms[1])),
        ]

    def _reach(self, first: str, second: str, budget: float, start: Solution, gap: float) -> Solution:
        """The least `first` where `second` is within `budget`, then the least `second` at that."""
        limits = {**self.limits, second: min(budget, self.limits.get(second, inf))}
        best = self._solve(first, limits, start, gap)
        if not best.found:
            return best
        limits = {**self.limits, first: min(best.values[first], self.limits.get(first, inf))}
        tidy = self._solve(second, limits, best, gap)
        if not tidy.found:
            return best
        return replace(tidy, aim=tidy.values[first], gap=best.gap, ending=best.ending)

    def _solve(self, aim: str, limits: Mapping[str, float], start: Solution, gap: float) -> Solution:
        left = max(_SHORTEST, self.deadline - monotonic())
        solution = solve(self.program, limits, aim=aim, gap=gap, seconds=left, start=start.choice)
        self.stopped = self.stopped or solution.ending is Ending.TIME_OUT or monotonic() > self.deadline
        return solution

    def _widths(self, gap: _Gap, whole: _Gap) -> tuple[float, float]:
        """The sides of the box as shares of the whole front's: of the cost, and of the logarithm of harm."""
        floor = _FLOOR * whole.harms[1]
        costs = (gap.costs[1] - gap.costs[0]) / ((whole.costs[1] - whole.costs[0]) or 1.0)
        if not (gap.harms[0] < gap.harms[1] and gap.costs[0] < gap.costs[1]):
            return 0.0, 0.0
        decades = log((whole.harms[1] + floor) / (whole.harms[0] + floor))
        return costs, log((gap.harms[1] + floor) / (gap.harms[0] + floor)) / decades

    def _cost(self, solution: Solution) -> float:
        return solution.values[self.resource]

    def _front(self, ending: FrontEnding, found: list[Solution]) -> Front:
        kept: list[Solution] = []
        for one in sorted(found, key=lambda one: (self._cost(one), one.harm)):
            if not kept or not within(kept[-1].harm, one.harm):
                kept.append(one)
        return Front(self.resource, ending, tuple(kept))
