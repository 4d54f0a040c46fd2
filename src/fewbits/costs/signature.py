"""What makes two groups the same to a runtime: operators, attributes and shapes, not names or values."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.graph import Graph
from fewbits.grouping import Group, has_constant_first

Shapes = Mapping[str, tuple[int, ...]]


def signature(graph: Graph, group: Group, shapes: Shapes) -> str:
    """Attributes of the anchor and shapes of its operands, weight and bias; `shapes` has those of one call."""
    anchor = graph.node[group.name]
    attributes = ",".join(f"{name}={_plain(value)}" for name, value in sorted(anchor.attributes.items()))
    operands = ",".join("x".join(map(str, shapes[name])) for name in group.operands)
    weight = graph.tensors.get(group.weight or group.constant)
    stored = "x".join(map(str, weight.shape or ())) if weight is not None else "-"
    stored += " first" if has_constant_first(graph, group) else ""
    return f"a:{operands} w:{stored} b:{int(bool(group.bias))} {attributes}".rstrip()


def fused(graph: Graph, group: Group) -> str:
    """The operators that are fused behind the anchor, as one text."""
    return "+".join(graph.node[name].op for name in group.nodes[1:])


def _plain(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
