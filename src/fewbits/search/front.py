"""The predicted Pareto front of harm against one resource, from the fastest choice to the safest.

The widest gap that is left is divided, again and again. First by a weighted sum of the two, with the weights for which
both ends of the gap are as good (Aneja & Nair 1979, Management Science 25(1)): such a sum is solved fast, and what
minimises it no choice beats. Where it gives the ends again, none of the points between them minimises any sum. These
are found by a limit on one of the two while the other is minimised (Haimes et al. 1971, the epsilon-constraint method),
then the first is minimised at what was reached, so that nothing is better in one and as good in the other. The limit
halves the gap: linearly in the resource, geometrically in harm, whichever is wider. If that half is empty, the next
point is the one that does better than the empty half's end by least, and if that is the other end, the gap is done.
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
_DISTINCT: Final = 4e-9  # relative: more than limits forgive, with what HiGHS is given on top


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
    """Neighbours on the front and the box in which points between them must lie, both by name (harm and the resource).

    `least`: the neighbour that has the least of it; `box`: from and to what of it; `dented`: no point between them
    minimises a weighted sum.
    """

    least: Mapping[str, Solution]
    box: Mapping[str, tuple[float, float]]
    dented: bool = False

    def holds(self, point: Solution) -> bool:
        """Whether `point` lies between the two: better than either in what that has the most of."""
        return point.found and not any(
            within(other.values[name], point.values[name])
            for name in self.least
            for other in self.least.values()
            if other is not self.least[name]
        )


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
        fast = self._tidy(self._solve(self.resource, self.limits, Solution(Ending.INFEASIBLE), 0.0), self.resource)
        if not fast.found:
            ending = FrontEnding.TIME_OUT if self.stopped else FrontEnding.INFEASIBLE
            return Front(self.resource, ending, least=fast.least)
        safe = self._tidy(self._solve(HARM, self.limits, fast, 0.0), HARM)
        ends = {self.resource: fast, HARM: safe}
        whole = _Gap(ends, {name: (least.values[name], self._most(ends, name)) for name, least in ends.items()})
        found, gaps = [fast, safe], [whole]
        while len(found) < points and not self.stopped:
            widest = max(gaps, key=lambda one: max(self._widths(one, whole)), default=whole)
            if not gaps or max(self._widths(widest, whole)) * points * _FINE < 1:
                return self._front(FrontEnding.NO_MORE, found)
            gaps.remove(widest)
            point, parts = self._divide(widest, whole)
            found += [point] if point.found else []
            gaps += parts
        return self._front(FrontEnding.TIME_OUT if self.stopped else FrontEnding.ENOUGH, found)

    def _divide(self, gap: _Gap, whole: _Gap) -> tuple[Solution, list[_Gap]]:
        """A point in `gap`, unfound if there is none, and the gaps that are left of it."""
        if not gap.dented:
            point = self._weighted(gap)
            if gap.holds(point):
                return point, [
                    self._part(gap, point, self.resource, point.values[HARM]),
                    self._part(gap, point, HARM, self._cost(point)),
                ]
            gap = replace(gap, dented=True)
        along_cost, along_harm = self._widths(gap, whole)
        if along_cost >= along_harm:
            first, second = HARM, self.resource
            middle = sum(gap.box[second]) / 2
        else:
            first, second = self.resource, HARM
            floor = _FLOOR * whole.box[HARM][1]
            middle = ((gap.box[HARM][0] + floor) * (gap.box[HARM][1] + floor)) ** 0.5 - floor
        near, far = gap.least[second], gap.least[first]
        point = self._within(gap, first, second, middle, near)
        if point.found:
            return point, [self._part(gap, point, second, point.values[first]), self._part(gap, point, first, middle)]
        # That half is empty: what is next to `near`, if anything, lies in the other.
        better = near.values[first] - max(self.gap, _DISTINCT) * abs(near.values[first])
        point = self._within(gap, second, first, better, far)
        return point, [self._part(gap, point, first, middle)] if point.found else []

    def _part(self, gap: _Gap, point: Solution, end: str, start: float) -> _Gap:
        """What is left of `gap` between `point` and the neighbour with the least `end`, from `start` of the other."""
        other = HARM if end == self.resource else self.resource
        return replace(
            gap,
            least={**gap.least, other: point},
            box={
                end: (gap.box[end][0], point.values[end]),
                other: (max(start, point.values[other]), gap.box[other][1]),
            },
        )

    def _weighted(self, gap: _Gap) -> Solution:
        """The best by the weighted sum for which both ends of `gap` are as good."""
        weights = {name: 1 / (self._most(gap.least, name) - one.values[name]) for name, one in gap.least.items()}
        return self._solve(weights, self.limits, gap.least[self.resource], 0.0)

    def _within(self, gap: _Gap, first: str, second: str, budget: float, start: Solution) -> Solution:
        """The least `first` in `gap` where `second` is within `budget`; unfound if that is an end of the gap."""
        limits = {**self.limits, second: min(budget, self.limits.get(second, inf))}
        best = self._solve(first, limits, start, self.gap)
        return self._tidy(best, first, self.gap) if gap.holds(best) else Solution(Ending.INFEASIBLE)

    def _tidy(self, best: Solution, first: str, gap: float = 0.0) -> Solution:
        """The least of the other where `first` is as good as in `best`, which has the least of it."""
        if not best.found:
            return best
        limits = {**self.limits, first: min(best.values[first], self.limits.get(first, inf))}
        tidy = self._solve(HARM if first == self.resource else self.resource, limits, best, gap)
        if not tidy.found:
            return best
        return replace(tidy, aim=tidy.values[first], gap=best.gap, ending=best.ending)

    def _solve(
        self, aim: str | Mapping[str, float], limits: Mapping[str, float], start: Solution, gap: float
    ) -> Solution:
        left = max(_SHORTEST, self.deadline - monotonic())
        solution = solve(self.program, limits, aim=aim, gap=gap, seconds=left, start=start.choice)
        self.stopped = self.stopped or solution.ending is Ending.TIME_OUT or monotonic() > self.deadline
        return solution

    def _widths(self, gap: _Gap, whole: _Gap) -> tuple[float, float]:
        """The sides of the box as shares of the whole front's: of the cost, and of the logarithm of harm."""
        (low, high), (least, most) = gap.box[self.resource], whole.box[self.resource]
        safe, harmful = gap.box[HARM]
        if not (safe < harmful and low < high):
            return 0.0, 0.0
        floor = _FLOOR * whole.box[HARM][1]
        decades = log((whole.box[HARM][1] + floor) / (whole.box[HARM][0] + floor))
        return (high - low) / ((most - least) or 1.0), log((harmful + floor) / (safe + floor)) / decades

    def _most(self, ends: Mapping[str, Solution], name: str) -> float:
        """What the neighbour of the one with the least `name` has of it."""
        return ends[HARM if name == self.resource else self.resource].values[name]

    def _cost(self, solution: Solution) -> float:
        return solution.values[self.resource]

    def _front(self, ending: FrontEnding, found: list[Solution]) -> Front:
        kept: list[Solution] = []
        for one in sorted(found, key=lambda one: (self._cost(one), one.harm)):
            if not kept or not within(kept[-1].harm, one.harm):
                kept.append(one)
        return Front(self.resource, ending, tuple(kept))
