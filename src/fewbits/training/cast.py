"""Casts of tensors by the cells of a recipe: with names for the random numbers, and histories for delayed scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.philox import tensor_id
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.rounding import NoiseKey, Rounding
from fewbits.formats.scaled import Format, ScaledFormat, element_of
from fewbits.formats.text import format_text, parse
from fewbits.training.cell import Cell
from fewbits.training.hadamard import rotated
from fewbits.training.orientation import oriented

_MASK = 0xFFFFFFFF
_NOT_DELAYED = torch.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """How one tensor of one layer is cast.

    `seed` and `name` are the tensor's own, `clock` a whole number in a tensor on the CPU that rises with every forward
    pass: together they name the random numbers. `history` are the largest magnitudes of the passes before, newest
    first (zeros for none), if the cell's scale is delayed.
    """

    cell: Cell
    name: str
    seed: int
    clock: torch.Tensor
    history: torch.Tensor = _NOT_DELAYED

    def __call__(self, x: torch.Tensor, summed: int = -1) -> torch.Tensor:
        """`x`, float32, as its format holds it; `summed` is the axis that the product sums over."""
        cell = self.cell
        if cell.is_identity:
            return x
        summed %= max(x.ndim, 1)
        if cell.hadamard:
            x = rotated(x, cell.hadamard, summed, self.seed)
        format = oriented(cell.format, summed, x.ndim)
        if torch.compiler.is_compiling():
            text, tensor = format_text(format), tensor_id(self.name)
            words = text, str(cell.rounding), str(cell.overflow), cell.fixed
            found: torch.Tensor = _cast_op(x.contiguous(), self.clock, self.history, *words, self.seed, tensor)
            return found
        return _cast(x, self.clock, self.history, format, cell, self.seed, tensor_id(self.name))


def _cast(
    x: torch.Tensor, clock: torch.Tensor, history: torch.Tensor, format: Format, cell: Cell, seed: int, tensor: int
) -> torch.Tensor:
    key = None
    if cell.rounding is Rounding.STOCHASTIC:
        key = NoiseKey(seed, int(clock) & _MASK, tensor)
    scale: torch.Tensor | float | None = cell.fixed or None
    if history.numel():
        scale = delayed_scale(x, history, format)
    with torch.no_grad():
        return fake_quantize(x.detach(), format, scale=scale, rounding=cell.rounding, overflow=cell.overflow, key=key)


def delayed_scale(x: torch.Tensor, history: torch.Tensor, format: Format) -> torch.Tensor:
    """The scale of `x` from `history`, which then begins with the largest magnitude of `x`.

    An empty history takes the largest magnitude of `x` itself: there is nothing better to go by.
    """
    element = element_of(format)
    assert isinstance(element, IntFormat | FloatFormat)
    now = torch.nan_to_num(x.detach().abs().amax().float(), 0.0, 0.0, 0.0)
    known = history.amax().to(now.device)
    known = torch.where(known > 0, known, now)
    history.copy_(torch.cat([now.to(history.device).reshape(1), history[:-1]]))
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(known > 0, (known / element.max).clamp_min(tiny), torch.ones_like(known))


@torch.library.custom_op("fewbits::cast", mutates_args={"history"})
def _cast_op(
    x: torch.Tensor,
    clock: torch.Tensor,
    history: torch.Tensor,
    format: str,
    rounding: str,
    overflow: str,
    fixed: float,
    seed: int,
    tensor: int,
) -> torch.Tensor:
    """The same as one operation, which a compiler need not look into."""
    known = parse(format)
    words = [format, rounding, overflow, *[f"scale={fixed}"] * bool(fixed)]
    return _cast(x, clock, history, known, Cell.parse(" ".join(words)), seed, tensor)


@_cast_op.register_fake
def _(
    x: torch.Tensor,
    clock: torch.Tensor,
    history: torch.Tensor,
    format: str,
    rounding: str,
    overflow: str,
    fixed: float,
    seed: int,
    tensor: int,
) -> torch.Tensor:
    return torch.empty_like(x)


def has_own_scale(format: Format) -> bool:
    """Whether one scale is found for the whole tensor."""
    return isinstance(format, ScaledFormat) and isinstance(format.granularity, Tensor)
