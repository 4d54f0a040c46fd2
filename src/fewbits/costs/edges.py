"""Which groups hand tensors to each other, so that a conversion stands between them where their schemes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewbits.formats.scheme import Scheme
from fewbits.graph import Graph
from fewbits.grouping import CARRIERS, Group
from fewbits.placement import origin


@dataclass(frozen=True, slots=True)
class Edge:
    """`first` gives what `second` reads, straight or through carriers; `readers` groups read the same tensor, whose
    conversion they share."""

    first: str
    second: str
    readers: int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """`edges` between groups. `entries`: group → how many conversions of tensors that no group gives it pays for
    (a half, if two groups read one). `exits`: the groups whose result somebody reads who is no group."""

    edges: tuple[Edge, ...]
    entries: Mapping[str, float]
    exits: frozenset[str]


def neighbours(graph: Graph, groups: Sequence[Group], attentions: Sequence[tuple[str, str]] = ()) -> Neighbours:
    """The neighbours of all `groups`; those of `attentions` (`grouping.attentions`) hand over inside one kernel."""
    givers = {tensor: group.name for group in groups for tensor in (group.inner, group.output)}
    sources = {group.name: tuple(dict.fromkeys(origin(graph, name) for name in group.operands)) for group in groups}
    outputs = {group.name: group.output for group in groups}
    for first, second in attentions:
        sources[second] = (outputs[first], *sources[second][1:])
    readers: dict[str, int] = {}
    for tensors in sources.values():
        for tensor in tensors:
            readers[tensor] = readers.get(tensor, 0) + 1
    edges = tuple(
        Edge(givers[tensor], name, readers[tensor])
        for name, tensors in sources.items()
        for tensor in tensors
        if tensor in givers
    )
    entries = {
        name: sum(1 / readers[tensor] for tensor in tensors if tensor not in givers)
        for name, tensors in sources.items()
    }
    anchors = {node: group.name for group in groups for node in group.nodes}
    inside = {first for first, _ in attentions}
    exits = frozenset(
        group.name for group in groups if group.name not in inside and _is_read_by_others(graph, group.output, anchors)
    )
    return Neighbours(edges, entries, exits)


def _is_read_by_others(graph: Graph, tensor: str, anchors: Mapping[str, str]) -> bool:
    if tensor in graph.outputs or tensor in graph.pinned:
        return True
    return any(
        _is_read_by_others(graph, node.outputs[0], anchors) if node.kind in CARRIERS else node.name not in anchors
        for node in graph.consumers.get(tensor, ())
    )


def domain(scheme: Scheme) -> str:
    """What a group in `scheme` gives and takes: within one domain nothing is converted."""
    if scheme.is_static:
        return "codes"
    return str(scheme) if scheme.is_cast else "float"
