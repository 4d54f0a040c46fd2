"""The best choice within limits, exactly: linear relaxation, then integer programmes over the options that can matter.

An option whose penalty in the relaxation is above the distance between the best choice known and the bound can be in
no better choice (reduced cost fixing). So the options are tried in order of penalty, few at first, until the distance
leaves no other: the core of Balas & Zemel 1980 (Operations Research 28(5)), as Pisinger 1995 (EJOR 83(2)) does it for
one limit, here with HiGHS in place of dynamic programming, for any limits and boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import fsum, inf, isfinite, isnan
from time import monotonic
from typing import Final

import numpy as np

from fewbits.errors import UsageError
from fewbits.search.allocation import HARM, Choice, within
from fewbits.search.program import Program
from fewbits.search.solution import Ending, Least, Solution
from fewbits.search.task import RESOLUTION, Mask, Relaxed, State, Task, task

_CORE: Final = 300
_GROWTH: Final = 3
_ENOUGH: Final = 1e-9  # relative: an aim is not told apart more finely than limits are
_ZOOM: Final = 10.0
_SHORTEST: Final = 1e-2
_NOTHING: Final[Choice] = {}
_NO_LIMITS: Final[Mapping[str, float]] = {}


def solve(
    program: Program,
    limits: Mapping[str, float] = _NO_LIMITS,
    *,
    aim: str | Mapping[str, float] = HARM,
    gap: float = 0.0,
    seconds: float = 60.0,
    start: Choice = _NOTHING,
) -> Solution:
    """The choice with the least `aim` within `limits`.

    Args:
        program: made by `program.init`, once for many calls.
        limits: ``"harm"`` or the name of a resource → what it may reach; up to 1e-9 of it more is forgiven.
        aim: what to minimise: a name, or names with weights above 0 (seconds and joules, say, by their prices).
        gap: stop when no choice can be better by more than this share of the aim; 0 asks for the optimum.
        seconds: stop after about so long; if there is no choice within the limits, about so long again for each
            figure of what could be reached.
        start: a choice of an earlier solution of `program`; if it is within the limits, the result is no worse.

    Raises:
        UsageError: an unknown name, a limit that is not a number, a weight that is not above 0.
        ToolError: HiGHS failed.
    """
    weights = {aim: 1.0} if isinstance(aim, str) else dict(aim)
    _check(program, limits, weights, gap)
    solution = _Search(program, weights, limits, gap, monotonic() + seconds).run(start)
    if solution.ending is not Ending.INFEASIBLE:
        return solution
    return replace(solution, least={name: _least(program, limits, name, seconds) for name in limits})


def _least(program: Program, limits: Mapping[str, float], name: str, seconds: float) -> Least:
    others = {other: limit for other, limit in limits.items() if other != name}
    alone = _Search(program, {name: 1.0}, {}, 0.0, monotonic() + seconds).run(_NOTHING)
    beside = _Search(program, {name: 1.0}, others, 0.0, monotonic() + seconds).run(alone.choice) if others else alone
    return Least(limits[name], alone.aim, beside.aim)


@dataclass(slots=True)
class _Search:
    """One search, the best choice that it has seen, and the options that it last solved for."""

    program: Program
    weights: Mapping[str, float]
    limits: Mapping[str, float]
    gap: float
    deadline: float
    best: Solution = field(default_factory=lambda: Solution(Ending.INFEASIBLE))
    core: Mask = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def run(self, start: Choice) -> Solution:
        """The best choice; `start` if it is within the limits and nothing is better."""
        if start:
            self._offer(start)
        asked = task(self.program, self.weights, self.limits)
        kept = asked.open()
        while True:
            if not np.logical_or.reduceat(kept, self.program.starts).all():
                return self._end()
            relaxed = asked.relax(kept, self._left())
            if relaxed.state is State.STOPPED:
                return self._stopped(-inf)
            if relaxed.state is State.INFEASIBLE:
                return self._end()
            if relaxed.columns:
                self._offer(self.program.choice(relaxed.columns))
            done = self._cores(asked, kept, relaxed)
            if not (done.found and done.gap == 0 and done.ending is Ending.OPTIMAL):
                return done
            # What HiGHS cannot tell apart among large differences, it can among the small ones that are left.
            spread = asked.spread(self.core)
            kept = kept & (relaxed.penalty <= self._distance(relaxed))
            if RESOLUTION * spread <= _ENOUGH * abs(done.aim) or asked.spread(kept) * _ZOOM > spread:
                return done

    def _cores(self, asked: Task, kept: Mask, relaxed: Relaxed) -> Solution:
        """Solve over the options of least penalty, more of them each time, until no other can matter."""
        order = np.sort(relaxed.penalty[kept])
        size, bound, excluded = _CORE, relaxed.bound, list[tuple[int, ...]]()
        self.core = kept
        while self._above(bound):
            distance = self._distance(relaxed)
            reach = min(distance, float(order[min(len(self.program.blocks) + size, len(order)) - 1]))
            self.core = kept & (relaxed.penalty <= reach)
            known = self.best.found
            value = self.best.aim if known else max(bound, 0.0)
            solved = asked.best(self.core, excluded, self.gap * abs(value), value, self._left())
            if solved.columns and not self._offer(self.program.choice(solved.columns)):
                # HiGHS' tolerance let it over a limit: out with it alone, and on.
                excluded.append(solved.columns)
                if monotonic() < self.deadline:
                    continue
                return self._stopped(bound)
            rest = inf if self.core.sum() == kept.sum() else relaxed.bound + reach
            bound = max(bound, min(solved.bound, rest))
            if solved.state is State.STOPPED:
                return self._stopped(bound)
            # With a gap allowed, and its size only guessed from the bound, one more round makes it right.
            if rest >= self.best.aim and (known or self.gap == 0 or not self.best.found):
                break
            size *= _GROWTH
        return self._end(bound if self.gap > 0 else -inf)

    def _distance(self, relaxed: Relaxed) -> float:
        """How large a penalty an option of a better choice may have, with room for rounding."""
        return self.best.aim - relaxed.bound + 1e-12 * (abs(self.best.aim) + abs(relaxed.bound))

    def _above(self, bound: float) -> bool:
        """Whether a better choice could exist."""
        return not self.best.found or self.best.aim - bound > max(self.gap, 1e-12) * abs(self.best.aim)

    def _offer(self, choice: Choice) -> bool:
        """Take `choice` if it is better than the best; whether it is within the limits."""
        values = self.program.allocation.values(choice)
        if not all(within(values[name], limit) for name, limit in self.limits.items()):
            return False
        aim = fsum(weight * values[name] for name, weight in self.weights.items())
        if aim < self.best.aim:
            self.best = Solution(Ending.OPTIMAL, choice, values, aim, 0.0)
        return True

    def _end(self, bound: float = -inf) -> Solution:
        """The best, optimal to within what `bound` leaves, if one was asked for."""
        missed = self.best.aim - bound
        if not (self.best.found and isfinite(bound) and missed > 1e-12 * abs(self.best.aim)):
            return self.best
        return replace(self.best, gap=missed / abs(self.best.aim))

    def _stopped(self, bound: float) -> Solution:
        if not self.best.found:
            return replace(self.best, ending=Ending.TIME_OUT)
        missed = max(0.0, self.best.aim - bound)
        gap = missed / abs(self.best.aim) if self.best.aim else (0.0 if missed == 0 else inf)
        return replace(self.best, ending=Ending.TIME_OUT, gap=gap)

    def _left(self) -> float:
        return max(_SHORTEST, self.deadline - monotonic())


def _check(program: Program, limits: Mapping[str, float], weights: Mapping[str, float], gap: float) -> None:
    names = program.allocation.names
    for name in (*limits, *weights):
        if name not in names:
            raise UsageError(f"nothing is named {name!r}; there are {', '.join(map(repr, names))}")
    for name, limit in limits.items():
        if isnan(limit) or limit == -inf:
            raise UsageError(f"the limit of {name!r} cannot be {limit}; give what it may reach, or leave it out")
    if not weights or not all(isfinite(weight) and weight > 0 for weight in weights.values()):
        raise UsageError(f"the aim {dict(weights)} must give a weight above 0 to each name, and have at least one")
    if not 0 <= gap < 1:
        raise UsageError(f"the gap must be a share from 0 to 1, not {gap}; 0 asks for the optimum")
