"""Products of a layer in low precision: linear, convolution, and of two activations, forward and backward.

Operands are cast as the recipe says, their products formed in fp32 (`fewbits.training.sums` for other sums). Errors
between layers are fp32 tensors at the scale of the loss: a scale of a layer's own (Zhao et al., arXiv 1910.12385) is
put on before its casts and taken off behind them, so that branches meet at one scale whatever their layers' scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import frexp
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fewbits.formats.floating import FloatFormat
from fewbits.training.accumulation import Accumulation
from fewbits.training.cast import Cast
from fewbits.training.cell import Cell
from fewbits.training.orientation import same_either_way
from fewbits.training.sums import product
from fewbits.training.table import INHERITS, Place
from fewbits.training.watch import Watch

_OPERANDS = (Place.ERROR_BACKWARD, Place.ERROR_WEIGHT, Place.WEIGHT_BACKWARD, Place.ACTIVATION_BACKWARD)
_LEAST, _HALF = 2.0**-40, 0.5

ConvArguments = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, whether transposed, output padding, groups."""


@dataclass(slots=True, eq=False)
class Product:
    """One product of the layer `name`: how each of its tensors is cast, and how it is summed."""

    name: str
    casts: Mapping[Place, Cast]
    sums: Accumulation
    watch: Watch

    def reuses(self, place: Place) -> bool:
        """Whether the tensor at `place` is the one that was cast already for the place it inherits from."""
        mine, other = self.casts[place].cell, self.casts[INHERITS[place]].cell
        return mine == other and same_either_way(mine.format)

    def split(self, factor: float, error: torch.Tensor) -> tuple[float, float]:
        """What `error` is multiplied by, and what its casts multiply and divide by within: `factor` is one of them.

        Both are the same bits where the second is offered: powers of two, and formats so far from float32's ends that
        no sum of products comes near them. The second saves passes over memory.
        """
        usual = error.device.type == "cpu" and not torch.compiler.is_compiling() and frexp(factor)[0] == _HALF
        if factor == 1 or not usual or not _LEAST <= factor <= 1 / _LEAST or not self.sums.is_exact:
            return factor, 1.0
        within = all(_is_far(self.casts[place].cell) for place in _OPERANDS)
        within &= all(_is_plain(self.casts[place].cell) for place in (Place.ERROR_OUTPUT, Place.GRADIENT))
        return (1.0, factor) if within else (factor, 1.0)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Product) -> torch.Tensor:
    """``x @ weight.T + bias`` for x of shape (..., depth) and a weight (columns, depth)."""
    # What is computed inside is not for the mode that the forward pass may run under.
    with torch._C.DisableTorchFunction():
        flat = x.reshape(-1, x.shape[-1])
        out: torch.Tensor = _Linear.apply(flat, weight, bias, how)  # type: ignore[no-untyped-call]
        return out if x.ndim == flat.ndim else out.view(*x.shape[:-1], weight.shape[0])


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, arguments: ConvArguments, how: Product
) -> torch.Tensor:
    """The convolution of x, (batch, channels, ...), with `weight`, as torch lays both out."""
    with torch._C.DisableTorchFunction():
        out: torch.Tensor = _Convolution.apply(x, weight, bias, arguments, how)  # type: ignore[no-untyped-call]
        return out


