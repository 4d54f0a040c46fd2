"""Which group each executed node belongs to, from names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fewbits.graph import Graph, Kind, Node
from fewbits.grouping import CARRIERS, Group
from fewbits.targets.protocol import Executed

# What conversion puts before a reader of "tensor" has the name of the tensor and one of these behind a dot;
# everything else that it adds has the name of the node or tensor that it belongs to, and something behind a dot.
_BEFORE_READER = re.compile(
    r"(smoothed\.)?(rows\.)?((u?int[0-9]+r?|b?float16)\.(de)?quantize(\.channels)?|to_rows)|smooth(ed)?|scaled"
)


_PRODUCT = re.compile(r"Conv(?!ert)|Gemm|MatMul|FullyConnected")
"""Kernels that multiply and accumulate, by the names that runtimes give them."""


@dataclass(frozen=True, slots=True)
class Share:
    """What ran for one group: the kernel and precision of its anchor, and the seconds of all its nodes."""

    kernel: str
    precision: str
    seconds: float


def attribute(graph: Graph, groups: Sequence[Group], executed: Iterable[Executed]) -> Mapping[str, Share]:
    """Group name → its share of `executed`. Nodes that no name ties to a group are left out.

    A quantiser counts for the first group that reads its tensor: without that group it would not be there.
    """
    return {name: share(name, nodes) for name, nodes in assigned(graph, groups, executed).items()}


def assigned(graph: Graph, groups: Sequence[Group], executed: Iterable[Executed]) -> Mapping[str, Sequence[Executed]]:
    """Group name → its nodes among `executed`, in the order in which they ran."""
    owner, readers = _owners(graph, groups), _readers(graph, groups)
    ran: dict[str, list[Executed]] = {}
    for node in executed:
        name = _group_of(node, graph, owner, readers)
        if name:
            ran.setdefault(name, []).append(node)
    return ran


def share(anchor: str, nodes: Sequence[Executed]) -> Share:
    """What the nodes of the group `anchor` come to."""
    # Boundaries only add their time. A fused node has the name of the anchor or of what was fused
    # behind it; then a product computes, whatever the clock says of small ones, else the slowest does.
    computing = [node for node in nodes if node.precision != "boundary"]
    named = [node for node in computing if node.name == anchor] or computing
    products = [node for node in named if _PRODUCT.search(node.kernel)]
    main = max(products or named, key=lambda node: node.seconds, default=None)
    seconds = sum(node.seconds for node in nodes)
    return Share("", "", seconds) if main is None else Share(main.kernel, main.precision, seconds)


def _owners(graph: Graph, groups: Sequence[Group]) -> dict[str, str]:
    """Node and tensor names → the group that they belong to."""
    owner: dict[str, str] = {}
    for group in groups:
        for name in group.nodes:
            owner.update(dict.fromkeys(_names(graph.node[name]), group.name))
    products = {group.name for group in groups if group.is_product}
    for node in graph.nodes:
        source = _scaled(graph, node)
        # A runtime folds a constant factor or term into the product before it, under the later name.
        if node.name not in owner and owner.get(source) in products and graph.only_consumer(source) is node:
            owner.update(dict.fromkeys(_names(node), owner[source]))
    return owner


def _names(node: Node) -> tuple[str, ...]:
    return (node.name, *(output for output in node.outputs if output))


def _scaled(graph: Graph, node: Node) -> str:
    """The tensor that `node` scales or shifts by constants, ``""`` if it does something else."""
    activations = [name for name in node.inputs if not graph.is_constant(name)]
    is_affine = node.kind in (Kind.MUL, Kind.ADD, Kind.BATCH_NORM) and len(activations) == 1
    return activations[0] if is_affine else ""


def _readers(graph: Graph, groups: Sequence[Group]) -> dict[str, str]:
    """Tensors → the first group that reads them, through carriers too."""
    readers = {name: group.name for group in reversed(groups) for name in group.operands}
    for node in reversed(graph.nodes):
        if node.kind in CARRIERS and node.outputs[0] in readers:
            readers.setdefault(node.inputs[0], readers[node.outputs[0]])
    return readers


def _group_of(node: Executed, graph: Graph, owner: Mapping[str, str], readers: Mapping[str, str]) -> str:
    for name in (node.name, *node.outputs):
        if name in owner:
            return owner[name]
        if name in graph.node or name in graph.tensors:
            continue
        base = name
        while "." in base:
            base = base.rpartition(".")[0]
            reads = _BEFORE_READER.fullmatch(name[len(base) + 1 :])
            found = (readers.get(base, "") if reads else "") or owner.get(base, "")
            if found:
                return found
    return ""
