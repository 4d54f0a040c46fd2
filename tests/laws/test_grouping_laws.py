"""Laws of grouping, over random graphs and every structure of the builders."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings

import builders
from fewbits.graph import Graph
from fewbits.grouping import PRODUCTS, group, tied
from fewbits.models import open_model
from random_graphs import graphs


def check(graph: Graph) -> None:
    groups = group(graph)
    assert max(Counter(name for one in groups for name in one.nodes).values(), default=0) <= 1
    assert {node.name for node in graph.nodes if node.kind in PRODUCTS} <= {one.name for one in groups}
    for one in groups:
        nodes = [graph.node[name] for name in one.nodes]
        assert nodes[0].name == one.name and nodes[0].kind is one.kind
        # Only what nobody else reads is inside: a chain without a branch, an output or a pinned tensor.
        for before, after in pairwise(nodes):
            assert graph.only_consumer(before.outputs[0]) is after
        assert set(one.operands) <= set(nodes[0].inputs)
        assert not any(graph.is_constant(name) for name in one.operands)
        assert one.output == nodes[-1].outputs[0]
        assert one.inner in {node.outputs[0] for node in nodes[-2:]}
        assert all(not name or graph.is_constant(name) for name in (one.weight, one.bias))
    classes = tied(graph, groups)
    assert max(Counter(name for members in classes for name in members).values(), default=0) <= 1
    assert all(len(members) > 1 for members in classes)


@settings(max_examples=300)
@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    check(graph)


@pytest.mark.parametrize("name", builders.CASES)
def test_real_graphs(name: str) -> None:
    check(open_model(builders.CASES[name].model(0)).graph)
