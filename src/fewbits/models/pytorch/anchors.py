"""Calls of ATen in the terms of `fewbits.models.torch_ops`: which sort, by which weight, with which attributes."""

from __future__ import annotations

from typing import Final

import torch
from torch import fx

from fewbits.errors import PlanError
from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.models.pytorch.kinds import operator
from fewbits.models.pytorch.program import Program, weight_of
from fewbits.models.torch_ops.operation import Convolution, Sort

_CONVOLUTIONS: Final = ("conv1d", "conv2d", "conv3d")


def sort_of(group: Group, weight: torch.Tensor | None) -> Sort:
    """Which call the anchor of `group` is. Raises PlanError if there is no module for it."""
    match group.kind:
        case Kind.CONV:
            return Sort.CONVOLUTION
        case Kind.GATHER:
            return Sort.EMBEDDING
        case Kind.MATMUL | Kind.GEMM:
            return Sort.MATMUL if weight is None else Sort.LINEAR
        case _:
            raise PlanError(f"{group.name} is a {group.kind}, which computes in floats only in PyTorch; set it to fp32")


def weight_and_bias(program: Program, node: fx.Node, group: Group) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The weight with output channels first, and the bias."""
    name = operator(node.target)
    args = list(node.args)
    if name == "addmm":
        args = [args[1], args[2], args[0]]
    if group.kind is Kind.GATHER:
        return _held(program, args[0]), None
    weight = _held(program, args[1]) if len(args) > 1 else None
    bias = _held(program, args[2]) if len(args) > 2 and name in ("linear", "addmm", *_CONVOLUTIONS) else None
    if weight is not None and name in ("addmm", "matmul", "mm"):
        if weight.ndim != 2:
            raise PlanError(f"the weight of {group.name} is not a matrix; set it to fp32")
        weight = weight.T.contiguous()
    return weight, bias


def activations(node: fx.Node, group: Group) -> list[fx.Node]:
    """What the module reads."""
    args = [node.args[1]] if operator(node.target) in ("addmm",) or group.kind is Kind.GATHER else list(node.args[:2])
    return [one for one in args if isinstance(one, fx.Node) and one.op != "get_attr"]


def convolution(node: fx.Node, weight: tuple[int, ...]) -> Convolution:
    """The attributes of the convolution `node` with a weight of this shape."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    groups = given.get("groups", 1)
    assert isinstance(groups, int)
    return Convolution.of(
        weight[2:],
        _numbers(given.get("stride", 1)),
        _padding(given.get("padding", 0)),
        _numbers(given.get("dilation", 1)),
        groups,
    )


def _held(program: Program, value: object) -> torch.Tensor | None:
    is_held = isinstance(value, fx.Node) and value.op == "get_attr"
    return weight_of(program.module, str(value.target)).detach() if is_held and isinstance(value, fx.Node) else None


def _padding(value: object) -> int | str | tuple[int, ...]:
    return value if isinstance(value, str) else _numbers(value)


def _numbers(value: object) -> int | tuple[int, ...]:
    """One number, or one for each axis."""
    if isinstance(value, int):
        return value
    assert isinstance(value, list | tuple)
    return tuple(one for one in value if isinstance(one, int))
