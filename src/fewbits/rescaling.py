"""Tensors between products whose channels may be scaled: what gives them divides, what reads them multiplies.

``relu(x / s) = relu(x) / s`` for s > 0, so with ``W2 diag(s)`` behind it the model computes what it did before (Nagel
et al., Data-Free Quantization, arXiv 1906.04721, section 4.1). A clip from above holds only as far as no channel is
stretched beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fewbits.graph import Graph, Kind
from fewbits.grouping import LAYERS, Group

_MATRICES: Final = frozenset({Kind.MATMUL, Kind.GEMM})


@dataclass(frozen=True, slots=True)
class Junction:
    """`tensor`, whose channels lie along `axis`; the product that gives it and those that read it, nobody else does.
    `clip` names the node between that clips it, "" where nothing or a Relu does."""

    tensor: str
    giver: Group
    readers: tuple[Group, ...]
    axis: int
    clip: str


def junctions(graph: Graph, groups: Sequence[Group]) -> tuple[Junction, ...]:
    """All of them, in graph order."""
    by_anchor = {made.name: made for made in groups if made.is_product and made.weight}
    found = []
    for giver in by_anchor.values():
        readers = [by_anchor.get(node.name) for node in graph.consumers.get(giver.output, ())]
        known = tuple(reader for reader in readers if reader is not None)
        if known and len(known) == len(readers) and _gives(graph, giver) and all(_fits(graph, giver, r) for r in known):
            last = graph.node[giver.nodes[-1]]
            clip = last.name if last.kind is Kind.CLIP else ""
            found.append(Junction(giver.output, giver, known, 1 if giver.kind is Kind.CONV else -1, clip))
    return tuple(found)


def _gives(graph: Graph, giver: Group) -> bool:
    """Whether the channels of what `giver` gives can be divided in its weight, and in its bias or batch norm."""
    tensor = giver.output
    return (
        giver.kind in LAYERS
        and giver.inner == tensor
        and tensor not in graph.outputs
        and tensor not in graph.pinned
        and (not giver.bias or graph.is_constant(giver.bias))
        and not graph.node[giver.name].attributes.get("transA", 0)
    )


def _fits(graph: Graph, giver: Group, reader: Group) -> bool:
    node = graph.node[reader.name]
    same = {reader.kind, giver.kind} <= _MATRICES or reader.kind is giver.kind is Kind.CONV
    return (
        same
        and node.inputs[0] == giver.output
        and node.inputs.count(giver.output) == 1
        and not node.attributes.get("transA", 0)
    )
