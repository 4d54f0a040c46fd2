"""An allocation as sparse matrices, built once for many budgets.

One column x per (block, option) is 1 if the option is taken; a block is an item, or items that are tied. One column w
per (edge, class of options, class of options) is the share of an edge whose two ends lie in these classes, for pairs
that save something against the worst case. With cost = first + second - saved, saved >= 0 (`boundary.Split`), the
least cost under the local polytope of the edge (the convex hull of its pairs; Wainwright & Jordan 2008, Foundations
and Trends in Machine Learning 1, section 4.1.1) is

    min first.x + second.y - saved.w   with   sum_t w[s, t] <= x[s],   sum_s w[s, t] <= y[t],   w >= 0

since a w that sums to less can be completed to marginals x and y, which saves no less. So pairs that save nothing need
no column, and options that save the same with every partner are one class: a boundary between domains takes one
column per domain, whatever the number of options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fewbits.search.allocation import HARM, Additive, Allocation, Choice, Peak
from fewbits.search.boundary import Floats

Ints: TypeAlias = NDArray[np.int64]
Sparse: TypeAlias = Any  # scipy.sparse.csr_array, which has no types


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """A value as the largest of ``rows @ columns + constant``; `rows` is (terms, columns)."""

    rows: Sparse
    constant: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """`allocation` with its matrices. `starts`: the first x column of each block; `labels`: the option of each x
    column; `coupling`: rows (links, columns) that must be <= 0; `values`: harm and each resource."""

    allocation: Allocation
    blocks: tuple[tuple[str, ...], ...]
    starts: Ints
    labels: tuple[str, ...]
    coupling: Sparse
    values: dict[str, Terms]

    @property
    def options(self) -> int:
        """The number of x columns, which are the first."""
        return len(self.labels)

    @property
    def columns(self) -> int:
        """The number of all columns."""
        return int(self.coupling.shape[1])

    @property
    def block_of(self) -> Ints:
        """The block of each x column."""
        return np.repeat(np.arange(len(self.blocks)), np.diff(np.append(self.starts, self.options)))

    def choice(self, columns: Sequence[int]) -> Choice:
        """The choice that takes these x columns, one per block."""
        taken = {
            name: self.labels[column] for block, column in zip(self.blocks, columns, strict=True) for name in block
        }
        return {item.name: taken[item.name] for item in self.allocation.items}


class _Rows:
    """Sparse rows while they are collected."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, float]] = []
        self.count = 0

    def add(self, columns: Sequence[int], values: Sequence[float]) -> None:
        self.entries += [(self.count, column, value) for column, value in zip(columns, values, strict=True)]
        self.count += 1

    def matrix(self, columns: int) -> Sparse:
        row, column, value = zip(*self.entries, strict=True) if self.entries else ((), (), ())
        return csr_array((np.array(value, dtype=np.float64), (row, column)), shape=(self.count, columns))


def init(allocation: Allocation) -> Program:
    """The matrices of `allocation`."""
    decided = allocation.blocks()
    starts = np.cumsum([0] + [len(options) for _, options in decided])
    block_of = {name: place for place, (names, _) in enumerate(decided) for name in names}
    options = [options for _, options in decided]
    size = int(starts[-1])
    additive = [resource for resource in allocation.resources if isinstance(resource, Additive)]

    own = {HARM: np.zeros(size)} | {resource.name: np.zeros(size) for resource in additive}
    for item in allocation.items:
        block = block_of[item.name]
        span = slice(starts[block], starts[block + 1])
        own[HARM][span] += [item.harm[option] for option in options[block]]
        for resource in additive:
            own[resource.name][span] += [resource.costs[item.name][option] for option in options[block]]

    saved: dict[tuple[int, int], Floats] = {}
    for place, resource in enumerate(additive):
        cost = own[resource.name]
        for edge in resource.boundaries:
            first, second = block_of[edge.first], block_of[edge.second]
            if first == second:
                cost[starts[first] : starts[first + 1]] += [edge.cost(option, option) for option in options[first]]
                continue
            split = edge.split(options[first], options[second])
            cost[starts[first] : starts[first + 1]] += split.first
            cost[starts[second] : starts[second + 1]] += split.second
            ends, table = ((first, second), split.saved) if first < second else ((second, first), split.saved.T)
            tables = saved.setdefault(ends, np.zeros((len(additive), *table.shape)))
            tables[place] += table

    links, gains = _Rows(), list[Floats]()
    for (first, second), tables in saved.items():
        _link(tables, int(starts[first]), int(starts[second]), size + len(gains), links, gains)
    columns = size + len(gains)
    gain = np.array(gains).reshape(len(gains), len(additive))

    values = {HARM: _sum(own[HARM], np.zeros(len(gains)), 0.0)}
    for place, resource in enumerate(additive):
        values[resource.name] = _sum(own[resource.name], -gain[:, place], resource.constant)
    for peak in allocation.resources:
        if isinstance(peak, Peak):
            values[peak.name] = _steps(peak, block_of, options, starts, columns)
    labels = tuple(option for block in options for option in block)
    names = tuple(names for names, _ in decided)
    return Program(allocation, names, starts[:-1], labels, links.matrix(columns), values)


def _link(tables: Floats, first: int, second: int, column: int, links: _Rows, gains: list[Floats]) -> None:
    """Add the w columns of one edge, from `column` on, and their two rows per class of options.

    `tables`: what is saved, (resources, options of the first block, options of the second).
    """
    befores, afters = _classes(tables.transpose(1, 0, 2)), _classes(tables.transpose(2, 0, 1))
    pairs = [(before, after) for before in befores for after in afters if tables[:, before[0], after[0]].any()]
    for classes, start, side in ((befores, first, 0), (afters, second, 1)):
        for members in classes:
            shares = [column + place for place, pair in enumerate(pairs) if pair[side] is members]
            if shares:
                taken = [start + option for option in members]
                links.add([*shares, *taken], [1.0] * len(shares) + [-1.0] * len(taken))
    gains += [tables[:, before[0], after[0]] for before, after in pairs]


def _classes(tables: Floats) -> list[tuple[int, ...]]:
    """The places of `tables` along its first axis, equal ones together."""
    together: dict[bytes, list[int]] = {}
    for place, table in enumerate(tables):
        together.setdefault(table.tobytes(), []).append(place)
    return [tuple(places) for places in together.values()]


def _sum(own: Floats, shares: Floats, constant: float) -> Terms:
    return Terms(csr_array(np.concatenate([own, shares])[None, :]), np.array([constant]))


def _steps(
    resource: Peak, block_of: dict[str, int], options: list[tuple[str, ...]], starts: Ints, columns: int
) -> Terms:
    rows = _Rows()
    for step in resource.steps:
        cost: dict[int, float] = {}
        for name, by_option in step.costs.items():
            block = block_of[name]
            for place, option in enumerate(options[block], int(starts[block])):
                cost[place] = cost.get(place, 0.0) + by_option.get(option, 0.0)
        rows.add(list(cost), list(cost.values()))
    return Terms(rows.matrix(columns), np.array([step.constant for step in resource.steps]))
