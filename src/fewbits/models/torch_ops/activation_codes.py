"""Codes of activations in torch's own operations, so that a compiler fuses them with what stands before.

The numbers are those of `fewbits.formats`: ``clip(round(x / s) + z)`` in float32, halves to even, scales from the
largest and least value as in `fewbits.formats.numerics.affine`. Values are finite: the codes of NaN are not defined,
and infinite values have no scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from fewbits.formats.integer import IntFormat

_TINY: Final = torch.finfo(torch.float32).tiny

SHIFT: Final = 128
"""What makes unsigned codes of signed ones."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Lowest and highest code, and the largest scale with which both stand for finite numbers: plain numbers, as the
    compiler trips over numpy's in inference mode."""

    low: int
    high: int
    largest_scale: float = field(init=False)

    def __post_init__(self) -> None:
        reach = np.float32(max(self.high, -self.low, 1))
        limit = np.nextafter(np.finfo(np.float32).max / reach, np.float32(0))
        object.__setattr__(self, "largest_scale", float(limit))

    @classmethod
    def of(cls, element: IntFormat) -> Ends:
        """Those of `element`."""
        return cls(element.qmin, element.qmax)

    def moved(self, shift: int) -> Ends:
        """Those of codes to which `shift` is added."""
        return Ends(self.low + shift, self.high + shift)


def encode(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, ends: Ends, dtype: torch.dtype) -> torch.Tensor:
    """Codes of `x` between `ends` as `dtype`; `scale` and `zero` (float32) broadcast to `x`."""
    # In place, because each of these passes over memory costs as much as the next in eager mode.
    steps = torch.div(x.float(), scale).round_().add_(zero)
    return steps.clamp_(ends.low, ends.high).to(dtype)


def dynamic_scale(x: torch.Tensor, ends: Ends, *, per_row: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (both float32) that codes between `ends` take from `x`: of shape ``()``, or
    ``x.shape[:-1] + (1,)`` with one for each row of the last axis. Codes from 0 on have a zero point, others are
    symmetric. `x` without elements has scale 1."""
    rows = (*x.shape[:-1], 1)
    if x.numel() == 0:
        shape = rows if per_row else ()
        ones = torch.ones(shape, dtype=torch.float32, device=x.device)
        return ones, torch.zeros_like(ones)
    # By row, the two one after the other take half as long as aminmax, which has no vectors there.
    low, high = (x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)) if per_row else torch.aminmax(x)
    if not ends.low:
        return _unsigned(low, high, ends)
    scale = _limited(torch.maximum(high, -low).float() / float(ends.high), ends)
    return scale, torch.zeros_like(scale)


def _unsigned(low: torch.Tensor, high: torch.Tensor, ends: Ends) -> tuple[torch.Tensor, torch.Tensor]:
    """`fewbits.formats.numerics.affine.asymmetric` for codes from 0 on, whose lower end always gives the zero point;
    its bound of scales beyond 1e36 is taken for all zero points."""
    low, high = low.double().clamp_(max=0), high.double().clamp_(min=0)
    scale = _limited(((high - low) / ends.high).float(), ends)
    return scale, torch.div(low.float(), -scale).round_().clamp_(0, ends.high)


def _limited(scale: torch.Tensor, ends: Ends) -> torch.Tensor:
    return torch.where(scale < _TINY, 1.0, scale.clamp(max=ends.largest_scale))
