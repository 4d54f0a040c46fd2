"""Batch norms folded into the convolutions before them (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from fewbits.models.pytorch.graph import element_of
from fewbits.models.pytorch.kinds import operator
from fewbits.models.pytorch.program import Program, holder, tensors_in, weight_of

_EPSILON = 6


@dataclass(frozen=True)
class Folded:
    """A program without some batch norms; `made` maps calls of the program before to those of the new one."""

    program: Program
    made: Mapping[fx.Node, fx.Node]


def fold(program: Program, convolutions: Collection[fx.Node]) -> Folded:
    """`program` with the batch norms behind `convolutions` folded into them, in float64; others are left."""
    norms = {conv: norm for conv in convolutions if (norm := _norm_behind(conv)) is not None}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    tensors = dict(tensors_in(program.module))
    gone = {norm: conv for conv, norm in norms.items()}
    for node in program.graph.nodes:
        if node in gone:
            made[node] = made[gone[node]]
        elif (source := element_of(node)) is not None and source in gone:
            made[node] = made[source]
        elif node in norms:
            weight, bias = _merged(program, node, norms[node])
            name = str(node.args[1])
            held = _attribute(node.args[1])
            for what, tensor in (("folded_weight", weight), ("folded_bias", bias)):
                tensors[f"{_parent(held)}{what}"] = nn.Parameter(tensor, requires_grad=False)
            stored = [graph.get_attr(f"{_parent(held)}{what}") for what in ("folded_weight", "folded_bias")]
            for one, tensor in zip(stored, (weight, bias), strict=True):
                one.meta = {"val": tensor}
            rest = [made[arg] if isinstance(arg, fx.Node) else arg for arg in node.args[3:]]
            first = node.args[0]
            assert isinstance(first, fx.Node), name
            made[node] = graph.call_function(node.target, (made[first], *stored, *rest), dict(node.kwargs))
            made[node].meta = dict(node.meta)
        else:
            made[node] = graph.node_copy(node, lambda one: made[one])
    graph.eliminate_dead_code()
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    root = holder({name: tensor for name, tensor in tensors.items() if name in used})
    return Folded(replace(program, module=fx.GraphModule(root, graph)), made)


def _norm_behind(conv: fx.Node) -> fx.Node | None:
    """The batch norm that alone reads `conv`."""
    users = list(conv.users)
    is_norm = len(users) == 1 and operator(users[0].target) == "_native_batch_norm_legit_no_training"
    plain = len(conv.args) > 1 and isinstance(conv.args[1], fx.Node) and conv.args[1].op == "get_attr"
    return users[0] if is_norm and plain else None


def _merged(program: Program, conv: fx.Node, norm: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    weight = weight_of(program.module, _attribute(conv.args[1])).double()
    bias_node = conv.args[2] if len(conv.args) > 2 else None
    scale, shift, mean, variance = (
        None if not isinstance(arg, fx.Node) else weight_of(program.module, _attribute(arg)).double()
        for arg in norm.args[1:5]
    )
    epsilon = norm.args[_EPSILON]
    assert mean is not None and variance is not None and isinstance(epsilon, float)
    factor = (torch.ones_like(variance) if scale is None else scale) / torch.sqrt(variance + epsilon)
    transposed = operator(conv.target).startswith("conv_transpose")
    if transposed:
        groups = _groups(conv)
        shape = (groups, weight.shape[0] // groups, weight.shape[1], *weight.shape[2:])
        per = factor.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        merged = (weight.reshape(shape) * per).reshape(weight.shape)
    else:
        merged = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    bias = 0.0 if not isinstance(bias_node, fx.Node) else weight_of(program.module, _attribute(bias_node)).double()
    moved = (bias - mean) * factor + (0.0 if shift is None else shift)
    return merged.float(), moved.float()


def _groups(conv: fx.Node) -> int:
    """The groups of a transposed convolution."""
    assert isinstance(conv.target, torch._ops.OpOverload)
    place = [argument.name for argument in conv.target._schema.arguments].index("groups")
    found = conv.kwargs.get("groups", conv.args[place] if len(conv.args) > place else 1)
    return found if isinstance(found, int) else 1


def _attribute(node: object) -> str:
    assert isinstance(node, fx.Node) and node.op == "get_attr"
    return str(node.target)


def _parent(name: str) -> str:
    return f"{name.rpartition('.')[0]}." if "." in name else ""
