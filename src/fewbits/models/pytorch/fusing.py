"""What products on codes take along, and where codes go from one to the next without floats between.

A product fuses an addition and an activation behind it, if nothing else reads what it gives. Its result is codes if all
that read it take codes of one range: products, and sums that a plan has in codes. Moving numbers moves codes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import fx

from fewbits.formats.integer import UINT8
from fewbits.formats.scaled import ScaledFormat
from fewbits.graph import Kind
from fewbits.grouping import CARRIERS
from fewbits.models.pytorch.casting import Types, gives_float
from fewbits.models.pytorch.kinds import KINDS, operator
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.models.torch_ops.operation import Activation, Added, Call, Range

Joints = Mapping[fx.Node, Mapping[fx.Node, Range]]
"""Sums in codes → the ranges of what they add."""

_RELU6: Final = (0.0, 6.0)
_MOVES: Final = CARRIERS - {Kind.MAX_POOL}
"""PyTorch pools no bytes whose channels are neighbours in memory."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product that computes on codes: `call` is how, with nothing fused, in the way `way`; `range` is that of what it
    reads, if the plan has one for all calls."""

    call: Call
    way: type[LowPrecision]
    reads: fx.Node
    range: Range | None


@dataclass(frozen=True, slots=True)
class Tail:
    """What a product takes along: `nodes` behind it, in order; `other` is added if there is one."""

    nodes: tuple[fx.Node, ...] = ()
    activation: Activation = Activation.NONE
    other: fx.Node | None = None


@dataclass(frozen=True, slots=True)
class Fused:
    """How a product computes in the end: `call`, its `tail`, the range of `other` (what is added) and that of the
    `result`, where they are codes."""

    call: Call
    tail: Tail
    other: Range | None
    result: Range | None


@dataclass(frozen=True, slots=True)
class Fusing:
    """All products, by call; and every value that is codes, with its range."""

    products: Mapping[fx.Node, Fused]
    coded: Mapping[fx.Node, Range]


def fuse(products: Mapping[fx.Node, Product], joints: Joints, types: Types) -> Fusing:
    """How `products`, in graph order, compute. `types` has the calls that compute in a small float."""
    taken: set[fx.Node] = set()
    tails: dict[fx.Node, Tail] = {}
    for node, product in products.items():
        tails[node] = _tail(node, product, types, taken)
        taken.update(tails[node].nodes)
    ends = {_end(node, tail): node for node, tail in tails.items()}
    ranges = {end: _wanted(end, products, joints) for end in ends}
    giving = {end: only for end, found in ranges.items() if (only := _only(found)) is not None}
    while True:
        fused = {
            node: _fused(product, tails[node], joints, giving.get(_end(node, tails[node])))
            for node, product in products.items()
        }
        refused = [
            end
            for end in giving
            if not fused[ends[end]].call.gives_codes or products[ends[end]].way.supported(fused[ends[end]].call)
        ]
        if not refused:
            return Fusing(fused, {value: given for end, given in giving.items() for value in _moved(end)})
        for end in refused:
            del giving[end]


def _fused(product: Product, tail: Tail, joints: Joints, given: Range | None) -> Fused:
    call, other = replace(product.call, activation=tail.activation), None
    if tail.other is not None:
        in_codes = given is not None and tail.nodes[0] in joints
        other = joints[tail.nodes[0]][tail.other] if in_codes else None
        call = replace(call, added=Added.CODES if in_codes else Added.FLOATS)
        given = given if in_codes else None
    return Fused(call if given is None else replace(call, result=torch.uint8), tail, other, given)


def _tail(node: fx.Node, product: Product, types: Types, taken: Collection[fx.Node]) -> Tail:
    """What `node` can take along, beside what others have `taken`."""
    tail = Tail()

    def following(last: fx.Node, fits: Callable[[fx.Node, fx.Node], bool]) -> fx.Node | None:
        """What alone reads `last`, if it computes in the type of the product."""
        (user, *others) = last.users or (None,)
        alone = user is not None and not others and user not in taken and gives_float(user)
        same = alone and user is not None and types.get(user, torch.float32) == product.call.result
        return user if same and user is not None and fits(user, last) else None

    added = following(node, _adds)
    if added is not None:
        other = next(one for one in added.args if one is not node)
        assert isinstance(other, fx.Node)
        if not product.way.supported(replace(product.call, added=Added.FLOATS)):
            tail = Tail((added,), Activation.NONE, other)
    behind = following(_end(node, tail), lambda user, last: user.args[0] is last)
    activation = Activation.NONE if behind is None else _activation(behind)
    if behind is not None and activation is not Activation.NONE:
        what = Added.NOTHING if tail.other is None else Added.FLOATS
        if not product.way.supported(replace(product.call, added=what, activation=activation)):
            tail = replace(tail, nodes=(*tail.nodes, behind), activation=activation)
    return tail


def _end(node: fx.Node, tail: Tail) -> fx.Node:
    return tail.nodes[-1] if tail.nodes else node


def _adds(node: fx.Node, operand: fx.Node) -> bool:
    """Whether `node` adds two values of one shape, `operand` and another one."""
    if operator(node.target) != "add" or node.kwargs or len(node.args) != 2:
        return False
    others = [one for one in node.args if isinstance(one, fx.Node) and one is not operand]
    return (
        len(others) == 1 and others[0].op != "get_attr" and gives_float(others[0]) and _same_shape(others[0], operand)
    )


def _same_shape(one: fx.Node, other: fx.Node) -> bool:
    # As text: comparing free sizes as numbers would fix them.
    return str(tuple(one.meta["val"].shape)) == str(tuple(other.meta["val"].shape))


def _activation(node: fx.Node) -> Activation:
    """What `node` computes, if it is something that may be fused."""
    name = operator(node.target)
    match name:
        case "gelu":
            return Activation.GELU_TANH if node.kwargs.get("approximate") == "tanh" else Activation.GELU
        case "hardtanh" | "clamp":
            ends = tuple(node.args[1:]) if not node.kwargs else ()
            return Activation.RELU6 if ends == _RELU6 else Activation.NONE
        case "relu" | "silu" | "hardswish" | "relu6":
            return Activation(name)
        case _:
            return Activation.NONE


def _wanted(value: fx.Node, products: Mapping[fx.Node, Product], joints: Joints) -> frozenset[Range | None]:
    """The ranges of the codes that all who read `value` take, ``None`` among them if somebody takes none."""
    found: set[Range | None] = set()
    for user in value.users:
        if user in products and products[user].reads is value:
            found.add(products[user].range if _reads_bytes(products[user]) else None)
        elif user in joints:
            found.add(joints[user].get(value))
        elif _moves(user):
            found |= _wanted(user, products, joints) or {None}
        else:
            found.add(None)
    return frozenset(found)


def _only(found: frozenset[Range | None]) -> Range | None:
    return next(iter(found)) if len(found) == 1 else None


def _reads_bytes(product: Product) -> bool:
    operand = product.call.scheme.activation
    return product.range is not None and isinstance(operand, ScaledFormat) and operand.element == UINT8


def _moved(value: fx.Node) -> Iterable[fx.Node]:
    """`value`, and all that it is moved to."""
    yield value
    for user in value.users:
        if _moves(user):
            yield from _moved(user)


def _moves(node: fx.Node) -> bool:
    return node.op == "call_function" and KINDS.get(operator(node.target)) in _MOVES
