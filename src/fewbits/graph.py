"""A model's graph without its framework: nodes by kind, tensors by name, sizes and work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod

AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


class Kind(StrEnum):
    """What a node does, in every framework's words reduced to one."""

    CONV = "conv"
    CONV_TRANSPOSE = "conv_transpose"
    MATMUL = "matmul"
    GEMM = "gemm"
    LSTM = "lstm"
    GRU = "gru"
    RNN = "rnn"
    GATHER = "gather"
    BATCH_NORM = "batch_norm"
    ADD = "add"
    MUL = "mul"
    RELU = "relu"
    CLIP = "clip"
    HARD_SWISH = "hard_swish"
    HARD_SIGMOID = "hard_sigmoid"
    SIGMOID = "sigmoid"
    GELU = "gelu"
    ATTENTION = "attention"
    SOFTMAX = "softmax"
    LAYER_NORM = "layer_norm"
    CONCAT = "concat"
    MAX_POOL = "max_pool"
    AVERAGE_POOL = "average_pool"
    GLOBAL_AVERAGE_POOL = "global_average_pool"
    RESHAPE = "reshape"
    TRANSPOSE = "transpose"
    SLICE = "slice"
    QUANTIZE = "quantize"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value in the graph. `shape` is ``None`` where even the rank is unknown; a dynamic
    dimension is its name (or ``"?"``). `dtype` is numpy's name for the type. Not `finite` is what
    comes from an infinite constant, as attention masks do: no range holds it."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    constant: bool = False
    finite: bool = True

    @property
    def elements(self) -> int:
        """Number of elements, counting dynamic dimensions as 1; 0 where the rank is unknown."""
        return 0 if self.shape is None else prod(d if isinstance(d, int) else 1 for d in self.shape)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `op` is the framework's own name, `kind` ours. An absent optional input is ``""``."""

    name: str
    kind: Kind
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order and the tensors between them.

    `pinned` names tensors that something outside the node list reads (a subgraph of ``If`` or
    ``Loop``): they keep their name and their float value.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pinned: frozenset[str] = frozenset()

    @cached_property
    def node(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """The node that makes each tensor."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each tensor, once per node."""
        found: dict[str, dict[str, Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    found.setdefault(name, {})[node.name] = node
        return {name: tuple(nodes.values()) for name, nodes in found.items()}

    def is_constant(self, name: str) -> bool:
        """Whether `name` is a weight or other constant."""
        tensor = self.tensors.get(name)
        return tensor is not None and tensor.constant

    def only_consumer(self, name: str) -> Node | None:
        """The single node that reads `name` (once or more), or ``None`` if there are several, none, or
        something outside reads it too (a graph output, a pinned tensor)."""
        readers = self.consumers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs and name not in self.pinned else None

    def stored(self, name: str) -> str:
        """The constant whose bytes the constant `name` is made of: the first operand of what computes it from constants
        alone, as far up as there are as many elements."""
        node = self.producer.get(name)
        while node is not None and node.inputs and self.is_constant(node.inputs[0]):
            source = node.inputs[0]
            if self.tensors[source].elements != self.tensors[name].elements:
                break
            name, node = source, self.producer.get(source)
        return name

    def readers(self, name: str) -> tuple[Node, ...]:
        """The nodes that compute from data and the constant `name`, as it is or made into another constant."""
        found: dict[str, Node] = {}
        for node in self.consumers.get(name, ()):
            if all(self.is_constant(output) for output in node.outputs if output):
                found |= {one.name: one for output in node.outputs for one in self.readers(output)}
            else:
                found[node.name] = node
        return tuple(found.values())

    def macs(self, node: Node) -> int:
        """Multiply-accumulate operations of `node` (0 unless it is a product); dynamic dimensions count as 1."""
        if node.kind in (Kind.CONV, Kind.CONV_TRANSPOSE):
            weight = self._shape(node.inputs[1])
            # Each output element of a convolution (input element of a transposed one) costs one filter.
            counted = self.tensors.get(node.outputs[0] if node.kind is Kind.CONV else node.inputs[0])
            if counted is None or not weight:
                return 0
            return counted.elements * prod(size for size in weight[1:] if isinstance(size, int))
        if node.kind in (Kind.MATMUL, Kind.GEMM):
            first, second = self._shape(node.inputs[0]), self._shape(node.inputs[1])
            output = self.tensors.get(node.outputs[0])
            if output is None or not first or not second:
                return 0
            # Both operands have the depth; one of them may have it dynamic.
            depths = (
                first[0 if node.attributes.get("transA") else -1],
                second[-1 if node.attributes.get("transB") or len(second) == 1 else -2],
            )
            return output.elements * next((size for size in depths if isinstance(size, int)), 1)
        return 0

    def _shape(self, name: str) -> tuple[int | str, ...]:
        """The shape of `name`, ``()`` where it is a scalar or unknown."""
        tensor = self.tensors.get(name)
        return () if tensor is None or tensor.shape is None else tensor.shape
