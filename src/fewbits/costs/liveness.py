"""The most memory that activations need at once, where branches keep some of them alive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fewbits.costs.model import Width, bits_of
from fewbits.errors import ModelError
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes of the activations that are alive together in `step`, the name of a node or group."""

    bytes: float
    step: str


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def peak_memory(graph: Graph, groups: Iterable[Group], width: Callable[[str], Width]) -> Peak:
    """The step of `graph` that needs most memory ("" for the inputs alone), nodes run in order and a group as one step.

    `width` gives what each activation is stored in. An activation is alive from the step that writes it to the last
    that reads it, graph inputs from the start, outputs (and what something outside reads) to the end. A reshape shares
    its input's memory, nothing else is written in place. Dynamic dimensions count as 1.
    Raises ModelError where a shape is unknown.
    """
    peak = Peak(-1.0, "")
    for step, alive in live_steps(graph, groups):
        needed = sum(_bytes(graph, name, width) for name in alive)
        if needed > peak.bytes:
            peak = Peak(needed, step)
    return peak


def live_steps(graph: Graph, groups: Iterable[Group]) -> Iterator[tuple[str, frozenset[str]]]:
    """Each step of `graph` with the activations that are alive together in it, as `peak_memory` has them; first "" with
    the inputs alone. What shares memory goes by the name of the tensor that was there first."""
    steps = _steps(graph, groups)
    shared = _shared(graph)

    def buffers(names: Iterable[str]) -> set[str]:
        return {shared.get(name, name) for name in names if name and not graph.is_constant(name)}

    kept = buffers([*graph.outputs, *graph.pinned])
    last = {name: number for number, step in enumerate(steps) for name in buffers([*step.reads, *step.writes])}
    alive = buffers(graph.inputs)
    yield "", frozenset(alive)
    alive = {name for name in alive if name in kept or name in last}
    for number, step in enumerate(steps):
        alive |= buffers(step.writes)
        yield step.name, frozenset(alive)
        alive = {name for name in alive if name in kept or last[name] > number}


def _steps(graph: Graph, groups: Iterable[Group]) -> tuple[_Step, ...]:
    anchors = {group.name: group for group in groups}
    fused = {name for group in anchors.values() for name in group.nodes}
    steps = []
    for node in graph.nodes:
        if node.name in anchors:
            group = anchors[node.name]
            steps.append(_Step(group.name, group.operands, (group.output,)))
        elif node.name not in fused:
            steps.append(_Step(node.name, node.inputs, node.outputs))
    return tuple(steps)


def _shared(graph: Graph) -> dict[str, str]:
    """Output of a reshape → the tensor whose memory it shares."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.kind is Kind.RESHAPE:
            found[node.outputs[0]] = found.get(node.inputs[0], node.inputs[0])
    return found


def _bytes(graph: Graph, name: str, width: Callable[[str], Width]) -> float:
    tensor = graph.tensors.get(name)
    if tensor is None or tensor.shape is None:
        raise ModelError(
            f"the shape of {name} is unknown, so the memory it takes is too; "
            "save the model with shapes (onnx.shape_inference.infer_shapes)"
        )
    return tensor.elements * bits_of(width(name)) / 8
