"""Which group each executed node belongs to, from names alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fewbits.graph import Graph
from fewbits.grouping import Group
from fewbits.targets.protocol import Executed

# Behind the name of a tensor or node, for what conversion puts around it (models/onnx_quantize, onnx_lower).
_BOUNDARIES = (".quantize", ".dequantize", ".dequantize.channels", ".to_rows", ".to_back")


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
    owner = _owners(graph, groups)
    readers = {name: group.name for group in reversed(groups) for name in group.operands}
    shares: dict[str, Share] = {}
    for node in executed:
        name = _group_of(node, owner, readers)
        if not name:
            continue
        so_far = shares.get(name, Share("", "", 0.0))
        # The slowest computing node is the anchor; boundaries only add their time.
        is_anchor = node.precision != "boundary" and (not so_far.kernel or node.seconds > so_far.seconds)
        shares[name] = Share(
            node.kernel if is_anchor else so_far.kernel,
            node.precision if is_anchor else so_far.precision,
            so_far.seconds + node.seconds,
        )
    return shares


def _owners(graph: Graph, groups: Sequence[Group]) -> dict[str, str]:
    owner: dict[str, str] = {}
    for group in groups:
        for name in group.nodes:
            owner[name] = group.name
            owner.update(dict.fromkeys(graph.node[name].outputs, group.name))
    return owner


def _group_of(node: Executed, owner: Mapping[str, str], readers: Mapping[str, str]) -> str:
    for name in (node.name, *node.outputs):
        if name in owner:
            return owner[name]
        for ending in _BOUNDARIES:
            if name.endswith(ending):
                # "tensor.uint8.quantize", "tensor.to_rows", "node.to_back"
                base = name.removesuffix(ending)
                stem = base.rpartition(".")[0]
                for known in (base, stem, stem.removesuffix(".rows")):
                    if known in readers and ending != ".to_back":
                        return readers[known]
                    if known in owner:
                        return owner[known]
        stem = name.removesuffix(".codes").removesuffix(".product")
        if stem in owner:
            return owner[stem]
    return ""
