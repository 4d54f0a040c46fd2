import json
import subprocess
import sys
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations import allocations, every_choice, network
from fewbits.errors import UsageError
from fewbits.search.allocation import HARM, Additive, Allocation, Item, within
from fewbits.search.boundary import PairTable
from fewbits.search.milp import solve
from fewbits.search.program import init
from fewbits.search.solution import Ending

NAMES = (HARM, "seconds", "ram", "bytes")


def reachable(allocation, limits):
    """The values of every choice within `limits`."""
    every = [allocation.values(choice) for choice in every_choice(allocation)]
    return [one for one in every if all(within(one[name], limit) for name, limit in limits.items())]


@st.composite
def limited(draw):
    """An allocation with limits, at or near the values of one of its choices, or out of reach."""
    allocation = draw(allocations())
    near = allocation.values(draw(st.sampled_from(list(every_choice(allocation)))))
    some = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return allocation, {name: near[name] * draw(st.sampled_from((0.5, 0.9, 1.0, 1.0, 1.1))) for name in some}


def check_choice(allocation, limits, solution):
    assert solution.choice in list(every_choice(allocation))
    assert solution.values == allocation.values(solution.choice)
    assert all(within(solution.values[name], limit) for name, limit in limits.items())


@settings(max_examples=100, deadline=None)
@given(limited(), st.sampled_from(NAMES))
def test_equals_brute_force(problem, aim):
    allocation, limits = problem
    solution = solve(init(allocation), limits, aim=aim)
    expected = min((values[aim] for values in reachable(allocation, limits)), default=inf)
    assert solution.ending is (Ending.OPTIMAL if expected < inf else Ending.INFEASIBLE)
    assert solution.aim == pytest.approx(expected, rel=2e-9, abs=1e-15)
    if solution.found:
        check_choice(allocation, limits, solution)
        assert solution.gap == 0 and solution.text == "No better choice exists within the limits."


@settings(max_examples=50, deadline=None)
@given(limited())
def test_a_weighted_sum_equals_brute_force(problem):
    allocation, limits = problem
    weights = {HARM: 2.0, "seconds": 0.5, "ram": 3.0, "bytes": 1e-3}
    solution = solve(init(allocation), limits, aim=weights)
    every = [sum(weights[name] * values[name] for name in weights) for values in reachable(allocation, limits)]
    assert solution.aim == pytest.approx(min(every, default=inf), rel=2e-9, abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(limited(), st.sampled_from((1e-3, 0.1)))
def test_an_allowed_gap_is_kept_and_told(problem, gap):
    allocation, limits = problem
    solution = solve(init(allocation), limits, aim="seconds", gap=gap)
    expected = min((values["seconds"] for values in reachable(allocation, limits)), default=inf)
    if solution.found:
        assert solution.gap <= gap * (1 + 1e-6)
        dust = 2e-9 * abs(expected) + 1e-15
        assert expected - dust <= solution.aim <= expected + solution.gap * abs(solution.aim) + dust
    else:
        assert expected == inf


@settings(max_examples=50, deadline=None)
@given(allocations(), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=4))
def test_a_looser_limit_never_gives_more_harm(allocation, shares):
    program = init(allocation)
    seconds = [values["seconds"] for values in reachable(allocation, {})]
    low, high = min(seconds), max(seconds)
    harms = [solve(program, {"seconds": low + (high - low) * share}).harm for share in sorted(shares)]
    assert all(loose <= tight * (1 + 2e-9) for tight, loose in pairwise(harms))


@settings(max_examples=60, deadline=None)
@given(limited())
def test_infeasible_tells_what_can_be_reached(problem):
    allocation, limits = problem
    solution = solve(init(allocation), limits)
    if reachable(allocation, limits):
        assert not solution.least
        return
    assert solution.ending is Ending.INFEASIBLE and not solution.found and set(solution.least) == set(limits)
    for name, least in solution.least.items():
        others = {other: limit for other, limit in limits.items() if other != name}
        beside = min((values[name] for values in reachable(allocation, others)), default=inf)
        assert least.limit == limits[name]
        assert least.alone == pytest.approx(min(v[name] for v in reachable(allocation, {})), rel=2e-9, abs=1e-15)
        assert least.beside == pytest.approx(beside, rel=2e-9, abs=1e-15)
        assert f"{name} can be {least.alone:.6g} at least, the limit is {limits[name]:.6g}" in solution.text


