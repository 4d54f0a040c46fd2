"""One aim under limits, as a linear programme that is scaled so that HiGHS' fixed tolerances are small against it.

HiGHS allows rows to be violated by 1e-6 and stops at an absolute gap of 1e-6, and drops coefficients under 1e-9. Harm
spans ten decades and seconds are small, so each row, and the aim, is measured from the least option of every block
and scaled until its largest entry is 1e4; what is smaller than 1e-10 of that then stays in doubt, and the caller
leaves out large options that cannot matter and asks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, hstack, vstack

from fewbits.errors import ToolError
from fewbits.search.allocation import Peak
from fewbits.search.boundary import Floats
from fewbits.search.program import Ints, Program, Sparse, Terms
from fewbits.search.quiet import silenced

Mask = NDArray[np.bool_]

_LARGEST: Final = 1e4
_SLACK: Final = 2e-9  # more than `allocation.within` forgives, which decides about each choice afterwards

_ROUNDING: Final = 1e-14

RESOLUTION: Final = 1e-6 / _LARGEST
"""Relative to the largest difference between two options that are left, what `Task.best` can tell apart."""


class State(Enum):
    """How a call of HiGHS ended."""

    SOLVED = auto()
    INFEASIBLE = auto()
    STOPPED = auto()
    UNKNOWN = auto()
    """HiGHS met numbers that it cannot decide on; without presolve it mostly can."""


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """The linear relaxation. No choice has an aim below `bound`; one that takes x column i has none below
    ``bound + penalty[i]``. Both hold for any multipliers (Lagrange), so HiGHS' tolerances do not enter.
    `columns`: the x columns that are largest in each block; none if HiGHS knew
    no more than that there is no bound."""

    state: State
    bound: float = -inf
    penalty: Floats = field(default_factory=lambda: np.zeros(0))
    columns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The best whole choice of the x columns that were kept, and a bound on what they can give."""

    state: State
    columns: tuple[int, ...] = ()
    bound: float = -inf


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    """``cost @ z`` to be minimised, with ``rows @ z <= limits``, one x per block, and 0 <= z <= 1. The aim is
    ``cost @ z / unit + base``."""

    kept: Ints
    starts: Ints
    cost: Floats
    rows: Sparse
    limits: Floats
    unit: float
    base: float


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """``cost @ z + base`` to be minimised with ``rows @ z <= limits`` and ``links @ z <= 0``; z in [0, 1] are the
    columns of `program` and one more per peak in the aim."""

    program: Program
    cost: Floats
    base: float
    rows: Sparse
    limits: Floats
    links: Sparse

    def open(self) -> Mask:
        """The x columns that no row rules out by itself; all that a block has may be out."""
        size = self.program.options
        kept = np.ones(size, dtype=np.bool_)
        own = self.rows[:, :size].toarray()
        rest = self.rows[:, size:]
        saved = np.asarray(rest.minimum(0).sum(axis=1)).ravel()
        dust = 1e-12 * (abs(own).sum(axis=1) + abs(saved) + abs(self.limits))
        while True:
            least = np.minimum.reduceat(np.where(kept, own, inf), self.program.starts, axis=1)
            if not np.isfinite(least).all():
                return kept
            room = self.limits - least.sum(axis=1) - saved + dust
            fits = (own - least[:, self.program.block_of] <= room[:, None]).all(axis=0)
            if (fits | ~kept).all():
                return kept
            kept &= fits

    def spread(self, kept: Mask) -> float:
        """The largest difference in the aim between two options of a block."""
        own = self.cost[: self.program.options]
        least = np.minimum.reduceat(np.where(kept, own, inf), self.program.starts)
        return float((own - least[self.program.block_of])[kept].max(initial=0.0))

    def relax(self, kept: Mask, seconds: float) -> Relaxed:
        """Solve the linear relaxation over the x columns `kept`, at least one per block."""
        scaled = self._scale(kept)
        size = len(scaled.kept)
        for presolve in (True, False):
            result = linprog(
                scaled.cost,
                A_ub=scaled.rows,
                b_ub=scaled.limits,
                A_eq=self._choose(scaled),
                b_eq=np.ones(len(scaled.starts)),
                bounds=(0, 1),
                options={"time_limit": seconds, "presolve": presolve},
            )
            state = _state(result.status)
            if state is not State.UNKNOWN:
                break
        if state is State.UNKNOWN:
            return Relaxed(State.SOLVED, -inf, np.where(kept, 0.0, inf))
        if state is not State.SOLVED:
            return Relaxed(state)
        multipliers = np.minimum(result.ineqlin.marginals, 0.0)
        reduced = scaled.cost - scaled.rows.T @ multipliers
        least = np.minimum.reduceat(reduced[:size], scaled.starts)
        terms = np.concatenate([multipliers * scaled.limits, least, np.minimum(reduced[size:], 0.0)])
        bound = terms.sum() - _ROUNDING * abs(terms).sum()
        penalty = np.full(self.program.options, inf)
        penalty[scaled.kept] = (reduced[:size] - np.repeat(least, self._counts(scaled))) / scaled.unit
        return Relaxed(
            State.SOLVED, float(bound / scaled.unit + scaled.base), penalty, self._largest(scaled, result.x[:size])
        )

    def best(self, kept: Mask, excluded: Sequence[tuple[int, ...]], gap: float, value: float, seconds: float) -> Best:
        """The best choice of the x columns `kept`, other than those `excluded`, to within about `gap` (absolute),
        where the aim is about `value`, not less."""
        scaled = self._scale(kept)
        size, columns = len(scaled.kept), len(scaled.cost)
        constraints = [LinearConstraint(self._choose(scaled), 1, 1)]
        if scaled.rows.shape[0]:
            constraints.append(LinearConstraint(scaled.rows, -inf, scaled.limits))
        for choice in excluded:
            taken = np.flatnonzero(np.isin(scaled.kept, choice))
            if len(taken) == len(choice):
                cut = csr_array((np.ones(len(taken)), ([0] * len(taken), taken)), shape=(1, columns))
                constraints.append(LinearConstraint(cut, -inf, len(choice) - 1))
        # HiGHS' gap is a share of what it minimises: the aim above the base.
        share = gap / max(value - scaled.base, gap) if gap > 0 else 0.0
        for presolve in (True, False):
            with silenced():
                result = milp(
                    scaled.cost,
                    constraints=constraints,
                    integrality=np.arange(columns) < size,
                    bounds=Bounds(0, 1),
                    options={"time_limit": seconds, "mip_rel_gap": share, "presolve": presolve},
                )
            state = _state(result.status)
            if state is not State.UNKNOWN:
                break
        if state is State.UNKNOWN:
            raise ToolError(f"HiGHS gave up on an allocation: {result.message}. Report it, with the tables")
        if state is State.INFEASIBLE:
            return Best(state, bound=inf)
        dual = -inf if result.mip_dual_bound is None else result.mip_dual_bound / scaled.unit + scaled.base
        return Best(state, () if result.x is None else self._largest(scaled, result.x[:size]), float(dual))

    def _counts(self, scaled: _Scaled) -> Ints:
        return np.diff(np.append(scaled.starts, len(scaled.kept)))

    def _choose(self, scaled: _Scaled) -> Sparse:
        size = len(scaled.kept)
        block = np.repeat(np.arange(len(scaled.starts)), self._counts(scaled))
        return csr_array((np.ones(size), (block, np.arange(size))), shape=(len(scaled.starts), len(scaled.cost)))

    def _largest(self, scaled: _Scaled, shares: Floats) -> tuple[int, ...]:
        ends = np.append(scaled.starts, len(scaled.kept))
        return tuple(int(scaled.kept[start + np.argmax(shares[start:end])]) for start, end in pairwise(ends))

    def _scale(self, kept: Mask) -> _Scaled:
        size = self.program.options
        columns = np.flatnonzero(kept)
        block = self.program.block_of[columns]
        starts = np.searchsorted(block, np.arange(len(self.program.blocks)))

        def from_least(own: Floats) -> tuple[Floats, Floats]:
            least = np.minimum.reduceat(own, starts, axis=-1)
            return own - least[..., block], least.sum(axis=-1)

        own, base = from_least(self.cost[columns])
        cost = np.concatenate([own, self.cost[size:]])
        unit = _LARGEST / (abs(cost).max(initial=0.0) or 1.0)

        excess, least = from_least(self.rows[:, columns].toarray())
        rest = self.rows[:, size:].tocsr()
        largest = np.maximum(excess.max(axis=1, initial=0.0), abs(rest.toarray()).max(axis=1, initial=0.0))
        scale = _LARGEST / np.where(largest > 0, largest, 1.0)
        rows = hstack([csr_array(excess * scale[:, None]), rest.multiply(scale[:, None])])
        links = hstack([self.links[:, columns], self.links[:, size:]])
        limits = np.concatenate([(self.limits - least) * scale, np.zeros(links.shape[0])])
        return _Scaled(
            columns, starts, cost * unit, vstack([rows, links]).tocsr(), limits, unit, float(self.base + base)
        )


