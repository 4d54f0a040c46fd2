"""Codes of activations in torch's own operations, so that a compiler fuses them with what stands before.

The numbers are those of `fewbits.formats`: ``clip(round(x / s) + z)`` in float32, halves to even, scales from the
largest and least value as in `fewbits.formats.numerics.affine`. Values are finite: the codes of NaN are not defined,
and infinite values have no scale.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.scheme import integer

_TINY: Final = torch.finfo(torch.float32).tiny
_MAX: Final = np.finfo(np.float32).max

SHIFT: Final = 128
"""What makes unsigned codes of signed ones."""


def encode(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, element: IntFormat, dtype: torch.dtype, shift: int = 0
) -> torch.Tensor:
    """Codes of `x` as `dtype`, all moved by `shift`; `scale` and `zero`, which is moved already, broadcast to `x`."""
    # In place, because each of these passes over memory costs as much as the next in eager mode.
    steps = torch.div(x.float(), scale).round_().add_(zero)
    return steps.clamp_(element.qmin + shift, element.qmax + shift).to(dtype)


def dynamic_scale(x: torch.Tensor, operand: Format | None, *, per_row: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (both float32) that `operand` takes from `x`: of shape ``()``, or ``x.shape[:-1] + (1,)``
    with one for each row of the last axis. `x` without elements has scale 1."""
    element, asymmetric = integer(operand), isinstance(operand, ScaledFormat) and bool(operand.asymmetric)
    rows = (*x.shape[:-1], 1)
    if x.numel() == 0:
        shape = rows if per_row else ()
        ones = torch.ones(shape, dtype=torch.float32, device=x.device)
        return ones, torch.zeros_like(ones)
    low, high = torch.aminmax(x, dim=-1, keepdim=True) if per_row else torch.aminmax(x)
    low, high = low.float(), high.float()
    if asymmetric:
        return _asymmetric(low.clamp(max=0), high.clamp(min=0), element)
    top = float(element.qmax)
    reach = max(top, -float(element.qmin))
    scale = _limited(torch.maximum(high, -low) / top, reach)
    return scale, torch.zeros_like(scale)


def _asymmetric(low: torch.Tensor, high: torch.Tensor, element: IntFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """`fewbits.formats.numerics.affine.asymmetric`, whose bound of scales beyond 1e36 is taken for all zero points."""
    steps = element.qmax - element.qmin
    wide = ((high.double() - low.double()) / steps).float()
    too_small = wide < _TINY
    divisor = torch.where(too_small, 1.0, wide)
    steps_low, steps_high = low / divisor, high / divisor
    # Both ends give an estimate of the zero point; the one with the smaller rounding error wins.
    from_low, from_high = element.qmin - steps_low, element.qmax - steps_high
    nearer = abs(element.qmin) + steps_low.abs() < abs(element.qmax) + steps_high.abs()
    nearest = torch.where(nearer, from_low, from_high).round().clamp(element.qmin, element.qmax)
    zero = torch.where(too_small, float(max(element.qmin, 0)), nearest)
    return _limited(wide, float(steps)), zero


def _limited(scale: torch.Tensor, reach: float) -> torch.Tensor:
    largest = float(np.nextafter(_MAX / np.float32(reach), np.float32(0)))
    return torch.where(scale < _TINY, 1.0, scale.clamp(max=largest))
