"""What a model computes from integers and sizes alone: positions, angles, masks."""

from __future__ import annotations

import torch
from torch import fx, nn

from fewbits.graph import Kind
from fewbits.grouping import PRODUCTS, RECURRENT
from fewbits.models.pytorch.kinds import KINDS, operator
from fewbits.models.pytorch.program import Program, weight_of


def positions(program: Program) -> frozenset[fx.Node]:
    """The float tensors that depend on no float input, no embedding and no product by a parameter.

    They are not activations: rotary angles, position ids, distances. Their values grow with the length of the
    sequence and lose meaning when rounded (bf16 holds no odd integer above 256), so no scheme is offered for them.
    """
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or not _is_float(node) or KINDS.get(operator(node.target)) is Kind.GATHER:
            continue
        stored = [source for source in node.all_input_nodes if source.op == "get_attr"]
        floats = [source for source in node.all_input_nodes if source.op != "get_attr" and _is_float(source)]
        is_product = KINDS.get(operator(node.target)) in PRODUCTS | RECURRENT
        if is_product and any(_is_parameter(program, source) for source in stored):
            continue
        if all(source in found for source in floats):
            found.add(node)
    return frozenset(found)


def _is_parameter(program: Program, node: fx.Node) -> bool:
    return isinstance(weight_of(program.module, str(node.target)), nn.Parameter)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return isinstance(value, torch.Tensor) and value.is_floating_point()
