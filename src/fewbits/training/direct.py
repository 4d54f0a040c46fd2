"""Layers of torch that call their operations themselves where every operation is reached.

The mode that looks up each operation costs about 20 us of Python a call, and a batch norm alone makes three. What these
layers call is known beforehand: one operation, whose arguments `Policy.call` casts as it would have, or only such that
the lists say nothing about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from fewbits.training.policy import Policy

M = TypeVar("M", bound=nn.Module)

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

QUIET: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Embedding, nn.Flatten, nn.Identity),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
"""Layers that call no operation of the lists."""


def _linear(layer: nn.Linear, x: torch.Tensor) -> tuple[Any, ...]:
    return x, layer.weight, layer.bias


def _convolution(layer: _Convolution, x: torch.Tensor) -> tuple[Any, ...]:
    return x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups


def _layer_norm(layer: nn.LayerNorm, x: torch.Tensor) -> tuple[Any, ...]:
    return x, layer.normalized_shape, layer.weight, layer.bias, layer.eps


def _group_norm(layer: nn.GroupNorm, x: torch.Tensor) -> tuple[Any, ...]:
    return x, layer.num_groups, layer.weight, layer.bias, layer.eps


ONE: Mapping[type[nn.Module], tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
    nn.Linear: (functional.linear, _linear),
    nn.Conv1d: (functional.conv1d, _convolution),
    nn.Conv2d: (functional.conv2d, _convolution),
    nn.Conv3d: (functional.conv3d, _convolution),
    nn.LayerNorm: (functional.layer_norm, _layer_norm),
    nn.GroupNorm: (functional.group_norm, _group_norm),
}
"""Layers that are one operation → which, and its arguments."""


class Direct(nn.Module):
    """A layer that asks `policy` itself, wherever nobody else wants to see its operations."""

    policy: Policy
    operation: Callable[..., Any] | None
    arguments: Callable[..., tuple[Any, ...]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives under `policy`."""
        if torch.compiler.is_compiling():
            return super().forward(*args, **kwargs)
        if kwargs or len(args) != 1 or type(args[0]) is not torch.Tensor or not self.policy.stands_alone:
            return super().forward(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if self.operation is None:
                return super().forward(*args)
            return self.policy.call(self.operation, self.arguments(self, *args), {})


def takes(module: nn.Module) -> bool:
    """Whether what `module` calls is known."""
    kind = type(module)
    padded = isinstance(module, _Convolution) and module.padding_mode != "zeros"
    return kind in QUIET or (kind in ONE and not padded)


def like(module: M, policy: Policy) -> M:
    """A layer with everything that `module`, of a kind that `takes` knows, has, which asks `policy`."""
    direct: type[M] = _CLASSES[type(module)]  # type: ignore[assignment]  # which is a class below that of `module`
    made = direct.__new__(direct)
    made.__dict__.update(module.__dict__)
    made.__dict__["policy"] = policy
    return made


def _class(kind: type[nn.Module]) -> type[nn.Module]:
    operation, arguments = ONE.get(kind, (None, _linear))
    own = {"__module__": kind.__module__, "operation": staticmethod(operation) if operation else None}
    return type(kind.__name__, (Direct, kind), {**own, "arguments": staticmethod(arguments)})


_CLASSES: Mapping[type[nn.Module], type[nn.Module]] = {kind: _class(kind) for kind in (*QUIET, *ONE)}
