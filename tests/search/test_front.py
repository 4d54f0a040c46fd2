from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations import allocations, every_choice, network
from fewbits.errors import UsageError
from fewbits.search.allocation import HARM, Additive, Allocation, Item, within
from fewbits.search.front import FrontEnding, trace
from fewbits.search.milp import solve
from fewbits.search.program import init

DUST = 4e-9
"""Relative: limits forgive 1e-9, and a point of the front stands for what differs by so little."""


def check_front(solutions, resource="seconds"):
    for fast, safe in pairwise(solutions):
        assert fast.costs[resource] < safe.costs[resource]
        assert fast.harm > safe.harm


@settings(max_examples=30, deadline=None)
@given(allocations(), st.sampled_from(["seconds", "ram"]))
def test_no_choice_beats_a_point_and_the_ends_are_the_optima(allocation, resource):
    """Of a sum and of a peak."""
    every = [allocation.values(choice) for choice in every_choice(allocation)]
    limits = {"bytes": max(one["bytes"] for one in every) * 0.7 + 1e-9}
    front = trace(init(allocation), resource, points=8, limits=limits, gap=0.0)
    allowed = [one for one in every if within(one["bytes"], limits["bytes"])]
    if not allowed:
        assert front.ending is FrontEnding.INFEASIBLE and not front.solutions
        assert front.least["bytes"].alone > limits["bytes"]
        return
    assert 1 <= len(front.solutions) <= 8
    check_front(front.solutions, resource)
    for point in (solution.values for solution in front.solutions):
        for first, second in ((HARM, resource), (resource, HARM)):
            best = min(one[first] for one in allowed if one[second] <= point[second])
            assert point[first] <= best + DUST * abs(best) + 1e-15
    fast, safe = front.solutions[0], front.solutions[-1]
    assert fast.costs[resource] == pytest.approx(min(one[resource] for one in allowed), rel=DUST, abs=1e-15)
    assert safe.harm == pytest.approx(min(one[HARM] for one in allowed), rel=DUST, abs=1e-15)


def test_a_small_front_is_found_whole():
    items = [Item(name, {"fp32": 0.0, "int8": harm}) for name, harm in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    costs = {item.name: {"fp32": 2.0, "int8": 1.0} for item in items}
    front = trace(init(Allocation(items, [Additive("seconds", costs)])), "seconds")
    assert [(one.costs["seconds"], one.harm) for one in front.solutions] == [
        (3.0, 7.0),
        (4.0, 3.0),
        (5.0, 1.0),
        (6.0, 0.0),
    ]
    assert front.ending is FrontEnding.NO_MORE


def test_the_front_of_a_network():
    allocation = network(seed=4, groups=40, extra=10)
    program = init(allocation)
    front = trace(program, "seconds", points=12)
    assert front.ending is FrontEnding.ENOUGH and len(front.solutions) == 12
    check_front(front.solutions)
    fast, safe = front.solutions[0], front.solutions[-1]
    assert fast.costs["seconds"] == pytest.approx(solve(program, aim="seconds").aim, rel=1e-9)
    assert safe.harm == 0.0
    assert safe.costs["seconds"] == pytest.approx(solve(program, {HARM: 0.0}, aim="seconds").aim, rel=1e-9)
    # Spread: no step takes more than a quarter of the way.
    whole = safe.costs["seconds"] - fast.costs["seconds"]
    assert all(b.costs["seconds"] - a.costs["seconds"] <= whole / 4 for a, b in pairwise(front.solutions))
    for solution in front.solutions:
        best = solve(program, {"seconds": solution.costs["seconds"]})
        assert solution.harm <= best.harm * 1.002


def test_the_same_input_gives_the_same_front():
    one, other = (trace(init(network(seed=5, groups=30)), "seconds", points=6) for _ in range(2))
    assert one == other and len(one.solutions) == 6


def test_no_time_gives_what_was_found():
    front = trace(init(network(seed=4, groups=80)), "seconds", seconds=0.0)
    assert front.ending is FrontEnding.TIME_OUT
    assert "allow more seconds" in front.ending.advice


def test_what_cannot_be_asked():
    program = init(network(seed=0, groups=10))
    with pytest.raises(UsageError, match="no resource; there are 'seconds'"):
        trace(program, HARM)
    with pytest.raises(UsageError, match="2 points or more"):
        trace(program, "seconds", points=1)


@pytest.mark.parametrize("seed", range(2))
def test_no_more_means_the_whole_front(seed):
    """By trying all choices: most points of so small a network minimise no weighted sum, and none is left out."""
    allocation = network(seed=seed, groups=5)
    true = []
    for one in sorted(map(allocation.values, every_choice(allocation)), key=lambda one: (one["seconds"], one[HARM])):
        if not true or not within(true[-1][HARM], one[HARM]):
            true.append(one)
    front = trace(init(allocation), "seconds", points=1000, gap=0.0)
    assert front.ending is FrontEnding.NO_MORE
    assert len(true) > 20
    assert [one.costs["seconds"] for one in front.solutions] == pytest.approx([one["seconds"] for one in true])
    assert [one.harm for one in front.solutions] == pytest.approx([one[HARM] for one in true])
