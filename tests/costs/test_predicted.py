"""Costs by a model: the model's own figures, and no scheme that could only lose."""

from __future__ import annotations

from itertools import product

import pytest

from builders import residual
from fewbits.costs.counting import BitOperations, Size
from fewbits.costs.layers import layer_spec
from fewbits.costs.model import CostModel
from fewbits.costs.mpic import Mpic
from fewbits.costs.predicted import PREDICTED, predicted, widths
from fewbits.costs.roofline import Roofline
from fewbits.costs.table import CostTable
from fewbits.formats.floating import FP32 as FLOAT
from fewbits.formats.scheme import FP32, INT8_STATIC, Scheme, integers
from fewbits.grouping import group
from fewbits.models import open_model

GRAPH = open_model(residual()).graph
GROUPS = group(GRAPH)
PAIRS = {(w, a): integers(w, a) for w, a in product((8, 4, 2), repeat=2)}
ALL = {one.name: (FP32, *PAIRS.values()) for one in GROUPS}
FIRST = next(one for one in GROUPS if one.is_product)


def table(model: CostModel) -> CostTable:
    return predicted(model, "simulated:test", GRAPH, GROUPS, ALL)


def kept(model: CostModel) -> set[tuple[int, int]]:
    usable = table(model).usable(FIRST.name)
    return {pair for pair, scheme in PAIRS.items() if str(scheme) in usable}


@pytest.mark.parametrize("model", [Mpic(), Size(), BitOperations(), Roofline(6.4e13, 2e10)])
def test_a_cost_is_what_the_model_says_and_nothing_for_conversions(model: CostModel) -> None:
    found = table(model)
    for one in GROUPS:
        if one.is_product:
            layer = layer_spec(GRAPH, one)
            for scheme, cost in found.usable(one.name).items():
                asked = widths(Scheme.parse(scheme))
                assert cost.total == cost.compute == model.cost(layer, asked.w, asked.a, asked.o)
                assert cost.precision == PREDICTED


def test_joints_are_not_counted() -> None:
    assert table(BitOperations()).costs.keys() == {one.name for one in GROUPS if one.is_product}


def test_fp32_has_a_cost_where_the_model_knows_one() -> None:
    assert widths(FP32).w == FLOAT
    assert widths(INT8_STATIC) == widths(integers(8, 8))
    assert str(FP32) in table(BitOperations()).usable(FIRST.name)
    assert "no cost" in table(Mpic()).costs[FIRST.name][str(FP32)].refusal


def test_what_costs_no_less_with_fewer_bits_is_left_out() -> None:
    # The size does not depend on activations, bit operations on every bit; MPIC takes 8 by 8 bits as fast as weights
    # of 8 with activations of 4 (2.1 products in a cycle; arXiv 2010.04073).
    assert kept(Size()) == {(8, 8), (4, 8), (2, 8)}
    assert kept(BitOperations()) == set(PAIRS) - {pair for pair in PAIRS if _product_beaten(pair)}
    assert kept(Mpic()) == set(PAIRS) - {(8, 4)}
    refusal = table(Mpic()).costs[FIRST.name][str(PAIRS[8, 4])].refusal
    assert refusal == f"it costs no less than {PAIRS[8, 8]}, which has more bits"


def _product_beaten(pair: tuple[int, int]) -> bool:
    w, a = pair
    return any(x >= w and y >= a and x * y <= w * a and (x, y) != pair for x, y in PAIRS)