def shortest_chain(allocation, weight):
    """The choice with the least harm + weight * seconds of a chain, by dynamic programming."""
    (seconds,) = allocation.resources
    between = {edge.second: edge for edge in seconds.boundaries}
    best = {}
    for item in allocation.items:
        after = {}
        for option, harm in item.harm.items():
            own = harm + weight * seconds.costs[item.name][option]
            edge = between.get(item.name)
            ways = [(cost + (weight * edge.cost(way[-1], option) if edge else 0.0), way) for cost, way in best.values()]
            cost, way = min(ways, default=(0.0, ()))
            after[option] = (own + cost, (*way, option))
        best = after
    _, way = min(best.values())
    return dict(zip((item.name for item in allocation.items), way, strict=True))


def test_five_hundred_groups_lie_between_lagrange_s_bound_and_his_best_choice():
    allocation = network(seed=1, groups=500)
    program = init(allocation)
    fast = solve(program, aim="seconds")
    fastest = allocation.values(shortest_chain(allocation, 1e9))["seconds"]
    assert fast.aim == pytest.approx(fastest, rel=1e-9)
    original = allocation.values({item.name: "fp32" for item in allocation.items})["seconds"]
    budget = fast.aim + 0.4 * (original - fast.aim)
    low, high, bound, harm = 1e-3, 1e9, -inf, inf
    for _ in range(60):
        weight = (low * high) ** 0.5
        values = allocation.values(shortest_chain(allocation, weight))
        bound = max(bound, values[HARM] + weight * (values["seconds"] - budget))
        if values["seconds"] <= budget:
            high, harm = weight, min(harm, values[HARM])
        else:
            low = weight
    solution = solve(program, {"seconds": budget})
    assert solution.ending is Ending.OPTIMAL and within(solution.costs["seconds"], budget)
    assert bound * (1 - 1e-9) <= solution.harm <= harm
    assert solution.harm < bound * 1.01


def exact_chain(allocation, budget):
    """The least harm of a chain whose seconds are whole numbers, at most `budget`, by dynamic programming."""
    (seconds,) = allocation.resources
    between = {edge.second: edge for edge in seconds.boundaries}
    best = {}
    for item in allocation.items:
        after = {}
        for option, harm in item.harm.items():
            total = np.full(budget + 1, inf)
            for before, table in best.items() or [("", np.zeros(budget + 1))]:
                edge = between.get(item.name)
                cost = int(seconds.costs[item.name][option] + (edge.cost(before, option) if edge else 0))
                total[cost:] = np.minimum(total[cost:], table[: budget + 1 - cost] + harm)
            after[option] = total
        best = after
    return min(float(table[budget]) for table in best.values())


@pytest.mark.parametrize("seed", range(3))
def test_equals_dynamic_programming_on_a_chain(seed):
    rng = np.random.default_rng(seed)
    options = ("a", "b", "c", "d")
    names = [f"g{place}" for place in range(60)]
    draw = lambda high: {option: float(rng.integers(0, high)) for option in options}  # noqa: E731
    items = [Item(name, {option: float(rng.lognormal(0, 3)) for option in options}) for name in names]
    edges = [
        PairTable(first, second, {(s, t): float(rng.integers(0, 9)) for s in options for t in options})
        for first, second in pairwise(names)
    ]
    allocation = Allocation(items, [Additive("seconds", {name: draw(30) for name in names}, edges)])
    program = init(allocation)
    fastest = solve(program, aim="seconds").aim
    for more in (0, 5, 40, 300):
        solution = solve(program, {"seconds": fastest + more})
        assert solution.harm == pytest.approx(exact_chain(allocation, int(fastest) + more), rel=1e-9)


def test_the_same_input_gives_the_same_choice():
    one, other = (solve(init(network(seed=3, groups=60, extra=20)), {"seconds": 6e-4}) for _ in range(2))
    assert one.found and one == other


