"""Memory that branches keep: by hand, and against a count of every step by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.costs.counting import PeakMemory
from fewbits.costs.layers import layer_spec
from fewbits.costs.liveness import Peak, peak_memory
from fewbits.costs.model import Widths, total
from fewbits.errors import ModelError
from fewbits.graph import Graph, Kind, Tensor
from fewbits.grouping import group
from graphs import Sketch

SIDE = 8 * 4 * 4  # elements of every tensor of a `Sketch`


def eight(name: str) -> int:
    return 8


def test_a_chain_needs_what_its_widest_layer_reads_and_writes() -> None:
    sketch = Sketch()
    x = sketch.add(Kind.RELU, sketch.conv("x"))
    wide = sketch.add(Kind.CONV, x, sketch.constant(32, 8, 3, 3), shape=("batch", 32, 4, 4))
    graph = sketch.graph(sketch.add(Kind.CONV, wide, sketch.constant(8, 32, 3, 3)))
    groups = group(graph)
    layers = [(spec, Widths(8, 8, 8)) for spec in (layer_spec(graph, one) for one in groups)]
    assert peak_memory(graph, groups, eight) == Peak(5 * SIDE, wide.removesuffix(":0"))
    assert peak_memory(graph, groups, eight).bytes == total(PeakMemory(), layers)


def test_a_skip_connection_stays_alive() -> None:
    sketch = Sketch()
    skip = sketch.conv("x")
    y = sketch.conv(sketch.conv(skip))
    graph = sketch.graph(sketch.add(Kind.ADD, y, skip))
    assert peak_memory(graph, group(graph), eight).bytes == 3 * SIDE
    # The skip in 2 bits costs a quarter of its share.
    assert peak_memory(graph, group(graph), lambda name: 2 if name == skip else 8).bytes == 2.25 * SIDE


def test_a_reshape_takes_nothing() -> None:
    sketch = Sketch()
    y = sketch.conv("x")
    flat = sketch.add(Kind.RESHAPE, y, sketch.constant(2, dtype="int64"), shape=("batch", SIDE))
    graph = sketch.graph(sketch.add(Kind.SOFTMAX, flat, shape=("batch", SIDE)))
    assert peak_memory(graph, group(graph), eight).bytes == 2 * SIDE


def test_what_is_fused_is_never_written() -> None:
    sketch = Sketch()
    y = sketch.conv("x")
    graph = sketch.graph(sketch.add(Kind.RELU, y))
    assert peak_memory(graph, group(graph), lambda name: 64 if name == y else 8).bytes == 2 * SIDE


def test_an_unknown_shape_is_an_error() -> None:
    sketch = Sketch()
    y = sketch.conv("x")
    made = sketch.graph(y)
    blind = Graph(made.nodes, {**made.tensors, y: Tensor(y, "float32", None)}, made.inputs, made.outputs)
    with pytest.raises(ModelError, match=y):
        peak_memory(blind, group(made), eight)


@st.composite
def graphs_of_adds(draw: st.DrawFn) -> tuple[Graph, dict[str, int]]:
    """Any graph of additions and softmaxes, and bits for each of its tensors."""
    sketch = Sketch(("batch", 3))
    names = ["x", sketch.input("second")]
    for _ in range(draw(st.integers(1, 8))):
        operands = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
        names.append(sketch.add(Kind.ADD if len(operands) > 1 else Kind.SOFTMAX, *operands))
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return sketch.graph(*outputs), {name: draw(st.sampled_from([2, 4, 8])) for name in names}


@settings(max_examples=100, deadline=None)
@given(graphs_of_adds())
def test_every_step_counted_by_itself_gives_the_same(drawn: tuple[Graph, dict[str, int]]) -> None:
    graph, bits = drawn
    written = dict.fromkeys(graph.inputs, -1) | {node.outputs[0]: at for at, node in enumerate(graph.nodes)}

    def needed(name: str, step: int) -> bool:
        """Whether `name` is there in `step`: written by then, and written or read in it, or wanted behind it."""
        later = name in graph.outputs or any(name in node.inputs for node in graph.nodes[max(step, 0) :])
        return written[name] <= step and (written[name] == step or later)

    peak = max(
        sum(3 * bits[name] for name in written if needed(name, step)) / 8 for step in range(-1, len(graph.nodes))
    )
    assert peak_memory(graph, group(graph), bits.__getitem__).bytes == peak
