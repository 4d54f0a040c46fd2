"""Quantisation that lets gradients through: the straight-through estimator.

Sources: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, arXiv 1308.3432; for the clipped
form Choi et al., PACT, arXiv 1805.06085, and Krishnamoorthi, arXiv 1806.08342, section 2.4.
"""

from __future__ import annotations

from typing import Any

import torch

from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Shape, Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.kernels import torch_tensors
from fewbits.formats.numerics.scales import Scales
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import REAL, Format, PowerOfTwoScale, ScaledFormat, ScaleRule, element_of
from fewbits.formats.text import parse


def fake_quantize_ste(
    x: torch.Tensor,
    format: Format | str,
    *,
    scale: torch.Tensor | float | None = None,
    zero_point: torch.Tensor | int = 0,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    overflow: Overflow | str = Overflow.SATURATE,
    key: NoiseKey | None = None,
    clipped: bool = True,
) -> torch.Tensor:
    """`fewbits.formats.quantize.fake_quantize` of a tensor, with a gradient: that of the identity.

    `clipped`: the gradient is 0 where the value lies more than half a step beyond the limits of the format, so that it
    was clipped and not merely rounded. Lists of levels (binary, ternary, codebooks) have no limits in this
    sense, and scales that are taken from the largest magnitude itself clip nothing. What is kept for the backward
    pass is one bool per element, and only if something can have been clipped. Scales get no gradient, and there is no
    second derivative. Other arguments and errors as in `fake_quantize`.
    """
    known = parse(format) if isinstance(format, str) else format
    values = fake_quantize(
        x.detach(), known, scale=scale, zero_point=zero_point, rounding=rounding, overflow=overflow, key=key
    )
    if not (x.requires_grad and torch.is_grad_enabled()):
        return values
    inside = _inside(x.detach(), known, scale, zero_point) if clipped else None
    result: torch.Tensor = _StraightThrough.apply(x, values, inside)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    """`values` forward, the gradient backward where `inside` (None: everywhere)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(*([] if inside is None else [inside]))
        return values.view_as(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Not a product: the gradient of an element outside may be infinite.
        for inside in ctx.saved_tensors:
            gradient = torch.where(inside, gradient, torch.zeros((), dtype=gradient.dtype, device=gradient.device))
        return gradient, None, None


def _inside(
    x: torch.Tensor, format: Format, scale: torch.Tensor | float | None, zero_point: torch.Tensor | int
) -> torch.Tensor | None:
    """Where nothing is clipped; None for everywhere."""
    element = element_of(format)
    if not isinstance(element, IntFormat | FloatFormat):
        return None
    if scale is not None:
        scaled = format if isinstance(format, ScaledFormat) else ScaledFormat(element, Tensor())
        return _within(x, scaled, element, torch_tensors.given_scales(x, scaled, scale, zero_point))
    if not isinstance(format, ScaledFormat):
        low, high = _limits(element)
        return ~((x < low) | (x > high))
    kind = format.scale
    if kind == REAL or (isinstance(kind, PowerOfTwoScale) and kind.rule in (ScaleRule.CEIL, ScaleRule.RCEIL)):
        return None
    return _within(x, format, element, torch_tensors.scales_of(x, format))


def _within(
    x: torch.Tensor, format: ScaledFormat, element: IntFormat | FloatFormat, scales: Scales[torch.Tensor]
) -> torch.Tensor:
    shape = tuple(x.shape)
    tile = format.granularity.tile(shape)
    unit = 2.0**-element.fraction if isinstance(element, IntFormat) else 0.0
    step, shift = scales.scale * scales.tensor_scale, scales.zero_point * unit
    low, high = (_spread((end - shift) * step, tile, shape) for end in _limits(element))
    return ~((x < low) | (x > high))


def _limits(element: IntFormat | FloatFormat) -> tuple[float, float]:
    """The limits of `element`, and half a step."""
    grid = element.grid
    half_step = 2.0 ** (max(element.max_exponent, grid.min_exponent) - grid.mantissa_bits - 1)
    return grid.low - half_step, grid.high + half_step


def _spread(values: torch.Tensor, tile: Shape, shape: Shape) -> torch.Tensor:
    """`values`, one per tile, as a tensor of `shape`; a view where no axis is cut into groups."""
    for axis, (step, size) in enumerate(zip(tile, shape, strict=True)):
        if 1 < step < size:
            values = values.repeat_interleave(step, axis).narrow(axis, 0, size)
    return values.expand(shape)
