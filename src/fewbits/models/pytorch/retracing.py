"""How a stored graph is read: PyTorch runs its code and writes down the calls.

What reads no tensor, as ``zeros`` of sizes that depend on the inputs, PyTorch would run then and there, which fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode


class Retracing(fx.Tracer):
    """Writes down every call of a library operator, whatever it reads."""

    def trace(
        self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None, **extras: Any
    ) -> fx.Graph:
        """The graph of `root`."""
        with _Written(self):
            return super().trace(root, concrete_args, **extras)


class _Written(TorchFunctionMode):
    def __init__(self, tracer: fx.Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """A call in the graph instead of one."""
        named = dict(kwargs or {})
        if isinstance(func, torch._ops.OpOverload):
            return self._tracer.create_proxy("call_function", func, args, named)
        return func(*args, **named)
