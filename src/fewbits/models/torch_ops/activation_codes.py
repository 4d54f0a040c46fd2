"""Codes of activations in torch's own operations, so that a compiler fuses them with what stands before.

The numbers are those of `fewbits.formats`: ``clip(round(x / s) + z)`` in float32, halves to even, scales from the
largest and least value as in `fewbits.formats.numerics.affine`. Values are finite: the codes of NaN are not defined,
and infinite values have no scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from fewbits.formats.integer import IntFormat

_TINY: Final = torch.finfo(torch.float32).tiny
_MAX: Final = np.finfo(np.float32).max

SHIFT: Final = 128
"""What makes unsigned codes of signed ones."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Lowest and highest code: plain numbers, which any version of the compiler understands."""

    low: int
    high: int

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


def dynamic_scale(x: torch.Tensor, ends: Ends, *, asymmetric: bool, per_row: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (both float32) that codes between `ends` take from `x`: of shape ``()``, or
    ``x.shape[:-1] + (1,)`` with one for each row of the last axis. `x` without elements has scale 1."""
    rows = (*x.shape[:-1], 1)
    if x.numel() == 0:
        shape = rows if per_row else ()
        ones = torch.ones(shape, dtype=torch.float32, device=x.device)
        return ones, torch.zeros_like(ones)
    low, high = torch.aminmax(x, dim=-1, keepdim=True) if per_row else torch.aminmax(x)
    low, high = low.float(), high.float()
    if asymmetric:
        return _asymmetric(low.clamp(max=0), high.clamp(min=0), ends)
    top = float(ends.high)
    reach = max(top, -float(ends.low))
    scale = _limited(torch.maximum(high, -low) / top, reach)
    return scale, torch.zeros_like(scale)


def _asymmetric(low: torch.Tensor, high: torch.Tensor, ends: Ends) -> tuple[torch.Tensor, torch.Tensor]:
    """`fewbits.formats.numerics.affine.asymmetric`, whose bound of scales beyond 1e36 is taken for all zero points."""
    steps = ends.high - ends.low
    wide = ((high.double() - low.double()) / steps).float()
    too_small = wide < _TINY
    divisor = torch.where(too_small, 1.0, wide)
    steps_low, steps_high = low / divisor, high / divisor
    # Both ends give an estimate of the zero point; the one with the smaller rounding error wins.
    from_low, from_high = ends.low - steps_low, ends.high - steps_high
    nearer = abs(ends.low) + steps_low.abs() < abs(ends.high) + steps_high.abs()
    nearest = torch.where(nearer, from_low, from_high).round().clamp(ends.low, ends.high)
    zero = torch.where(too_small, float(max(ends.low, 0)), nearest)
    return _limited(wide, float(steps)), zero


def _limited(scale: torch.Tensor, reach: float) -> torch.Tensor:
    largest = float(np.nextafter(_MAX / np.float32(reach), np.float32(0)))
    return torch.where(scale < _TINY, 1.0, scale.clamp(max=largest))
