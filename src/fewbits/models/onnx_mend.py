"""What runtimes forgive in a file and ONNX's own checks do not, put right in the copy that is worked on.

Nodes that are not in order, and ONNX Runtime's own operators without their operator set. The model as it was given
stays what is served if nothing better is found.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

import onnx

from fewbits.errors import ModelError

_KNOWN: Final = {"com.microsoft": 1}
"""Operator sets that runtimes bring along without being asked → their version."""


def mend(proto: onnx.ModelProto, name: str) -> bool:
    """Put `proto`, called `name`, right; whether there was anything to do. Raises ModelError if nodes form a cycle."""
    return any([_sort(proto.graph, name), _import(proto)])


def _import(proto: onnx.ModelProto) -> bool:
    used = {node.domain for node in _nodes(proto.graph)}
    own = {one.domain for one in proto.opset_import} | {function.domain for function in proto.functions}
    missing = sorted(domain for domain in used - own if domain in _KNOWN)
    proto.opset_import.extend(onnx.helper.make_opsetid(domain, _KNOWN[domain]) for domain in missing)
    return bool(missing)


def _sort(graph: onnx.GraphProto, name: str) -> bool:
    """The nodes of `graph` in an order in which each stands behind those that it reads, the given one as far as that
    goes."""
    given = [(output, place) for place, node in enumerate(graph.node) for output in node.output if output]
    giver = dict(given)
    if len(giver) < len(given):
        # A name that is given twice is told by the checks.
        return False
    needs = [{giver[one] for one in _reads(node) if one in giver} for node in graph.node]
    if all(place > max(needed, default=-1) for place, needed in enumerate(needs)):
        return False
    readers: dict[int, list[int]] = {}
    for place, needed in enumerate(needs):
        for one in needed:
            readers.setdefault(one, []).append(place)
    waits = [len(needed) for needed in needs]
    ready = [place for place, count in enumerate(waits) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers.get(order[-1], ()):
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(needs):
        raise ModelError(f"{name} has a cycle: {_cycle(graph, needs, set(order))}; export the model again")
    nodes = [graph.node[place] for place in order]
    copies = []
    for node in nodes:
        copies.append(onnx.NodeProto())
        copies[-1].CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _cycle(graph: onnx.GraphProto, needs: list[set[int]], sound: set[int]) -> str:
    """The nodes of a cycle among those that are not `sound`, each with what it gives to the next one."""
    place = next(one for one in range(len(needs)) if one not in sound)
    way: list[int] = []
    while place not in way:
        way.append(place)
        place = min(needs[place] - sound)
    # The way goes upstream.
    found = way[way.index(place) :][::-1]
    texts = [f"{graph.node[one].name or graph.node[one].op_type} gives {graph.node[one].output[0]}" for one in found]
    return ", ".join([*texts[:6], *(["..."] if len(texts) > 6 else [])]) + ", which the first of them reads"


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that `node` reads, those that its subgraphs read from outside of themselves among them."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            own = {value.name for value in inner.input} | {one.name for one in inner.initializer}
            own |= {output for child in inner.node for output in child.output}
            for child in inner.node:
                yield from (one for one in _reads(child) if one not in own)
            yield from (value.name for value in inner.output if value.name not in own)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
