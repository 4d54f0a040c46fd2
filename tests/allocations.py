"""Allocations to solve, drawn or made, and every choice that one has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from hypothesis import strategies as st

from fewbits.search.allocation import Additive, Allocation, Item, Peak, Step
from fewbits.search.boundary import Boundary, Crossing, PairTable

OPTIONS = ("fp32", "int8", "int8r", "fp16")
DOMAINS = {"fp32": "float", "int8": "codes", "int8r": "codes", "fp16": "half"}


def every_choice(allocation: Allocation) -> Iterator[dict[str, str]]:
    """All choices that respect ties and fixed items, by trying all that do not."""
    names = [item.name for item in allocation.items]
    for options in product(*(item.options for item in allocation.items)):
        choice = dict(zip(names, options, strict=True))
        tied = all(len({choice[name] for name in tie}) <= 1 for tie in allocation.ties)
        if tied and all(choice[name] == option for name, option in allocation.fixed.items()):
            yield choice


def amounts(low: int = 0) -> st.SearchStrategy[float]:
    """Numbers of every size from 1e-9 to 1e3, with many that are equal."""
    return st.builds(lambda digits, exponent: digits * 10.0**exponent, st.integers(low, 12), st.integers(-9, 2))


def costs(draw: st.DrawFn, items: list[Item], each: st.SearchStrategy[float]) -> dict[str, dict[str, float]]:
    return {item.name: {option: draw(each) for option in item.options} for item in items}


@st.composite
def boundaries(draw: st.DrawFn, items: list[Item]) -> Boundary:
    first, second = draw(st.permutations(items).map(lambda some: some[:2]))
    if draw(st.booleans()):
        leave, enter = ({option: draw(amounts()) for option in OPTIONS} for _ in range(2))
        return Crossing(first.name, second.name, DOMAINS, DOMAINS, leave, enter)
    pairs = list(product(first.options, second.options))
    return PairTable(first.name, second.name, {pair: draw(amounts(-3)) for pair in pairs if draw(st.booleans())})


@st.composite
def allocations(draw: st.DrawFn) -> Allocation:
    """Up to 5 items of up to 4 options, with two sums, a peak, boundaries, a tie, an item that is fixed."""
    count = draw(st.integers(1, 5))
    items = []
    for place in range(count):
        options = ("fp32", *draw(st.lists(st.sampled_from(OPTIONS[1:]), unique=True)))
        items.append(Item(f"g{place}", {option: draw(amounts()) for option in options}))
    edges = st.lists(boundaries(items), max_size=5) if count > 1 else st.just([])
    seconds = Additive("seconds", costs(draw, items, amounts()), draw(edges), draw(amounts()))
    size = Additive("bytes", costs(draw, items, amounts()), draw(edges))
    steps = [Step(costs(draw, some, amounts()), draw(amounts())) for some in (items[:1], items[-2:], items)]
    names = [item.name for item in items]
    tie = draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    fixed = {names[0]: "fp32"} if draw(st.booleans()) else {}
    return Allocation(items, [seconds, Peak("ram", steps), size], [tie], fixed)


def network(seed: int, groups: int, extra: int = 0) -> Allocation:
    """A chain of `groups` in 6 schemes of 3 domains, with `extra` branches: harm over eight decades, microseconds."""
    rng = np.random.default_rng(seed)
    options = ("fp32", "w:int8r a:uint8", "w:int8 a:uint8", "w:int8r a:int8", "bf16", "fp16")
    domains = dict(zip(options, ("float", "codes", "codes", "codes", "half", "half"), strict=True))
    speed, bits = np.array([1, 0.55, 0.6, 0.5, 0.7, 0.75]), np.array([0, 6, 5, 8, 2, 1])
    size = np.exp(rng.normal(0, 1, groups))
    seconds = size[:, None] * 1e-5 * speed * np.exp(rng.normal(0, 0.15, (groups, 6)))
    harm = np.exp(rng.normal(0, 2, groups))[:, None] * 1e-7 * np.where(bits > 0, np.exp(bits), 0)
    names = [f"g{place:03}" for place in range(groups)]
    ends = [(place, place + 1) for place in range(groups - 1)]
    ends += [(int(at), int(at) + 7) for at in rng.integers(0, groups - 7, extra)]
    paid = np.exp(rng.normal(0, 1, (len(ends), 2))) * 1e-6
    edges = [
        Crossing(names[a], names[b], domains, domains, dict.fromkeys(options, out), dict.fromkeys(options, into))
        for (a, b), (out, into) in zip(ends, paid.tolist(), strict=True)
    ]
    table = dict(zip(names, (dict(zip(options, row, strict=True)) for row in seconds.tolist()), strict=True))
    items = [Item(name, dict(zip(options, row, strict=True))) for name, row in zip(names, harm.tolist(), strict=True)]
    return Allocation(items, [Additive("seconds", table, edges)])
