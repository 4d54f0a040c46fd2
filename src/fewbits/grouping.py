"""Which nodes must share one scheme, found from the graph's structure alone."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.graph import Kind


@dataclass(frozen=True, slots=True)
class Group:
    """An anchor (convolution, matrix product, or an operation between them) and what is fused behind it.

    `operands` are the activation tensors that it reads; `weight` and `bias` name constants, ``""``
    where there is none; `output` is the tensor after the last fused node.
    """

    name: str
    kind: Kind
    nodes: tuple[str, ...]
    operands: tuple[str, ...]
    weight: str
    bias: str
    output: str
