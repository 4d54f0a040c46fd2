"""What it costs that two neighbours compute differently: conversions where a tensor passes from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """A table of pair costs, taken apart: ``cost[s, t] == first[s] + second[t] - saved[s, t]`` with saved >= 0."""

    first: Floats
    second: Floats
    saved: Floats


@dataclass(frozen=True, slots=True)
class Crossing:
    """Nothing if the option of `first` gives what the option of `second` takes, else leaving plus entering.

    `gives` and `takes` name a domain for each option (``{"int8": "codes", "fp32": "float"}``; one mapping may serve
    all boundaries), `leave` and `enter` say what the conversions cost, >= 0; an option that they do not name costs 0.
    """

    first: str
    second: str
    gives: Mapping[str, str]
    takes: Mapping[str, str]
    leave: Mapping[str, float] = field(default_factory=dict)
    enter: Mapping[str, float] = field(default_factory=dict)

    def cost(self, before: str, after: str) -> float:
        """What it costs that `first` has option `before` and `second` has option `after`."""
        if self.gives[before] == self.takes[after]:
            return 0.0
        return self.leave.get(before, 0.0) + self.enter.get(after, 0.0)

    def split(self, befores: Sequence[str], afters: Sequence[str]) -> Split:
        """The costs of these options, taken apart."""
        leave = np.array([self.leave.get(option, 0.0) for option in befores])
        enter = np.array([self.enter.get(option, 0.0) for option in afters])
        same = np.array([[self.gives[before] == self.takes[after] for after in afters] for before in befores])
        return Split(leave, enter, np.where(same, leave[:, None] + enter, 0.0))

    def faults(self, befores: Sequence[str], afters: Sequence[str]) -> Iterator[str]:
        """What is wrong with this boundary between items that have these options."""
        for said, domains, options in (("gives", self.gives, befores), ("takes", self.takes, afters)):
            for option in options:
                if option not in domains:
                    yield f"{said} no domain for option {option!r}; name one for each option"
        for said, costs in (("leave", self.leave), ("enter", self.enter)):
            for option, cost in costs.items():
                if not (np.isfinite(cost) and cost >= 0):
                    yield f"{said} has {cost} for option {option!r}; a conversion costs a finite number, 0 or more"


@dataclass(frozen=True, slots=True)
class PairTable:
    """Any cost for each pair (option of `first`, option of `second`); a pair that `costs` does not name costs 0."""

    first: str
    second: str
    costs: Mapping[tuple[str, str], float]

    def cost(self, before: str, after: str) -> float:
        """What it costs that `first` has option `before` and `second` has option `after`."""
        return self.costs.get((before, after), 0.0)

    def split(self, befores: Sequence[str], afters: Sequence[str]) -> Split:
        """The costs of these options, taken apart."""
        table = np.array([[self.cost(before, after) for after in afters] for before in befores])
        first = table.max(axis=1)
        saved = first[:, None] - table
        second = -saved.min(axis=0)
        return Split(first, second, saved + second)

    def faults(self, befores: Sequence[str], afters: Sequence[str]) -> Iterator[str]:
        """What is wrong with this boundary between items that have these options."""
        for (before, after), cost in self.costs.items():
            if before not in befores or after not in afters:
                yield f"names the pair ({before!r}, {after!r}); the options are {_list(befores)} and {_list(afters)}"
            if not np.isfinite(cost):
                yield f"has {cost} for the pair ({before!r}, {after!r}); a cost is a finite number"


Boundary: TypeAlias = Crossing | PairTable


def _list(options: Sequence[str]) -> str:
    return ", ".join(map(repr, options))
