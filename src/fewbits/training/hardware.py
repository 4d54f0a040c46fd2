"""Products of FP8 operands on the tensor cores: ``torch._scaled_mm``, where a GPU has it.

Casts are written in plain operations of torch, so that a compiler fuses them with what stands before; they agree with
`fewbits.formats` bit for bit in eager mode (division by the scale, round to nearest even, saturating). Products are
summed by the hardware (`fewbits.training.accumulation` has the model of it) and given as bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fewbits.formats.floating import E4M3, E5M2, FloatFormat
from fewbits.formats.granularity import Channel, Tensor, Token
from fewbits.formats.scaled import PowerOfTwoScale, RealScale, ScaledFormat
from fewbits.training.cell import Cell
from fewbits.training.table import Place, Recipe

TYPES = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
_CAPABILITY = (8, 9)
_MULTIPLE = 16  # of every size of an operand
_TINY = 2.0**-126
_OPERANDS = (
    Place.WEIGHT_FORWARD,
    Place.WEIGHT_BACKWARD,
    Place.ACTIVATION_FORWARD,
    Place.ACTIVATION_BACKWARD,
    Place.ERROR_BACKWARD,
    Place.ERROR_WEIGHT,
)


@dataclass(frozen=True, slots=True)
class Operand:
    """How one operand is cast: to which type, one scale per row of the matrix or one in all, a power of two or not."""

    element: FloatFormat
    rows: bool
    power: bool

    @property
    def dtype(self) -> torch.dtype:
        """The type of torch that holds it."""
        return TYPES[self.element]

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of the matrix `x`, whose last axis is summed over, and its scales: one, or (rows, 1); float32."""
        wide = x.float()
        amax = wide.abs().amax(-1, keepdim=True) if self.rows else wide.abs().amax()
        scale = _scale(amax, self.element.max, self.power)
        top = self.element.max
        return (wide / scale).clamp(-top, top).to(self.dtype), scale


@dataclass(frozen=True, slots=True)
class Float8Linear:
    """A linear layer on FP8 tensor cores; `fast` sums without promotion in the forward pass, as torchao does."""

    operands: tuple[Operand, ...]
    fast: bool = True

    def takes(self, x: torch.Tensor, weight: torch.Tensor) -> bool:
        """Whether the sizes are those that the hardware multiplies."""
        sizes = (x.numel() // x.shape[-1] if x.shape[-1] else 0, *weight.shape)
        return x.is_cuda and all(size and size % _MULTIPLE == 0 for size in sizes)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``x @ weight.T + bias``, bfloat16 unless x is float32."""
        flat = x.reshape(-1, x.shape[-1])
        out: torch.Tensor = _Float8.apply(flat, weight, self.operands, self.fast)  # type: ignore[no-untyped-call]
        out = out if bias is None else out + bias.to(out.dtype)
        return out.view(*x.shape[:-1], weight.shape[0])


class _Float8(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, operands: tuple[Operand, ...], fast: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.operands = operands
        return scaled_product(operands[2](x), operands[0](weight), fast).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, weight_back, _, x_back, error_back, error_weight = ctx.operands
        error = errors[0]
        x_grad = w_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = scaled_product(error_back(error), weight_back(weight.t()), False).to(x.dtype)
        if ctx.needs_input_grad[1]:
            w_grad = scaled_product(error_weight(error.t()), x_back(x.t()), False).to(weight.dtype)
        return x_grad, w_grad, None, None


def scaled_product(
    a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], fast: bool
) -> torch.Tensor:
    """The product of `a` (rows, depth) with `b` (columns, depth) transposed; codes and scales; bfloat16."""
    (left, left_scale), (right, right_scale) = a, b
    if left_scale.ndim:
        right_scale = right_scale.t()
    out: torch.Tensor = torch._scaled_mm(
        left.contiguous(),
        right.contiguous().t(),
        scale_a=left_scale,
        scale_b=right_scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )
    return out


def float8_linear(recipe: Recipe) -> Float8Linear | None:
    """The hardware's way of computing linear layers by `recipe`; None if it has no such product."""
    found = [_operand(recipe.cell(place)) for place in _OPERANDS]
    others = (Place.ACTIVATION_OUTPUT, Place.ERROR_OUTPUT, Place.GRADIENT)
    if not all(recipe.cell(place).is_identity for place in others) or not recipe.sums.is_exact:
        return None
    operands = tuple(operand for operand in found if operand is not None)
    one_sort = len({operand.rows for operand in operands}) == 1
    return Float8Linear(operands) if len(operands) == len(_OPERANDS) and one_sort else None


@lru_cache(8)
def missing(device: torch.device) -> str:
    """Why `device` does not multiply FP8 by itself; empty if it was seen to."""
    if device.type != "cuda":
        return f"{device.type} has no FP8 products: they are emulated"
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no FP8 tensor cores: they are emulated"
    ones = torch.ones(_MULTIPLE, _MULTIPLE, device=device)
    try:
        for rows in (False, True):
            operand = Operand(E4M3, rows, rows)
            out = scaled_product(operand(ones), operand(ones), False)
            if not bool((out == _MULTIPLE).all()):
                return "torch._scaled_mm gives a wrong product: FP8 products are emulated"
    except (RuntimeError, ValueError) as error:
        return f"torch._scaled_mm does not run here ({str(error).splitlines()[0]}): FP8 products are emulated"
    return ""


def _operand(cell: Cell) -> Operand | None:
    format = cell.format
    if cell.history or cell.fixed or cell.hadamard or cell.is_stochastic or not isinstance(format, ScaledFormat):
        return None
    element, sharing, kind = format.element, format.granularity, format.scale
    if (
        not isinstance(element, FloatFormat)
        or element not in TYPES
        or not isinstance(kind, RealScale | PowerOfTwoScale)
    ):
        return None
    if not isinstance(sharing, Tensor | Token | Channel):
        return None
    return Operand(element, not isinstance(sharing, Tensor), isinstance(kind, PowerOfTwoScale))


def _scale(amax: torch.Tensor, top: float, power: bool) -> torch.Tensor:
    """What `fewbits.formats` takes for a tile of that largest magnitude: amax / top, or the power of two above it."""
    finite = torch.where(torch.isfinite(amax) & (amax > 0), amax, torch.full_like(amax, top))
    scale = (finite / top).clamp_min(_TINY)
    if not power:
        return scale
    mantissa, exponent = torch.frexp(finite / top)
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).to(exponent.dtype)).clamp_min(_TINY)
