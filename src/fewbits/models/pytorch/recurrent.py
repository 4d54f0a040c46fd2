"""LSTM, GRU and RNN as PyTorch exports them: one call with all layers, directions and parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from fewbits.errors import PlanError, SchemeError
from fewbits.formats.scheme import Scheme
from fewbits.models.pytorch.kinds import operator
from fewbits.models.pytorch.program import Program, weight_of
from fewbits.models.torch_ops.module import Layer
from fewbits.models.torch_ops.operation import Call, Sort
from fewbits.models.torch_ops.recurrent_layers import Recurrence, written


def states(node: fx.Node) -> Iterator[fx.Node]:
    """The first states that the recurrent call `node` reads: two of an LSTM, one of others."""
    given = node.args[1]
    yield from (one for one in (given if isinstance(given, list | tuple) else [given]) if isinstance(one, fx.Node))


def parameters(node: fx.Node) -> Iterator[fx.Node]:
    """Its matrices and biases, in PyTorch's order."""
    given = node.args[2]
    assert isinstance(given, list | tuple)
    yield from (one for one in given if isinstance(one, fx.Node))


def activations(node: fx.Node) -> list[fx.Node]:
    """What its module reads: the sequences and the first states."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return [first, *states(node)]


def module(program: Program, node: fx.Node, name: str, scheme: Scheme, result: torch.dtype) -> Layer:
    """The module for the recurrent call `node`, the group `name` of a plan, in `scheme`. Raises PlanError if there is
    none."""
    stored = list(parameters(node))
    if any(one.op != "get_attr" for one in stored):
        raise PlanError(f"{name} computes its matrices or biases; set it to fp32, bf16 or fp16")
    tensors = [weight_of(program.module, str(one.target)).detach() for one in stored]
    kind = result if scheme.is_weight_only else torch.float32
    call = Call(Sort.RECURRENT, scheme, tuple(tensors[0].shape), tensors[0].device.type, result=kind)
    try:
        return written(call, recurrence_of(node), tensors)
    except SchemeError as error:
        raise PlanError(f"the plan has {name} in {scheme}, but {error}") from error


def recurrence_of(node: fx.Node) -> Recurrence:
    """The attributes of the recurrent call `node`."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    layers = given["num_layers"]
    assert isinstance(layers, int)
    return Recurrence(
        operator(node.target),
        layers,
        bidirectional=bool(given["bidirectional"]),
        batch_first=bool(given["batch_first"]),
        biases=bool(given["has_biases"]),
    )