def _state(status: int) -> State:
    return {0: State.SOLVED, 1: State.STOPPED, 2: State.INFEASIBLE}.get(status, State.UNKNOWN)


def task(program: Program, aim: Mapping[str, float], limits: Mapping[str, float]) -> Task:
    """Minimise the weighted sum `aim` (name → weight > 0) within `limits` (name → value)."""
    peaks = [r.name for r in program.allocation.resources if isinstance(r, Peak) and r.name in aim]
    cost, base = np.zeros(program.columns + len(peaks)), 0.0
    rows, bounds = [csr_array((0, len(cost)))], [np.zeros(0)]

    def add(terms: Terms, bound: Floats, shares: Sparse) -> None:
        rows.append(hstack([terms.rows, shares]))
        bounds.append(bound - terms.constant)

    for name, limit in limits.items():
        if limit == inf:
            continue
        terms = program.values[name]
        count = terms.rows.shape[0]
        add(terms, np.full(count, limit + _SLACK * abs(limit)), csr_array((count, len(peaks))))
    for name, weight in aim.items():
        terms = program.values[name]
        if name not in peaks:
            cost[: program.columns] += weight * terms.rows.toarray().ravel()
            base += weight * float(terms.constant[0])
            continue
        # The peak is low + share * (high - low): its column is a share, in [0, 1] as all others.
        own = terms.rows[:, : program.options].toarray()
        low = float((np.minimum.reduceat(own, program.starts, axis=1).sum(axis=1) + terms.constant).max())
        high = float((np.maximum.reduceat(own, program.starts, axis=1).sum(axis=1) + terms.constant).max())
        place, count = peaks.index(name), len(terms.constant)
        shares = csr_array((np.full(count, low - high), (np.arange(count), [place] * count)), (count, len(peaks)))
        add(terms, low + _ROUNDING * (abs(low) + abs(terms.constant)), shares)
        cost[program.columns + place] = weight * (high - low)
        base += weight * low
    links = hstack([program.coupling, csr_array((program.coupling.shape[0], len(peaks)))])
    return Task(program, cost, base, vstack(rows).tocsr(), np.concatenate(bounds), links.tocsr())
