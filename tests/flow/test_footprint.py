"""Predicted memory against a count of every step of the graph by itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random

import pytest

import builders
from fewbits.costs.correction import Correction
from fewbits.costs.liveness import peak_memory
from fewbits.flow.allocating import MEMORY, Costing, aim_of
from fewbits.flow.job import Job
from fewbits.formats.scheme import FP32, Scheme
from fewbits.search.milp import solve
from fewbits.search.program import init
from fewbits.verify.acceptance import Objective
from jobs import job, opened, site

FLOAT_BITS = 32
BATCH = 3


def costing(name: str, folder: Path, batch: int = 1) -> tuple[Costing, Job]:
    case = builders.CASES[name]
    one = job(opened(case.model(0), case.inputs(70, 0), objective=Objective.MEMORY, batch=batch), folder)
    return Costing(one, site(one)), one


def given_bits(scheme: Scheme) -> int:
    """Bits of what a group gives that computes in `scheme`."""
    if scheme.is_static:
        return 8
    return 16 if scheme.is_cast else FLOAT_BITS


def _or_float(bits: Mapping[str, int], tensor: str) -> int:
    return bits.get(tensor, FLOAT_BITS)


@pytest.mark.parametrize("name", ["residual", "concat", "squeeze_excite"])
def test_whatever_is_chosen_it_is_the_worst_step_by_the_count_of_lives(name: str, tmp_path: Path) -> None:
    """Steps are left out that are never the worst; weights are in all of them, activations are those of the batch."""
    costs, one = costing(name, tmp_path, BATCH)
    memory, weights = costs.memory(), costs.bytes()
    outputs = {group.output: group.name for group in one.groups if group.name in costs.names}
    random = Random(3)
    for _ in range(60):
        choice = {name: random.choice(options) for name, options in costs.options.items()}

        bits = {tensor: given_bits(Scheme.parse(choice[group])) for tensor, group in outputs.items()}
        alive = peak_memory(one.graph, one.groups, partial(_or_float, bits)).bytes * BATCH
        assert memory.value(choice) == pytest.approx(weights.value(choice) + alive)


def test_the_least_memory_is_found_by_the_solver(tmp_path: Path) -> None:
    costs, one = costing("residual", tmp_path)
    allocation = costs.allocation({}, Correction())
    assert aim_of(one) == MEMORY
    found = solve(init(allocation), aim=MEMORY).choice
    random = Random(4)
    tried = [{name: random.choice(options) for name, options in costs.options.items()} for _ in range(200)]
    assert all(allocation.values(found)[MEMORY] <= allocation.values(one)[MEMORY] * (1 + 1e-9) for one in tried)
    floats = dict.fromkeys(costs.names, str(FP32))
    assert allocation.values(found)[MEMORY] < allocation.values(floats)[MEMORY]


def test_memory_is_no_row_of_the_problem_where_it_does_not_count(tmp_path: Path) -> None:
    case = builders.CASES["residual"]
    one = job(opened(case.model(0), case.inputs(70, 0)), tmp_path)
    assert MEMORY not in Costing(one, site(one)).allocation({}, Correction()).names
