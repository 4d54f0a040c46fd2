"""Random graphs for laws: every kind that grouping and placement tell apart, wired at random."""

from __future__ import annotations

from hypothesis import strategies as st

from fewbits.graph import Graph, Kind
from graphs import Sketch

_UNARY = (
    Kind.RELU,
    Kind.HARD_SWISH,
    Kind.SIGMOID,
    Kind.SOFTMAX,
    Kind.GLOBAL_AVERAGE_POOL,
    Kind.MAX_POOL,
    Kind.TRANSPOSE,
    Kind.RESHAPE,
    Kind.SLICE,
)
_BINARY = (Kind.ADD, Kind.MUL, Kind.CONCAT, Kind.MATMUL)
_KINDS = (Kind.CONV, Kind.GEMM, Kind.BATCH_NORM, Kind.CLIP, *_UNARY, *_BINARY)


@st.composite
def graphs(draw: st.DrawFn, most: int = 14) -> Graph:
    """Up to `most` nodes over recent tensors; the unread ones, and perhaps others, are outputs; some are pinned."""
    net = Sketch((8, 8))
    tensors = ["x", net.input("z")]
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(_KINDS))
        first, second = (draw(st.sampled_from(tensors[-4:])) for _ in range(2))
        inputs: tuple[str, ...] = (first,)
        if kind in _BINARY:
            inputs = (first, draw(st.sampled_from([second, net.constant(8, 8), net.constant(8)])))
        elif kind in (Kind.CONV, Kind.GEMM):
            inputs = (first, net.constant(8, 8), *([net.constant(8)] if draw(st.booleans()) else []))
        elif kind is Kind.BATCH_NORM:
            inputs = (first, *(net.constant(8) for _ in range(4)))
        tensors.append(net.add(kind, *inputs))
    made = tensors[2:]
    read = {name for node in net.nodes for name in node.inputs}
    few = st.sets(st.sampled_from(made), max_size=2)
    outputs = {name for name in made if name not in read} | draw(few)
    return net.graph(*sorted(outputs), pinned=draw(few) if draw(st.booleans()) else ())