def matmul(a: torch.Tensor, b: torch.Tensor, how: Product) -> torch.Tensor:
    """``a @ b`` for activations of shape (..., rows, depth) and (..., depth, columns)."""
    with torch._C.DisableTorchFunction():
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
        a, b = a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:])
        out: torch.Tensor = _Matmul.apply(a, b, how)  # type: ignore[no-untyped-call]
        return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Product
    ) -> torch.Tensor:
        wide, wide_weight = x.float(), weight.float()
        low_weight = how.casts[Place.WEIGHT_FORWARD](wide_weight, 1)
        low = how.casts[Place.ACTIVATION_FORWARD](wide, 1)
        out = product(low, low_weight.t(), how.sums)
        if bias is not None:
            out = out + bias
        out = how.casts[Place.ACTIVATION_OUTPUT](out)
        ctx.save_for_backward(
            low if how.reuses(Place.ACTIVATION_BACKWARD) else x,
            low_weight if how.reuses(Place.WEIGHT_BACKWARD) else weight,
        )
        ctx.how, ctx.layer, ctx.types = how, how.name, (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        how: Product = ctx.how
        saved, weight = ctx.saved_tensors
        x_type, weight_type, bias_type = ctx.types
        error = errors[0].float()
        bias = error.sum(0).to(bias_type) if bias_type is not None and ctx.needs_input_grad[2] else None
        factor, within = how.split(how.watch.factor(how.name, error, weight, error.shape[1]), error)
        error = _scaled(error, factor)
        how.watch.count(error)
        low = how.casts[Place.ERROR_BACKWARD](error, 1, within)
        x = grad = None
        if ctx.needs_input_grad[0]:
            weight = (
                weight if how.reuses(Place.WEIGHT_BACKWARD) else how.casts[Place.WEIGHT_BACKWARD](weight.float(), 0)
            )
            x = _leaving(product(low, weight, how.sums), how, factor, within).to(x_type)
        if ctx.needs_input_grad[1]:
            low = low if how.reuses(Place.ERROR_WEIGHT) else how.casts[Place.ERROR_WEIGHT](error, 0, within)
            if not how.reuses(Place.ACTIVATION_BACKWARD):
                saved = how.casts[Place.ACTIVATION_BACKWARD](saved.float(), 0)
            grad = how.casts[Place.GRADIENT](product(low.t(), saved, how.sums), -1, within)
            grad = _scaled(grad, 1 / factor).to(weight_type)
        return x, grad, bias, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        arguments: ConvArguments,
        how: Product,
    ) -> torch.Tensor:
        transposed = arguments[3]
        wide_weight = weight.float()
        low_weight = how.casts[Place.WEIGHT_FORWARD](wide_weight, 0 if transposed else 1)
        low = how.casts[Place.ACTIVATION_FORWARD](x.float(), 1)
        out = torch.convolution(low, low_weight, None if bias is None else bias.float(), *arguments)
        out = how.casts[Place.ACTIVATION_OUTPUT](out, 1)
        ctx.save_for_backward(
            low if how.reuses(Place.ACTIVATION_BACKWARD) else x,
            low_weight if how.reuses(Place.WEIGHT_BACKWARD) else weight,
        )
        ctx.how, ctx.layer, ctx.arguments = how, how.name, arguments
        ctx.types = (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        how: Product = ctx.how
        saved, weight = ctx.saved_tensors
        x_type, weight_type, bias_type = ctx.types
        transposed = ctx.arguments[3]
        error = errors[0].float()
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        bias = None
        if bias_type is not None and wants_bias:
            bias = error.sum([0, *range(2, error.ndim)]).to(bias_type)
        # One outgoing error sums over the outgoing channels of its group, and the places of the kernel.
        depth = weight.numel() // weight.shape[0 if transposed else 1] // (1 if transposed else ctx.arguments[5])
        factor, within = how.split(how.watch.factor(how.name, error, weight, max(depth, 1)), error)
        error = _scaled(error, factor)
        how.watch.count(error)
        low = how.casts[Place.ERROR_BACKWARD](error, 1, within)
        shared = how.reuses(Place.ERROR_WEIGHT) and how.reuses(Place.WEIGHT_BACKWARD)
        if shared and how.reuses(Place.ACTIVATION_BACKWARD):
            x, grad = _convolution_backward(low, saved, weight, ctx.arguments, wants_x, wants_weight)
        else:
            x = grad = None
            if wants_x:
                if not how.reuses(Place.WEIGHT_BACKWARD):
                    weight = how.casts[Place.WEIGHT_BACKWARD](weight.float(), 1 if transposed else 0)
                x, _ = _convolution_backward(low, saved.float(), weight, ctx.arguments, True, False)
            if wants_weight:
                low = low if how.reuses(Place.ERROR_WEIGHT) else how.casts[Place.ERROR_WEIGHT](error, 0, within)
                if not how.reuses(Place.ACTIVATION_BACKWARD):
                    saved = how.casts[Place.ACTIVATION_BACKWARD](saved.float(), 0)
                _, grad = _convolution_backward(low, saved, weight.float(), ctx.arguments, False, True)
        if x is not None:
            x = _leaving(x, how, factor, within).to(x_type)
        if grad is not None:
            grad = _scaled(how.casts[Place.GRADIENT](grad, -1, within), 1 / factor).to(weight_type)
        return x, grad, bias, None, None


class _Matmul(torch.autograd.Function):
    """Both operands are activations. Stacks of matrices are cast with the axis that is summed over last."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, how: Product) -> torch.Tensor:
        cast = how.casts[Place.ACTIVATION_FORWARD]
        low_a, low_b = cast(a.float()), cast(b.float().mT.contiguous()).mT
        ctx.save_for_backward(*(low_a, low_b) if _both_ways(how) else (a, b))
        ctx.how, ctx.layer, ctx.types = how, how.name, (a.dtype, b.dtype)
        return how.casts[Place.ACTIVATION_OUTPUT](low_a @ low_b).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        how: Product = ctx.how
        a, b = ctx.saved_tensors
        error = errors[0].float()
        factor, within = how.split(how.watch.factor(how.name, error, b, error.shape[-1]), error)
        error = _scaled(error, factor)
        how.watch.count(error)
        low = how.casts[Place.ERROR_BACKWARD](error, -1, within)
        again = how.casts[Place.ACTIVATION_BACKWARD]
        grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            right = b if _both_ways(how) else again(b.float())
            grad_a = _leaving(low @ right.mT, how, factor, within).to(ctx.types[0])
        if ctx.needs_input_grad[1]:
            turned = low.mT
            if not how.reuses(Place.ERROR_WEIGHT):
                turned = how.casts[Place.ERROR_WEIGHT](error.mT.contiguous(), -1, within)
            left = a.mT if _both_ways(how) else again(a.float().mT.contiguous())
            grad_b = _leaving(left @ turned.mT, how, factor, within).to(ctx.types[1])
        return grad_a, grad_b, None


def _is_plain(cell: Cell) -> bool:
    return isinstance(cell.format, FloatFormat) and not cell.hadamard


def _is_far(cell: Cell) -> bool:
    """Whether values of `cell` are plain, and products of two are far from what float32 rounds otherwise."""
    format = cell.format
    return (
        isinstance(format, FloatFormat)
        and not cell.hadamard
        and format.min_positive >= _LEAST
        and format.max <= 1 / _LEAST
    )


def _both_ways(how: Product) -> bool:
    return how.reuses(Place.ACTIVATION_BACKWARD)


def _convolution_backward(
    error: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, arguments: ConvArguments, wants_x: bool, wants_w: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    stride, padding, dilation, transposed, output_padding, groups = arguments
    x_grad, w_grad, _ = torch.ops.aten.convolution_backward(
        error, x, weight, None, stride, padding, dilation, transposed, output_padding, groups, [wants_x, wants_w, False]
    )
    return (x_grad if wants_x else None), (w_grad if wants_w else None)


def _leaving(error: torch.Tensor, how: Product, factor: float, within: float) -> torch.Tensor:
    out = _scaled(how.casts[Place.ERROR_OUTPUT](error, -1, within), 1 / factor)
    how.watch.leaving(how.name, out)
    return out


def _scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x if factor == 1 else x * factor
