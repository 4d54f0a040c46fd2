"""Which input says what is padding: found by what the graph does with it, not by its name.

Such an input is of whole numbers or truth values, one for each position; what is made of it is added to the scores of a
Softmax, or decides which of them stay, and nothing looks up rows by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fewbits.graph import Graph, Kind, Node

_TYPES: Final = ("int64", "int32", "bool")
_RANK: Final = 2
_PLAIN: Final = frozenset({Kind.RESHAPE, Kind.TRANSPOSE, Kind.SLICE, Kind.ADD, Kind.MUL, Kind.CONCAT})
_PLAIN_OPS: Final = frozenset(
    {"Cast", "Expand", "Tile", "Identity", "Sub", "Neg", "Where", "Not", "And", "Or", "Equal", "Less", "Greater"}
    | {"GreaterOrEqual", "LessOrEqual", "Min", "Max"}
)
"""What makes a mask for scores out of one for positions, and what joins it with the scores."""
_LOOK_UPS: Final = ("Gather", "GatherND", "GatherElements")


def padding_mask(graph: Graph) -> str:
    """The input, of shape (samples, positions), that may say which positions are padding; "" if none or several may."""
    found = [name for name in graph.inputs if _is_one_per_position(graph, name) and _meets_scores(graph, name)]
    return found[0] if len(found) == 1 else ""


def _is_one_per_position(graph: Graph, name: str) -> bool:
    tensor = graph.tensors.get(name)
    return tensor is not None and tensor.dtype in _TYPES and tensor.shape is not None and len(tensor.shape) == _RANK


def _meets_scores(graph: Graph, name: str) -> bool:
    read = list(_read(graph, name))
    by_place = any(node.op in _LOOK_UPS and node.inputs[1] == tensor for node, tensor in read)
    return not by_place and any(node.kind is Kind.SOFTMAX for node, _ in read)


def _read(graph: Graph, name: str) -> Iterator[tuple[Node, str]]:
    """The nodes that read `name`, or what is made of it in plain steps, each with what it reads."""
    seen, waiting = {name}, [name]
    while waiting:
        tensor = waiting.pop()
        for node in graph.consumers.get(tensor, ()):
            yield node, tensor
            if node.kind in _PLAIN or node.op in _PLAIN_OPS or node.op in _LOOK_UPS:
                fresh = [output for output in node.outputs if output and output not in seen]
                seen.update(fresh)
                waiting += fresh
