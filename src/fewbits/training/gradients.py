"""Gradients of a step: the loss scale taken off, looked at for what is not finite, and clipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor


def unscaled(parameters: Iterable[nn.Parameter], scale: float) -> None:
    """Divide the gradients of `parameters`, all float32 or wider, by `scale`, in place."""
    values = _values(parameters)
    if scale != 1 and values:
        torch._foreach_mul_(values, 1.0 / scale)


def are_finite(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether no gradient holds Inf or NaN; of parameters that are spread over processes, in all of them."""
    values = [part for part in _values(parameters) if part.numel()]
    bad = torch.zeros(())
    if values:
        bad = _worst(values)
    if any(isinstance(parameter.grad, DTensor) for parameter in parameters):
        distributed.all_reduce(bad, distributed.ReduceOp.MAX)
    return not bool(bad)


def _worst(values: list[torch.Tensor]) -> torch.Tensor:
    """1 if an element of `values` is not finite, otherwise 0."""
    # A sum is finite only if all of its elements are, and on the CPU takes a small part of the time of a maximum.
    on_cpu = values[0].device.type == "cpu"
    if on_cpu and all(isfinite(total) for total in torch.stack([part.sum() for part in values]).tolist()):
        return torch.zeros(())
    # The largest magnitude is not finite if one element is not, and cannot overflow as a sum could.
    return (~torch.isfinite(torch.stack(torch._foreach_norm(values, float("inf"))))).any().float()


def clipped(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale the gradients down to a total norm of `limit` if it is larger (0: never); the norm as it was."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    dense = [grad._values() if grad.is_sparse else grad for grad in found]
    total = nn.utils.get_total_norm(dense)
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    if 0 < limit < norm:
        torch._foreach_mul_(_values(parameters), limit / (norm + 1e-6))
    return norm


def local(x: torch.Tensor) -> torch.Tensor:
    """The part of `x` that this process holds: all of it, unless it is spread over several."""
    if isinstance(x, DTensor):
        part: torch.Tensor = x.to_local()
        return part
    return x.detach()


def coalesce(parameters: Iterable[nn.Parameter]) -> None:
    """Sum what sparse gradients hold several times, so that their values are gradients."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()


def _values(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients' numbers: of sparse ones those that are there, of spread ones those of this process."""
    values = []
    for parameter in parameters:
        grad = parameter.grad
        if grad is None:
            continue
        grad = local(grad)
        values.append(grad._values() if grad.is_sparse else grad)
    return values
