"""Who was the first to give something that is not finite: by running the pass again and looking at every layer.

Nothing is looked at while a training goes well; a skipped step costs one more forward and backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_flatten

from fewbits.training.gradients import local
from fewbits.training.lowering import Lowered, Lowering, Pass


class Direction(StrEnum):
    """Where in a step."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first tensor of a step that was not finite: of which module, and in which direction."""

    module: str
    tensor: str
    direction: Direction

    def __str__(self) -> str:
        return f"{self.tensor} of {self.module} ({self.direction})"


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a module without children: its tensors."""

    name: str
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    parameters: dict[str, torch.Tensor]


def find(model: nn.Module, own: Lowering) -> Culprit | None:
    """The culprit of the last forward pass of `model` and the backward pass behind it; None if it repeats as finite.

    None, too, for a model whose parameters are spread over processes.
    """
    known = own.last
    # Processes that share a layer would have to run it again together, and not all of them have a reason to.
    shared = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    if known is None or shared or not isinstance(model, Lowered):
        return None
    with _as_it_was(model, own, known):
        calls, outputs = _again(model, known)
        for call in calls:
            if not _are_finite(call.outputs):
                tensor = "output" if _are_finite(call.inputs) else "input"
                return Culprit(call.name, tensor, Direction.FORWARD)
        if not _are_finite(outputs):
            return Culprit("the model", "output", Direction.FORWARD)
        given = [known.gradients[place] for place in range(len(outputs)) if place in known.gradients]
        if not given:
            return None
        if not _are_finite(given):
            return Culprit("the loss", "gradient", Direction.BACKWARD)
        reached = [out for place, out in enumerate(outputs) if place in known.gradients]
        return _backward(calls, reached, given)


def from_gradients(parameters: Mapping[str, nn.Parameter]) -> Culprit | None:
    """What the gradients alone tell: the last parameter, in the order of the model, whose gradient is not finite."""
    for name, parameter in reversed(list(parameters.items())):
        if parameter.grad is not None and not _are_finite([local(parameter.grad)]):
            module, _, last = name.rpartition(".")
            return Culprit(module or "the model", f"gradient of {last}", Direction.BACKWARD)
    return None


def _backward(calls: list[_Call], outputs: list[torch.Tensor], given: list[torch.Tensor]) -> Culprit | None:
    wanted: dict[int, torch.Tensor] = {}
    for call in calls:
        for tensor in (*call.inputs, *call.outputs, *call.parameters.values()):
            if tensor.requires_grad:
                wanted[id(tensor)] = tensor
    found = torch.autograd.grad(outputs, list(wanted.values()), given, allow_unused=True)
    gradients = dict(zip(wanted, found, strict=True))

    def finite(tensors: list[torch.Tensor]) -> bool:
        return _are_finite([grad for tensor in tensors if (grad := gradients.get(id(tensor))) is not None])

    for call in reversed(calls):
        if not finite(call.outputs):
            return Culprit(call.name, "gradient of the output", Direction.BACKWARD)
        for name, parameter in call.parameters.items():
            if not finite([parameter]):
                return Culprit(call.name, f"gradient of {name}", Direction.BACKWARD)
        if not finite(call.inputs):
            return Culprit(call.name, "gradient of the input", Direction.BACKWARD)
    return None


def _again(model: nn.Module, known: Pass) -> tuple[list[_Call], list[torch.Tensor]]:
    calls: list[_Call] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls.append(_Call(name, _floats(inputs), _floats(output), dict(module.named_parameters(recurse=False))))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(note(name or "the model")) for name, module in leaves]
    try:
        with torch.enable_grad():
            out = model(*known.args, **known.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls, [tensor for tensor in _floats(out) if tensor.requires_grad]


@contextmanager
def _as_it_was(model: nn.Module, own: Lowering, known: Pass) -> Iterator[None]:
    """Meanwhile random numbers are those of the pass; everything that it changes is put back afterwards."""
    random = torch.get_rng_state()
    clock = own.watch.clock.clone()
    kept = [(buffer, buffer.clone()) for buffer in (*model.buffers(), *own.histories.values())]
    measuring, own.watch.measuring = own.watch.measuring, False
    torch.set_rng_state(known.random)
    # The pass adds one again.
    own.watch.clock.sub_(int(model.training))
    try:
        yield
    finally:
        torch.set_rng_state(random)
        own.watch.clock.copy_(clock)
        own.watch.measuring = measuring
        own.last = None
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _floats(value: Any) -> list[torch.Tensor]:
    return [x for x in tree_flatten(value)[0] if isinstance(x, torch.Tensor) and x.is_floating_point()]


def _are_finite(tensors: list[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor._values() if tensor.is_sparse else tensor).all()) for tensor in tensors)
