"""A `Program` as the project's own Graph: nodes by module path, weights by their own names."""

from __future__ import annotations

import operator as python_operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx, nn

from fewbits.graph import AttributeValue, Graph, Kind, Node, Tensor
from fewbits.grouping import JOINTS, PRODUCTS, RECURRENT
from fewbits.models.pytorch.kinds import JOINS, KINDS, operator
from fewbits.models.pytorch.positions import positions
from fewbits.models.pytorch.program import Program, weight_of
from fewbits.models.pytorch.recurrent import activations, parameters
from fewbits.models.torch_ops.operation import Convolution

_LARGE = 65504.0
"""What fp16 holds: a constant beyond it stands for infinity, as in masks."""
_NORMS = frozenset({Kind.BATCH_NORM, Kind.LAYER_NORM})
_WITH_WEIGHT = RECURRENT | {Kind.GEMM, Kind.CONV, Kind.CONV_TRANSPOSE, Kind.GATHER, Kind.MATMUL}
_DECIDED = PRODUCTS | JOINTS | RECURRENT | {Kind.ATTENTION}
"""Kinds that a plan decides about."""
_ORDER: Mapping[str, tuple[int, ...]] = {"addmm": (1, 2, 0)}
"""Operators whose operands stand in another order than ours: first operand, second, bias."""
_ATTRIBUTES: Mapping[str, Mapping[str, AttributeValue]] = {"linear": {"transB": 1}}


@dataclass(frozen=True)
class Described:
    """The `graph` of a program, and which call each of its nodes and tensors is."""

    graph: Graph
    calls: Mapping[str, fx.Node]
    values: Mapping[str, fx.Node]

    @cached_property
    def names(self) -> Mapping[fx.Node, str]:
        """Call → name of its node."""
        return {call: name for name, call in self.calls.items()}


def describe(program: Program) -> Described:
    """The graph of `program`. What takes an element of a tuple is part of the call that gives it."""
    fixed = positions(program)
    kinds = {one: Kind.OTHER if one in fixed and _kind(one) in _DECIDED else _kind(one) for one in program.graph.nodes}
    names = _names(program, kinds)
    tensor_names = _tensor_names(program, names)
    endless = _endless(program)
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    calls: dict[str, fx.Node] = {}
    for one in program.graph.nodes:
        if one not in tensor_names:
            continue
        name = tensor_names[one]
        tensors[name] = _tensor(one, name, finite=one not in endless)
        if one in names:
            calls[names[one]] = one
            inputs = tuple(tensor_names.get(operand, "") for operand in _operands(one))
            what = "getitem" if _is_element(one) else operator(one.target)
            nodes.append(Node(names[one], kinds[one], what, inputs, (name,), _attributes(one)))
    graph = Graph(
        tuple(nodes),
        tensors,
        tuple(tensor_names[one] for one in program.inputs),
        tuple(tensor_names[one] for one in program.outputs),
    )
    return Described(graph, calls, {name: one for one, name in tensor_names.items()})


def _names(program: Program, kinds: Mapping[fx.Node, Kind]) -> dict[fx.Node, str]:
    """A name for every call that computes: the path of the module whose work it is, or that path, the operator, and
    which of its calls there it is. Nothing in it depends on shapes, or on what other modules do."""
    layers = Counter(_path(one) for one in program.graph.nodes if _is_layer(one, kinds[one]))
    found: dict[fx.Node, str] = {}
    taken: set[str] = set()
    calls: Counter[tuple[str, str]] = Counter()
    for one in program.graph.nodes:
        is_call = one.op in ("call_function", "call_module")
        if not is_call or not _gives_tensor(one) or (_is_element(one) and element_of(one) in found):
            continue
        path, what = _path(one), "getitem" if _is_element(one) else operator(one.target)
        number = calls[path, what]
        calls[path, what] += 1
        is_layer = _is_layer(one, kinds[one]) and (layers[path] == 1 or _is_of_torch(one))
        name = _owner(one, kinds[one], path) or (path if is_layer else "")
        if not name or name in taken:
            last = f"{what}_{number}" if number else what
            name = f"{path}.{last}" if path else last
        while name in taken:
            name += "_"
        taken.add(name)
        found[one] = name
    return found


