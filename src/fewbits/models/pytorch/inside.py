"""Sums that the kernel of a convolution computes along, where both are on codes (`fewbits.models.pytorch.fusing`)."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.eligibility import convolution_before, module_obstacle
from fewbits.formats.scheme import INT8_STATIC
from fewbits.graph import Graph, Kind, Node
from fewbits.grouping import CARRIERS, Group, group
from fewbits.models.protocol import Inside


def inside(graph: Graph) -> Mapping[str, Inside]:
    """Every sum of `graph` that may be in codes → the convolution that takes it along."""
    groups = {made.name: made for made in group(graph)}
    order = {name: place for place, name in enumerate(groups)}
    found = {}
    for made in groups.values():
        if made.kind is Kind.ADD and not module_obstacle(graph, made, INT8_STATIC):
            before = [name for tensor in made.operands if (name := convolution_before(graph, tensor))]
            # Where two stand before a sum, the first one takes it.
            product = groups[min(before, key=order.__getitem__)]
            found[made.name] = Inside(product, _reader(graph, groups, made))
    return found


def _reader(graph: Graph, groups: Mapping[str, Group], made: Group) -> tuple[Group, ...]:
    """A product that reads the sum `made`, if all that read it can read codes."""
    readers = _behind(graph, made.output)
    if not all(node.name in groups and _reads_codes(graph, groups[node.name]) for node in readers):
        return ()
    straight = [groups[node.name] for node in graph.consumers.get(made.output, ()) if node.name in groups]
    return tuple(one for one in straight if one.is_product)[:1]


def _behind(graph: Graph, tensor: str) -> list[Node]:
    """Who reads `tensor`, through what only moves numbers."""
    found: list[Node] = []
    for node in graph.consumers.get(tensor, ()):
        moves = node.kind in CARRIERS and node.kind is not Kind.MAX_POOL
        found += _behind(graph, node.outputs[0]) if moves else [node]
    return found


def _reads_codes(graph: Graph, made: Group) -> bool:
    if made.is_product and not made.weight:
        return False
    return (made.is_product or made.kind is Kind.ADD) and not module_obstacle(graph, made, INT8_STATIC)
