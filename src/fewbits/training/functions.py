"""Products that are called as functions rather than as layers: of two activations, and with weights held elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from types import TracebackType
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fewbits.training.policy import Policy
from fewbits.training.products import Product, linear, matmul

_MATMULS = frozenset((torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm))
_REVERSED = frozenset((torch.Tensor.__rmatmul__,))
_OPERATORS = frozenset((torch.Tensor.__matmul__,))


class Functions(TorchFunctionMode):
    """While it is entered, products of activations are computed low if `products`, and others as `rest` says.

    A product is named by its place among those of the forward pass: ``matmul.0``, ``matmul.1``.
    """

    def __init__(self, product: Callable[[str], Product], products: bool, rest: Policy | None) -> None:
        super().__init__()
        self._product = product
        self._products = products
        self._rest = rest
        self._count = 0

    def __enter__(self) -> Functions:
        self._count = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rest is not None:
            self._rest.forget()
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or compute the product that it stands for."""
        named = kwargs or {}
        if self._products:
            if func is functional.scaled_dot_product_attention:
                return self._attention(*args, **named)
            if func is functional.linear and not named:
                return linear(args[0], args[1], args[2] if len(args) > 2 else None, self._next("linear"))
            operands = args[::-1] if func in _REVERSED else args
            if (func in _MATMULS or func in _OPERATORS or func in _REVERSED) and not named and _are_matrices(operands):
                return matmul(operands[0], operands[1], self._next("matmul"))
        return func(*args, **named) if self._rest is None else self._rest.call(func, args, named)

    def _next(self, kind: str) -> Product:
        name = f"{kind}.{self._count}"
        self._count += 1
        return self._product(name)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """What torch documents `scaled_dot_product_attention` to be."""
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        factor = 1 / sqrt(query.shape[-1]) if scale is None else scale
        logits = matmul(query * factor, key.mT, self._next("matmul"))
        if is_causal:
            hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
            logits = logits.masked_fill(hidden, float("-inf"))
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            logits = logits.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            logits = logits + attn_mask
        weights = torch.softmax(logits, -1)
        weights = functional.dropout(weights, dropout_p) if dropout_p else weights
        return matmul(weights, value, self._next("matmul"))


def _are_matrices(operands: Sequence[Any]) -> bool:
    """Whether both are matrices of numbers, or stacks of them."""
    return len(operands) == 2 and all(
        isinstance(x, torch.Tensor) and x.ndim >= 2 and x.is_floating_point() for x in operands
    )