def _is_layer(one: fx.Node, kind: Kind) -> bool:
    """Whether `one` is what a layer does: a norm, or something with a weight of its own."""
    return kind in _NORMS or _weight(one, kind) is not None


def _weight(one: fx.Node, kind: Kind) -> fx.Node | None:
    """The stored weight of a product, or the table that is looked up in."""
    operands = list(_operands(one)) if kind in _WITH_WEIGHT else []
    place = 0 if kind is Kind.GATHER else 1
    return operands[place] if len(operands) > place and operands[place].op == "get_attr" else None


def _owner(one: fx.Node, kind: Kind, path: str) -> str:
    """The module inside `path` that has the weight of the product `one`; "" if there is none. A module may read the
    weights of those inside it, as torch.nn.MultiheadAttention does, or hold some under other names than `weight`."""
    weight = _weight(one, kind)
    if weight is None:
        return ""
    owner, _, last = str(weight.target).rpartition(".")
    inside = owner != path and (not path or owner.startswith(f"{path}."))
    short = last.removesuffix("_weight")
    if short != last and (inside or owner == path):
        return f"{owner}.{short}" if owner else short
    return owner if inside and last == "weight" else ""


def _tensor_names(program: Program, names: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    given = dict(zip(reversed(program.outputs), reversed(program.call.names), strict=True))
    found: dict[fx.Node, str] = {}
    taken = {str(one.target) for one in program.graph.nodes if one.op in ("placeholder", "get_attr")}
    own = set(names.values())
    for one in program.graph.nodes:
        if one.op in ("placeholder", "get_attr"):
            found[one] = str(one.target)
        elif one in names:
            wanted = given.get(one) or _given_element(one, given) or names[one]
            # An output may have the name of another call, and a call that of an input or a weight.
            name = wanted if wanted not in taken and wanted not in own - {names[one]} else names[one]
            while name in taken:
                name += "_"
            taken.add(name)
            found[one] = name
        elif (source := element_of(one)) is not None and source in names:
            # Of a tuple, the first element is the result.
            found[one] = found[source]
    return found


def _given_element(one: fx.Node, given: Mapping[fx.Node, str]) -> str:
    return next((given[user] for user in one.users if user in given and element_of(user) is one), "")


def element_of(node: fx.Node) -> fx.Node | None:
    """The call whose first result `node` takes, if it takes one."""
    source = node.args[0] if _is_element(node) and node.args[1] == 0 else None
    return source if isinstance(source, fx.Node) else None


def _is_element(node: fx.Node) -> bool:
    return node.target is python_operator.getitem


def _gives_tensor(node: fx.Node) -> bool:
    return _value(node) is not None


def _value(node: fx.Node) -> torch.Tensor | None:
    """What `node` gave when it was traced; the first of several."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    entries = [] if not stack else [entry[0] for entry in stack.values()]
    path = str(entries[-1]) if entries else ""
    return "" if path.startswith("_empty") else path.removeprefix("L['self'].").removeprefix("L['self']")


def _is_of_torch(node: fx.Node) -> bool:
    """Whether the innermost module is a layer of torch's, and `node` what it is there for."""
    stack = node.meta.get("nn_module_stack")
    entries = [] if not stack else [entry[1] for entry in stack.values()]
    weights = [str(one.target).rpartition(".")[2] for one in node.all_input_nodes if one.op == "get_attr"]
    is_whole = not weights or any(name in ("weight", "bias") for name in weights)
    return bool(entries) and str(entries[-1]).startswith("torch.nn") and is_whole


def _kind(node: fx.Node) -> Kind:
    name = operator(node.target)
    kind = KINDS.get(name, Kind.OTHER)
    if kind in RECURRENT and not str(node.target).endswith(".input"):
        # Of packed sequences, which come with their lengths.
        return Kind.OTHER
    if kind in JOINS:
        both = all(isinstance(one, fx.Node) and _value(one) is not None for one in node.args[:2])
        return kind if both and node.kwargs.get("alpha", 1) == 1 else Kind.OTHER
    if name.startswith("adaptive_avg_pool"):
        wanted = node.args[1]
        return Kind.GLOBAL_AVERAGE_POOL if wanted in (1, [1], [1, 1]) else Kind.OTHER
    return kind


def _operands(node: fx.Node) -> Iterator[fx.Node]:
    """The tensors that `node` reads, in our order; an absent bias in the middle does not occur. A recurrent layer reads
    sequences, matrices and biases, and then the first states."""
    if _kind(node) in RECURRENT:
        first, *state = activations(node)
        yield from (first, *parameters(node), *state)
        return
    places = _ORDER.get(operator(node.target))
    args = list(node.args) if places is None else [node.args[place] for place in places]
    for value in (*args, *node.kwargs.values()):
        if isinstance(value, fx.Node):
            yield value
        elif isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, fx.Node) and _value(one) is not None)