def test_a_boundary_keeps_an_item_in_its_neighbours_domain():
    """bf16 saves 1 second of the middle item, but two conversions of 0.6 s cost more: the pair costs decide."""
    items = [Item("a", {"fp32": 0.0}), Item("b", {"fp32": 0.0, "bf16": 0.0}), Item("c", {"fp32": 0.0})]
    seconds = {"a": {"fp32": 1.0}, "b": {"fp32": 2.0, "bf16": 1.0}, "c": {"fp32": 1.0}}
    for conversion, expected in ((0.6, "fp32"), (0.4, "bf16")):
        edges = [
            PairTable(*ends, {pair: conversion}) for ends, pair in (("ab", ("fp32", "bf16")), ("bc", ("bf16", "fp32")))
        ]
        program = init(Allocation(items, [Additive("seconds", seconds, edges)]))
        assert solve(program, aim="seconds").choice["b"] == expected


@pytest.mark.parametrize("seed", range(3))
def test_harm_of_every_size_counts(seed):
    """Options of harm 1e2, which no good choice has, must not blur the choice among those of 1e-9."""
    rng = np.random.default_rng(seed)
    names = [f"g{place}" for place in range(30)]
    items = [Item(name, {"high": 0.0, "low": float(rng.uniform(1e-9, 2e-9)), "none": 1e2}) for name in names]
    saves = {name: float(rng.integers(20, 60)) for name in names}
    costs = {name: {"high": 60.0, "low": 60.0 - saves[name], "none": 0.0} for name in names}
    allocation = Allocation(items, [Additive("seconds", costs)])
    solution = solve(init(allocation), {"seconds": 1200.0})
    assert solution.harm == pytest.approx(exact_chain(allocation, 1200), rel=1e-9)


def test_stopped_before_anything_was_found():
    program = init(network(seed=2, groups=500, extra=100))
    solution = solve(program, {"seconds": 4e-3}, seconds=0.0)
    assert solution.ending is Ending.TIME_OUT
    assert not solution.found and solution.harm == inf and "allow more seconds" in solution.text


def test_stopped_with_the_choice_it_started_from_and_an_honest_gap():
    allocation = network(seed=2, groups=500, extra=100)
    program = init(allocation)
    fast = solve(program, aim="seconds")
    limits = {"seconds": fast.aim * 1.5}
    stopped = solve(program, limits, seconds=0.0, start=fast.choice)
    assert stopped.ending is Ending.TIME_OUT and stopped.found and stopped.harm <= fast.harm
    assert stopped.gap > 0 and "Stopped at the time limit with a choice" in stopped.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"limits": {"second": 1.0}}, "nothing is named 'second'; there are 'harm', 'seconds'"),
        ({"aim": "second"}, "nothing is named 'second'"),
        ({"limits": {"seconds": float("nan")}}, "cannot be nan"),
        ({"aim": {"seconds": -1.0}}, "weight above 0"),
        ({"aim": {}}, "have at least one"),
        ({"gap": 1.0}, "share from 0 to 1"),
    ],
)
def test_what_cannot_be_asked(arguments, said):
    program = init(network(seed=0, groups=10))
    with pytest.raises(UsageError, match=said):
        solve(program, **arguments)


def test_standard_output_stays_clean():
    """HiGHS in scipy 1.17 prints on these; whoever reads our output as JSON must not see it."""
    code = """
import json, numpy as np
from fewbits.search.allocation import Additive, Allocation, Item
from fewbits.search.milp import solve
from fewbits.search.program import init
rng = np.random.default_rng(2)
harm, cost = rng.lognormal(0, 2, (200, 4)), rng.lognormal(0, 1, (200, 4))
items = [Item(str(n), dict(zip("abcd", harm[n].tolist()))) for n in range(200)]
costs = {str(n): dict(zip("abcd", cost[n].tolist())) for n in range(200)}
program = init(Allocation(items, [Additive("s", costs)]))
print(json.dumps([solve(program, {"s": float(s)}).ending for s in (150, 180, 210)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["optimal"] * 3
    assert not done.stderr
