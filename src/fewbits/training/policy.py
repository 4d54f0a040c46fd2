"""The precision of every operation in a forward pass, by the name of the operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fewbits.training import op_lists

_NAMESPACES = (
    torch,
    torch.Tensor,
    torch._C.TensorBase,
    torch.nn.functional,
    torch._C._nn,
    torch.linalg,
    torch.fft,
)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_NO_WORDS: Mapping[str, Any] = {}


class Rule(Enum):
    """What the floating-point arguments of an operation become."""

    LOW = auto()
    FP32 = auto()
    WIDEST = auto()


def _table() -> Mapping[Callable[..., object], Rule]:
    lists = ((op_lists.LOW, Rule.LOW), (op_lists.FP32, Rule.FP32), (op_lists.WIDEST, Rule.WIDEST))
    rules = {name: rule for names, rule in lists for name in names}
    return {
        function: rules[name]
        for namespace in _NAMESPACES
        for name, function in vars(namespace).items()
        if name in rules and callable(function)
    }


RULES = _table()
"""Function of torch, by any of its names → rule."""


class Policy(TorchFunctionMode):
    """While it is entered, operations take their arguments in the type that the lists say; `low` is the low one.

    `pure` computes every operation low. A parameter is cast once per forward pass. Float64 arguments and operations of
    the lists that get no low argument are left alone.
    """

    def __init__(self, low: torch.dtype, *, pure: bool = False) -> None:
        super().__init__()
        self.low = low
        self.pure = pure
        self._weights: dict[tuple[int, bool], torch.Tensor] = {}
        self._entered = False

    @property
    def stands_alone(self) -> bool:
        """Whether it is entered and no other mode is."""
        return self._entered and torch._C._len_torch_function_stack() == 1

    def __enter__(self) -> Policy:
        self._weights.clear()
        self._entered = True
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()
        self._entered = False
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` with its arguments cast."""
        return self.call(func, args, kwargs or _NO_WORDS)

    def forget(self) -> None:
        """Drop the weights that were cast: the next forward pass casts them anew."""
        self._weights.clear()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call `func` with its arguments cast."""
        rule = RULES.get(func)
        if rule is None:
            return func(*args, **kwargs)
        to = self.low if self.pure or rule is Rule.LOW else torch.float32
        if rule is Rule.WIDEST and not self.pure:
            found = [x.dtype for x in _tensors((*args, *kwargs.values())) if x.dtype in _FLOATS]
            if torch.float32 not in found:
                return func(*args, **kwargs)
        cast = [self._cast(value, to) for value in args]
        if not kwargs:
            return func(*cast)
        return func(*cast, **{key: self._cast(value, to) for key, value in kwargs.items()})

    def _cast(self, value: Any, to: torch.dtype) -> Any:
        if isinstance(value, torch.Tensor):
            if value.dtype is to or value.dtype not in _FLOATS:
                return value
            if isinstance(value, torch.nn.Parameter):
                return self._weight(value, to)
            return value.to(to)
        if type(value) in (tuple, list):
            return type(value)(self._cast(item, to) for item in value)
        return value

    def _weight(self, weight: torch.nn.Parameter, to: torch.dtype) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return weight.to(to)
        # What was cast without a graph must not be used where gradients are wanted.
        key = id(weight), torch.is_grad_enabled()
        known = self._weights.get(key)
        if known is None or known.dtype is not to:
            known = weight.to(to)
            self._weights[key] = known
        return known


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif type(value) in (tuple, list):
            found.extend(_tensors(value))
    return found