def _attributes(node: fx.Node) -> dict[str, AttributeValue]:
    """Arguments that are plain numbers and texts, by their names in the operator's schema."""
    found: dict[str, AttributeValue] = dict(_ATTRIBUTES.get(operator(node.target), {}))
    if not isinstance(node.target, torch._ops.OpOverload):
        return found
    names = [argument.name for argument in node.target._schema.arguments]
    for name, value in (*zip(names, node.args, strict=False), *node.kwargs.items()):
        match value:
            case bool():
                found[name] = int(value)
            case int() | float() | str():
                found[name] = value
            case list() | tuple() if value and all(isinstance(one, int) for one in value):
                found[name] = tuple(one for one in value if isinstance(one, int))
            case _:
                continue
    return _convolution(node, found) if _kind(node) is Kind.CONV else found


def _convolution(node: fx.Node, found: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """The attributes of a convolution in the words of ONNX: a number for each axis, pads in front and then behind."""
    weight = node.args[1]
    value = _value(weight) if isinstance(weight, fx.Node) else None
    if value is None:
        return dict(found)
    padding = found.get("padding", 0)
    conv = Convolution.of(
        tuple(value.shape[2:]),
        _numbers(found.get("stride", 1)),
        padding if isinstance(padding, str) else _numbers(padding),
        _numbers(found.get("dilation", 1)),
        int(str(found.get("groups", 1))),
    )
    return {
        "strides": conv.stride,
        "pads": (*conv.padding, *conv.end),
        "dilations": conv.dilation,
        "group": conv.groups,
    }


def _numbers(value: AttributeValue) -> int | tuple[int, ...]:
    if isinstance(value, int):
        return value
    assert isinstance(value, tuple)
    return tuple(one for one in value if isinstance(one, int))


def _tensor(node: fx.Node, name: str, *, finite: bool) -> Tensor:
    value = _value(node)
    if value is None:
        return Tensor(name, "unknown", None, node.op == "get_attr", finite)
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return Tensor(name, str(value.dtype).removeprefix("torch."), shape, node.op == "get_attr", finite)


def _endless(program: Program) -> frozenset[fx.Node]:
    """What comes from constants that stand for infinity, as far as it is only moved, chosen from or added to."""
    found: set[fx.Node] = set()
    for one in program.graph.nodes:
        value = _value(one)
        if one.op == "get_attr" and _is_mask(program, one):
            found.add(one)
        if one.op != "call_function" or value is None or not value.is_floating_point():
            continue
        scalars = (arg for arg in (*one.args, *one.kwargs.values()) if isinstance(arg, float | int))
        large = any(abs(arg) > _LARGE for arg in scalars if not isinstance(arg, bool)) and isinstance(
            next((a for a in scalars), 0.0), float | int
        )
        is_made = operator(one.target) in _MAKES_MASKS and large
        passes = _kind(one) in (Kind.RESHAPE, Kind.TRANSPOSE, Kind.SLICE) or operator(one.target) in _PASSES
        if is_made or (passes and any(source in found for source in one.all_input_nodes)):
            found.add(one)
    return frozenset(found)


def _is_mask(program: Program, one: fx.Node) -> bool:
    """Whether a constant of the model's, not a weight that was learned, has numbers that stand for infinity."""
    stored = weight_of(program.module, str(one.target))
    if isinstance(stored, nn.Parameter) or not stored.is_floating_point() or not stored.numel():
        return False
    return not float(stored.abs().max()) <= _LARGE


_MAKES_MASKS = frozenset({"full", "full_like", "masked_fill", "scalar_tensor", "mul", "where", "fill"})
_PASSES = frozenset({"expand", "where", "masked_fill", "add", "mul", "_to_copy", "to", "index", "triu", "tril"})
