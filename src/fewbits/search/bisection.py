"""Revert the most harmful groups: the smallest prefix of the ranking that meets the budget, by
bisection, then members taken back.

Neural Compressor needed up to two evaluations per group for this, NNCF one per reverted group;
accuracy that is about monotone in the prefix needs the logarithm (AIMET's phase 2 does the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from fewbits.search.problem import Attempt, Finished, Trial
from fewbits.sensitivity.table import SensitivityTable

TAKE_BACKS = 2


@dataclass(frozen=True, slots=True)
class Ranking:
    """Groups, the most harmful first, and the order in which they are worth taking back."""

    order: tuple[str, ...]
    table: SensitivityTable

    def prefix(self, length: int) -> frozenset[str]:
        """The `length` most harmful groups."""
        return frozenset(self.order[:length])

    def saved(self, reverted: frozenset[str]) -> tuple[float, int]:
        """What a plan with `reverted` in fp32 still saves: seconds, then number of groups."""
        low = [name for name in self.order if name not in reverted]
        return sum(self.table.gain.get(name, 0.0) for name in low), len(low)


@dataclass(frozen=True, slots=True)
class Bisection:
    """At most ``ceil(log2 G) + 2`` trials behind the first, for G groups."""

    def init(self, table: SensitivityTable) -> Ranking:
        """Rank the groups."""
        return Ranking(table.ranked(), table)

    def most(self, groups: int) -> int:
        """The first trial, the bisection, and the take-backs."""
        return 1 + (ceil(log2(groups)) if groups > 1 else 0) + TAKE_BACKS

    def propose(self, state: Ranking, history: Sequence[Trial]) -> Attempt | Finished:
        """See Strategy."""
        if not history:
            return Attempt(frozenset(), "all groups in low precision")
        if history[0].within:
            return Finished(history[0], found=True)
        results = {trial.reverted: trial for trial in history}
        # Reverting nothing failed; reverting everything is the original, which needs no trial.
        fails, holds = 0, len(state.order)
        while holds - fails > 1:
            middle = (fails + holds) // 2
            trial = results.get(state.prefix(middle))
            if trial is None:
                return Attempt(state.prefix(middle), f"the {middle} most harmful of {len(state.order)} groups in fp32")
            fails, holds = (fails, middle) if trial.within else (middle, holds)
        if holds == len(state.order):
            return Finished(min(history, key=lambda trial: trial.loss), found=False)
        return self._take_back(state, results, holds, history)

    def _take_back(
        self, state: Ranking, results: dict[frozenset[str], Trial], length: int, history: Sequence[Trial]
    ) -> Attempt | Finished:
        """Halving chunks of what was reverted, those that gain most for their harm first.

        The last member of the prefix stays out: the prefix without it is known to fail.
        """
        kept = state.prefix(length)
        open_to_try = sorted(state.order[: length - 1], key=lambda name: self._price(state.table, name))
        chunk = (len(open_to_try) + 1) // 2
        for _ in range(TAKE_BACKS):
            if not open_to_try:
                break
            back = frozenset(open_to_try[:chunk])
            trial = results.get(kept - back)
            if trial is None:
                return Attempt(kept - back, f"{len(back)} of {len(kept)} reverted groups taken back")
            if trial.within:
                kept, open_to_try = kept - back, open_to_try[chunk:]
            elif chunk == 1:
                open_to_try = open_to_try[1:]
            chunk = max(1, min((chunk + 1) // 2, len(open_to_try)))
        within = [trial for trial in history if trial.within]
        return Finished(max(within, key=lambda trial: state.saved(trial.reverted)), found=True)

    @staticmethod
    def _price(table: SensitivityTable, name: str) -> tuple[float, str]:
        gain = table.gain.get(name, 0.0)
        return table.harm[name] / gain if gain > 0 else float("inf"), name
