from __future__ import annotations

import pytest

from fewbits.costs.edges import Edge, Neighbours, domain, neighbours
from fewbits.formats.scheme import BF16, FP16, FP32, INT4_BLOCKS, INT8_DYNAMIC, INT8_PAIR, INT8_STATIC, INT8_WEIGHT
from fewbits.graph import Kind
from fewbits.grouping import attentions, group
from graphs import Sketch


def found(sketch: Sketch, *outputs: str) -> Neighbours:
    graph = sketch.graph(*outputs)
    return neighbours(graph, group(graph))


def test_a_chain_has_an_edge_between_neighbours() -> None:
    sketch = Sketch()
    first = sketch.conv("x")
    second = sketch.conv(first)
    result = found(sketch, second)
    assert result.edges == (Edge("conv_0", "conv_1", 1),)
    assert result.entries == {"conv_0": 1, "conv_1": 0}
    assert result.exits == {"conv_1"}


def test_what_is_fused_behind_belongs_to_the_group() -> None:
    sketch = Sketch()
    x = sketch.add(Kind.RELU, sketch.norm(sketch.conv("x")))
    result = found(sketch, sketch.conv(x))
    assert [(edge.first, edge.second) for edge in result.edges] == [("conv_0", "conv_3")]
    assert result.exits == {"conv_3"}


def test_carriers_are_looked_through() -> None:
    """A tensor is converted before or behind a pool or a reshape, but once."""
    sketch = Sketch()
    x = sketch.add(Kind.MAX_POOL, sketch.conv("x"))
    y = sketch.conv(sketch.add(Kind.TRANSPOSE, x))
    result = found(sketch, y)
    assert result.edges == (Edge("conv_0", "conv_3", 1),)
    assert result.exits == {"conv_3"}


def test_readers_of_one_tensor_share_its_conversion() -> None:
    sketch = Sketch()
    x = sketch.conv("x")
    left, right = sketch.conv(x), sketch.conv(x)
    joined = sketch.add(Kind.ADD, left, right)
    result = found(sketch, sketch.conv(joined))
    assert set(result.edges) == {
        Edge("conv_0", "conv_1", 2),
        Edge("conv_0", "conv_2", 2),
        Edge("conv_1", "add_3", 1),
        Edge("conv_2", "add_3", 1),
        Edge("add_3", "conv_4", 1),
    }


def test_readers_of_one_input_pay_a_half_each() -> None:
    sketch = Sketch()
    joined = sketch.add(Kind.ADD, sketch.conv("x"), sketch.conv("x"))
    result = found(sketch, sketch.conv(joined))
    assert result.entries["conv_0"] == result.entries["conv_1"] == 0.5


def test_a_group_that_reads_one_tensor_twice_reads_it_once() -> None:
    sketch = Sketch()
    x = sketch.conv("x")
    result = found(sketch, sketch.conv(sketch.add(Kind.MUL, x, x)))
    assert Edge("conv_0", "mul_1", 1) in result.edges


def test_what_somebody_else_reads_leaves_the_scheme() -> None:
    """A group's result goes to a group and to a Softmax: it must be there as floats, too."""
    sketch = Sketch()
    x = sketch.conv("x")
    y = sketch.add(Kind.SOFTMAX, x)
    result = found(sketch, sketch.conv(x), y)
    assert result.exits == {"conv_0", "conv_2"}
    assert result.edges == (Edge("conv_0", "conv_2", 1),)


def test_behind_a_carrier_that_only_groups_read_nothing_leaves() -> None:
    sketch = Sketch()
    carried = sketch.add(Kind.RESHAPE, sketch.conv("x"))
    result = found(sketch, sketch.conv(carried))
    assert result.exits == {"conv_2"}


@pytest.mark.parametrize("pinned", [False, True])
def test_what_a_subgraph_reads_leaves_the_scheme(pinned: bool) -> None:
    sketch = Sketch()
    x = sketch.conv("x")
    graph = sketch.graph(sketch.conv(x), pinned=[x] if pinned else [])
    assert ("conv_0" in neighbours(graph, group(graph)).exits) == pinned


def test_a_product_of_two_activations_has_an_edge_for_each() -> None:
    sketch = Sketch(("batch", 5, 4))
    left, right = sketch.matmul("x", columns=5, shape=("batch", 5, 5)), sketch.matmul("x")
    product = sketch.add(Kind.MATMUL, left, right, shape=("batch", 5, 6))
    result = found(sketch, product)
    assert {edge.second for edge in result.edges} == {"matmul_2"}
    assert len(result.edges) == 2
    assert result.entries["matmul_2"] == 0


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (FP32, "float"),
        (INT8_STATIC, "codes"),
        (INT8_PAIR, "codes"),
        (INT8_DYNAMIC, "float"),
        (INT8_WEIGHT, "float"),
        (INT4_BLOCKS, "float"),
        (BF16, "bf16"),
        (FP16, "fp16"),
    ],
)
def test_what_each_scheme_reads_and_gives(scheme: object, expected: str) -> None:
    """Ranges found at every call, and weights alone in codes, have floats on both sides."""
    assert domain(scheme) == expected  # type: ignore[arg-type]


def test_an_attention_hands_over_inside() -> None:
    sketch = Sketch()
    scores = sketch.add(Kind.MATMUL, "q", "k")
    mixed = sketch.add(Kind.MATMUL, sketch.add(Kind.SOFTMAX, sketch.add(Kind.MUL, scores, sketch.constant(1))), "v")
    graph = sketch.graph(mixed)
    groups = group(graph)
    (pair,) = attentions(graph, groups)
    apart, together = neighbours(graph, groups), neighbours(graph, groups, [pair])
    first, second = pair
    assert first in apart.exits and first not in together.exits
    assert not [edge for edge in apart.edges if edge.second == second]
    assert Edge(first, second, 1) in together.edges
    assert (apart.entries[second], together.entries[second]) == (2, 1)
