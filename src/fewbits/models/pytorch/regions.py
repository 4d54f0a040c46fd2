"""Groups of a program side by side as a program of their own: what costs and errors are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import fx

from fewbits.graph import Kind
from fewbits.grouping import PRODUCTS, Group
from fewbits.models.pytorch.call_form import CallForm
from fewbits.models.pytorch.graph import Described, element_of
from fewbits.models.pytorch.program import Program, holder, weight_of

_OF_IMAGES: Final = 4


@dataclass(frozen=True)
class Cut:
    """The program of the groups; `inputs` maps what it reads to tensors of the whole."""

    program: Program
    inputs: dict[str, str]


def cut(program: Program, described: Described, groups: Sequence[Group]) -> Cut:
    """`groups` next to each other; every tensor that a group reads is an input, the result of each an output."""
    graph = fx.Graph()
    inputs: dict[str, str] = {}
    results: list[fx.Node] = []
    tensors: dict[str, torch.Tensor] = {}
    placeholders: list[fx.Node] = []
    tensor_of = {call: tensor for tensor, call in described.values.items()}
    place_of = {node: place for place, node in enumerate(program.graph.nodes)}
    # Inputs come first.
    plans: list[tuple[Group, dict[fx.Node, fx.Node]]] = []
    for number, made in enumerate(groups):
        known: dict[fx.Node, fx.Node] = {}
        own = {described.calls[name] for name in made.nodes}
        outside = [
            source
            for name in made.nodes
            for source in described.calls[name].all_input_nodes
            if source.op != "get_attr" and source not in own and not _is_inside(source, own)
        ]
        for place, source in enumerate(dict.fromkeys(outside)):
            name = f"region_{number}_{place}"
            known[source] = graph.placeholder(name)
            known[source].meta = dict(source.meta)
            placeholders.append(known[source])
            inputs[name] = tensor_of[source]
        if made.kind is Kind.ADD and any(described.graph.node[name].kind in PRODUCTS for name in made.nodes):
            # A sum that a product takes along: products on codes give, and so read, images channels last.
            known = {source: _channels_last(graph, node) for source, node in known.items()}
        plans.append((made, known))
    for made, known in plans:
        own = {described.calls[name] for name in made.nodes}
        elements = {user for call in own for user in call.users if _is_inside(user, own)}
        calls = sorted(own | elements, key=place_of.__getitem__)
        for node in calls:
            for source in node.all_input_nodes:
                if source.op == "get_attr" and source not in known:
                    known[source] = graph.get_attr(str(source.target))
                    known[source].meta = dict(source.meta)
                    tensors[str(source.target)] = weight_of(program.module, str(source.target))
            known[node] = graph.node_copy(node, known.__getitem__)
        last = described.calls[made.nodes[-1]]
        first = [node for node in calls if element_of(node) is last]
        results.append(known[(first or [last])[-1]])
    graph.output(tuple(results))
    flat = fx.GraphModule(holder(tensors), graph)
    names_of = [str(node.target) for node in placeholders]
    call = CallForm(
        tuple(names_of),
        {},
        {name: place for place, name in enumerate(names_of)},
        tuple(range(len(names_of))),
        {},
        tuple(range(len(results))),
    )
    return Cut(Program(flat, call), inputs)


def _channels_last(graph: fx.Graph, node: fx.Node) -> fx.Node:
    if node.meta["val"].dim() != _OF_IMAGES:
        return node
    made = graph.call_function(torch.ops.aten.contiguous.default, (node,), {"memory_format": torch.channels_last})
    made.meta = dict(node.meta)
    return made


def _is_inside(node: fx.Node, own: set[fx.Node]) -> bool:
    """Whether `node` takes an element of what one of `own` gives."""
    return bool(node.args) and str(node.target).endswith("getitem>") and node.args[0] in own
