"""What depends on weights alone, computed once: parametrised weights, masks and positions of a fixed length."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx, nn

from fewbits.models.pytorch.program import Program, holder, tensors_in, weight_of

_SMALL = 1 << 16
"""Elements that a constant may have, however small what it is made from."""


def folded(program: Program) -> Program:
    """`program` with every call that reads nothing but weights replaced by what it gives, bit for bit: torch computes
    it here as it would there. A constant that is larger than what it is made from stays a call, and so does what is
    random, and what gives back a weight as it lies (a transpose): that costs nothing.
    """
    values = _values(program)
    used = {
        node
        for node in values
        if node.op == "call_function" and any(user not in values for user in node.users) and not _is_view(node, values)
    }
    if not used:
        return program
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    tensors = dict(tensors_in(program.module))
    for node in program.graph.nodes:
        if node in used:
            name = _name(node, tensors)
            value = values[node]
            assert isinstance(value, torch.Tensor)
            learned = any(isinstance(tensors.get(str(one.target)), nn.Parameter) for one in _sources(node))
            plain = value.detach().clone(memory_format=torch.contiguous_format)
            tensors[name] = nn.Parameter(plain, requires_grad=False) if learned and value.is_floating_point() else plain
            made[node] = graph.get_attr(name)
            made[node].meta = dict(node.meta)
        else:
            made[node] = graph.node_copy(node, lambda one: made[one])
    graph.eliminate_dead_code()
    kept = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    root = holder({name: tensor for name, tensor in tensors.items() if name in kept})
    return replace(program, module=fx.GraphModule(root, graph))


def _values(program: Program) -> dict[fx.Node, object]:
    """What weights, and calls that read nothing else, give."""
    found: dict[fx.Node, object] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            found[node] = weight_of(program.module, str(node.target))
        elif node.op == "call_function" and all(one in found for one in node.all_input_nodes) and _is_pure(node):
            with torch.no_grad():
                value = _Call(program.module, found).run_node(node)
            read = sum(_elements(found[one]) for one in node.all_input_nodes)
            if _elements(value) <= max(read, _SMALL):
                found[node] = value
    return found


class _Call(fx.Interpreter):
    """Runs single calls on values that are known."""

    def __init__(self, module: fx.GraphModule, values: dict[fx.Node, object]) -> None:
        super().__init__(module)
        self.env = values


def _is_pure(node: fx.Node) -> bool:
    """Whether `node` gives the same at every call."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return bool(node.all_input_nodes)
    is_random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not is_random and not node.target._schema.is_mutable


def _is_view(node: fx.Node, values: dict[fx.Node, object]) -> bool:
    """Whether `node` is a whole weight in another order, or an element of a tuple: products read those as they are."""
    value = values[node]
    if not isinstance(value, torch.Tensor):
        return True
    stored = [values[one] for one in node.all_input_nodes if one.op == "get_attr"]
    return any(
        isinstance(one, torch.Tensor) and one.data_ptr() == value.data_ptr() and one.numel() == value.numel()
        for one in stored
    )


def _sources(node: fx.Node) -> set[fx.Node]:
    """The weights that `node` is made from."""
    found: set[fx.Node] = set()
    ways = [node]
    while ways:
        one = ways.pop()
        if one.op == "get_attr":
            found.add(one)
        ways += [source for source in one.all_input_nodes if source not in found]
    return found


def _elements(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return sum(_elements(one) for one in value) if isinstance(value, tuple | list) else 0


def _name(node: fx.Node, taken: dict[str, torch.Tensor]) -> str:
    """A name for the constant that `node` gives, by the module that computes it."""
    stack = node.meta.get("nn_module_stack")
    path = str(list(stack.values())[-1][0]) if stack else ""
    # Of a parametrised weight, what it is the weight of.
    owner, is_parametrised, rest = path.partition("parametrizations.")
    name = f"{owner}{rest.partition('.')[0]}" if is_parametrised else f"{path}.{node.name}" if path else node.name
    while name in taken or any(other.startswith(f"{name}.") for other in taken):
        name += "_"
    return name
