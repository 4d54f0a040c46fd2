"""Calls that only copy, as dropout does in evaluation: left out, so that nothing stands between two layers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from fewbits.models.pytorch.program import Program

_COPIES = (torch.ops.aten.clone.default, torch.ops.aten.alias.default)


def without_copies(program: Program) -> Program:
    """`program` without copies of what its own calls compute, bit for bit the same. Copies of inputs and weights, and
    those that are given back, stay: there they keep what is the user's apart. So do those of views, and those that ask
    for a layout, as a view may stand behind them that the original's memory does not allow."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        source = node.args[0] if _is_copy(node) else None
        made[node] = made[source] if isinstance(source, fx.Node) else graph.node_copy(node, lambda one: made[one])
    return replace(program, module=fx.GraphModule(program.module, graph))


def _is_copy(node: fx.Node) -> bool:
    if node.target not in _COPIES or node.kwargs or any(user.op == "output" for user in node.users):
        return False
    source = node.args[0]
    return isinstance(source, fx.Node) and _is_computed(source)


def _is_computed(node: fx.Node) -> bool:
    """Whether `node` gives memory of its own."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is None
