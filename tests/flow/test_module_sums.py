"""Sums of a PyTorch module that a convolution takes along, in the search: low where costs say so, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from fewbits.costs.correction import Correction
from fewbits.costs.key import RegionCost
from fewbits.costs.table import Along, CostTable
from fewbits.flow.allocating import Costing
from fewbits.flow.job import Job
from fewbits.flow.placing import PREDICTED, starts
from fewbits.flow.site import Site
from fewbits.formats.scheme import INT8_STATIC
from fewbits.graph import Kind
from jobs import job, opened, site
from torch_nets import Sums

INT8 = str(INT8_STATIC)
CONVOLUTION, LOW_CONVOLUTION, SUM, IN_FLOATS, ENTRY = 10.0, 4.0, 3.0, 2.0, 0.5


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Job:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    return job(opened(Sums().eval(), {"x": x}, target="torch:cpu"), tmp_path_factory.mktemp("job"))


def costly(one: Job, codes: float) -> Site:
    """The site with made-up costs: a sum in codes takes `codes` seconds inside its convolution. The last one, whose
    reader takes floats, is refused."""

    def cost(name: str, scheme: str, *, is_sum: bool) -> RegionCost:
        if scheme not in ("fp32", INT8) or (name, scheme) == ("add_2", INT8):
            return RegionCost(0.0, 0.0, 0.0, "", "", "not here", "")
        if scheme == "fp32":
            return RegionCost(0.0, SUM if is_sum else CONVOLUTION, 0.0, "", "fp32", "", "")
        exits = max(0.0, IN_FLOATS - codes) if is_sum else 0.0
        return RegionCost(ENTRY, codes if is_sum else LOW_CONVOLUTION, exits, "", "int8", "", "")

    here = site(one)
    kinds = {made.name: made.kind for made in one.groups}
    costs = {
        name: {str(scheme): cost(name, str(scheme), is_sum=kinds[name] is Kind.ADD) for scheme in schemes}
        for name, schemes in here.space.schemes.items()
    }
    refused = {
        name: [scheme for scheme in schemes if costs[name][str(scheme)].refusal]
        for name, schemes in here.space.schemes.items()
    }
    space = replace(
        here.space,
        schemes={
            name: tuple(scheme for scheme in schemes if scheme not in refused[name])
            for name, schemes in here.space.schemes.items()
        },
    )
    along = {"add": Along("second.0", IN_FLOATS), "add_1": Along("second.1", IN_FLOATS)}
    return replace(here, space=space, costs=CostTable("torch:cpu", costs, along=along))


def low(one: Job, codes: float) -> set[str]:
    return {*starts(one, costly(one, codes))[PREDICTED]}


def test_sums_are_low_where_their_costs_say_so(one: Job) -> None:
    convolutions = {made.name for made in one.groups if made.is_product}
    assert low(one, 1.0) == convolutions | {"add", "add_1"}
    # In floats a sum costs less, but those who read it then make codes: half an entry each, as two read it.
    assert low(one, IN_FLOATS + 0.1 * ENTRY) == convolutions | {"add", "add_1"}
    assert low(one, 9.0) == convolutions


@pytest.mark.parametrize("codes", [1.0, 9.0])
def test_what_a_sum_costs_depends_on_the_convolution_before_it(one: Job, codes: float) -> None:
    costing = Costing(one, costly(one, codes))
    seconds = costing.seconds(Correction())

    def arithmetic(before: str, option: str) -> float:
        choice = dict.fromkeys(costing.names, "fp32") | {"second.0": before, "add": option}
        parts = costing.parts(choice, 0.0).predicted
        assert sum(parts.values()) == pytest.approx(seconds.value(choice))
        return sum(parts.values()) - parts["conversions"]

    convolutions = sum(made.is_product for made in one.groups)
    # The last sum is no choice.
    rest = (convolutions - 1) * CONVOLUTION + SUM
    found = {pair: arithmetic(*pair) - rest for pair in product(("fp32", INT8), repeat=2)}
    assert found == pytest.approx(
        {
            ("fp32", "fp32"): CONVOLUTION + SUM,
            (INT8, "fp32"): LOW_CONVOLUTION + IN_FLOATS,
            (INT8, INT8): LOW_CONVOLUTION + codes,
            # Nobody takes it along, so it adds floats.
            ("fp32", INT8): CONVOLUTION + SUM,
        }
    )


def test_a_correction_scales_what_is_taken_along(one: Job) -> None:
    costing = Costing(one, costly(one, 1.0))
    factors = {"fp32": 0.5, "codes": 2.0, "conversions": 3.0}
    seconds = costing.seconds(Correction(factors))
    for before, option in product(("fp32", INT8), repeat=2):
        choice = dict.fromkeys(costing.names, "fp32") | {"second.0": before, "add": option}
        parts = costing.parts(choice, 0.0).predicted
        assert seconds.value(choice) == pytest.approx(sum(factors[name] * part for name, part in parts.items()))
