"""Casts of tensors by the cells of a recipe: with names for the random numbers, and histories for delayed scales."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch

from fewbits.formats.floating import FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.philox import tensor_id
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.rounding import NoiseKey, Rounding
from fewbits.formats.scaled import Format, element_of
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
    text: str = field(init=False)
    number: int = field(init=False)
    keeps: bool = field(init=False)

    def __post_init__(self) -> None:
        # A compiler that traces a cast must not meet what makes these.
        object.__setattr__(self, "text", str(self.cell))
        object.__setattr__(self, "number", tensor_id(self.name))
        object.__setattr__(self, "keeps", self.cell.is_identity)

    def __call__(self, x: torch.Tensor, summed: int = -1, factor: float = 1.0) -> torch.Tensor:
        """`x`, float32, as its format holds it; `summed` is the axis that the product sums over.

        With a `factor`, of a format without scales, it is `x` times the factor that the format holds: the cast of that
        product, divided by the factor again, in one pass. Not where a compiler traces.
        """
        if self.keeps:
            return x
        if torch.compiler.is_compiling():
            found: torch.Tensor = _cast_op(x, self.clock, self.history, self.text, summed, self.seed, self.number)
            return found
        return _cast(x, self.clock, self.history, self.cell, summed, self.seed, self.number, factor)


def _cast(
    x: torch.Tensor,
    clock: torch.Tensor,
    history: torch.Tensor,
    cell: Cell,
    summed: int,
    seed: int,
    tensor: int,
    factor: float = 1.0,
) -> torch.Tensor:
    with torch.no_grad():
        x = x.detach()
        summed %= max(x.ndim, 1)
        if cell.hadamard:
            x = rotated(x, cell.hadamard, summed, seed)
        format = oriented(cell.format, summed, x.ndim)
        key = NoiseKey(seed, int(clock) & _MASK, tensor) if cell.rounding is Rounding.STOCHASTIC else None
        scale: torch.Tensor | float | None = cell.fixed or (1 / factor if factor != 1 else None)
        if history.numel():
            scale = delayed_scale(x, history, format)
        return fake_quantize(x, format, scale=scale, rounding=cell.rounding, overflow=cell.overflow, key=key)


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
    x: torch.Tensor, clock: torch.Tensor, history: torch.Tensor, cell: str, summed: int, seed: int, tensor: int
) -> torch.Tensor:
    """The same as one operation, which a compiler need not look into."""
    return _cast(x, clock, history, _cell(cell), summed, seed, tensor)


@_cast_op.register_fake
def _(
    x: torch.Tensor, clock: torch.Tensor, history: torch.Tensor, cell: str, summed: int, seed: int, tensor: int
) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_cell = lru_cache(256)(Cell.parse)
