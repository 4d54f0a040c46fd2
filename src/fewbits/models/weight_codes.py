"""Codes of weights and biases as numpy arrays, the same for every representation of a model.

Weights are symmetric with one scale per output channel or for the whole, biases int32 with the scale ``s_x * s_w``
(oneDNN; Rodriguez et al. 2018; docs/int8.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.formats.granularity import Channel, Tensor
from fewbits.formats.numerics.affine import Affine, symmetric
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import fake_quantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import integer

Float = NDArray[np.float32]

_BIAS_LIMIT: Final = 2.0**30
"""Half of what int32 holds: the other half is for the sum of products that the bias is added to."""
_PART: Final = 1 << 22
"""Elements that are rounded at a time."""
_SHRINKS: Final = np.linspace(1.0, 0.25, 16, dtype=np.float32)
_WIDE: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class ChannelCodes:
    """int8 codes of a weight whose output channels are axis 0, one scale per channel."""

    codes: NDArray[np.int8]
    scale: Float


def weight_affine(
    weight: Float,
    operand: ScaledFormat,
    axis: int,
    bias: Float | None,
    activation_scale: float,
    scale: Float | None = None,
) -> Affine:
    """Scales of a weight: per output channel (along `axis`) or for the whole tensor; the `scale` of channels if that is
    given.

    A channel's scale grows where its int32 bias would overflow, and a channel of zeros takes the
    smallest scale of its neighbours, so that its bias keeps its precision.
    """
    per_channel = operand.granularity != Tensor()
    others = tuple(i for i in range(weight.ndim) if i != axis or not per_channel)
    # Without a copy of the magnitudes, which would be as large as the weight.
    absmax = np.maximum(weight.max(axis=others, initial=0), -weight.min(axis=others, initial=0))
    positive = absmax[absmax > 0]
    absmax = np.where(absmax > 0, absmax, positive.min() if positive.size else 1).astype(np.float32)
    affine = symmetric(absmax, integer(operand), axis if per_channel else None)
    if scale is not None:
        affine = Affine(
            affine.format, np.where(_is_empty(weight, others), affine.scale, scale), affine.zero_point, axis
        )
    if bias is None:
        return affine
    least = np.abs(bias).astype(np.float64) / (activation_scale * _BIAS_LIMIT)
    if per_channel and least.size > affine.scale.size:
        least = least.reshape(-1, affine.scale.size).max(axis=0)
    grown = np.maximum(affine.scale, least if per_channel else least.max(initial=0)).astype(np.float32)
    return Affine(affine.format, grown, affine.zero_point, affine.axis)


def _is_empty(weight: Array, others: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which channels hold zeros alone; `others` are the axes but theirs."""
    return np.asarray(~(weight != 0).any(axis=others))


def weight_codes(weight: Array, affine: Affine) -> Array:
    """Codes of `weight` with symmetric scales, for the whole of it or along one axis; or with one scale and a zero
    point."""
    step = max(1, _PART // max(1, weight[:1].size)) if weight.ndim else 1
    if weight.ndim and len(weight) > step:
        # Rounding takes several times the memory of what it rounds; element by element, parts give the same.
        starts = range(0, len(weight), step)
        return np.concatenate([weight_codes(weight[s : s + step], _rows(affine, s, s + step)) for s in starts])
    sharing = Tensor() if affine.axis is None else Channel(affine.axis)
    shape = [-1 if place == affine.axis else 1 for place in range(weight.ndim)]
    # Without a zero point of its own, an unsigned format has it in the middle.
    shifted = not affine.format.signed
    format = ScaledFormat(affine.format, sharing, asymmetric=shifted)
    zero = affine.zero_point.reshape(shape) if shifted else 0
    return quantize(weight, format, scale=affine.scale.reshape(shape), zero_point=zero).codes


def _rows(affine: Affine, start: int, stop: int) -> Affine:
    """`affine` for the entries `start` to `stop` of the first axis."""
    if affine.axis != 0:
        return affine
    return Affine(affine.format, affine.scale[start:stop], affine.zero_point[start:stop], 0)


def bias_codes(bias: Array, scale: Array) -> Array:
    """`bias` in steps of `scale`, as int32."""
    return np.rint(bias.astype(np.float64) / scale).astype(np.int32)


def channel_codes(weight: Float, operand: ScaledFormat, bias: Float | None, activation_scale: float) -> ChannelCodes:
    """`weight`, whose output channels are axis 0, rounded to nearest, with the scales of `weight_affine`."""
    affine = weight_affine(weight, operand, 0, bias, activation_scale)
    codes = weight_codes(weight, affine).astype(np.int8)
    return ChannelCodes(codes, np.broadcast_to(affine.scale, weight.shape[:1]).copy())


def given_channel_codes(given: QTensor[NDArray[Any]], shape: tuple[int, ...]) -> ChannelCodes:
    """Codes that a plan names, for a weight of `shape` with output channels first, which they have there, too, or, for
    a matrix, last. Raises PlanError if they are of another shape, or have more scales than channels."""
    as_it_is = given.codes.shape == shape and given.scale.shape[:1] in (shape[:1], (1,), ())
    last = given.codes.shape == shape[::-1] and len(shape) > 1 and not (as_it_is and given.scale.shape != (1, shape[0]))
    codes, scale = (given.codes.T, given.scale.T) if last else (given.codes, given.scale)
    check_shape(codes.shape, shape)
    if scale.size not in (1, shape[0]) or given.zero_point.any():
        raise PlanError(
            f"the plan's codes have {scale.size} scales, this way takes symmetric ones with one per output channel "
            f"({shape[0]}) or for all"
        )
    scales = np.broadcast_to(scale.reshape(-1), shape[:1]).astype(np.float32)
    return ChannelCodes(np.ascontiguousarray(codes, np.int8), scales)


def check_shape(found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise PlanError if codes are of another shape than their weight."""
    if found != wanted:
        raise PlanError(
            f"the plan's codes make a weight of shape {found}, the weight has {wanted}; they are of another model"
        )


def rounded_bias(bias: Float, weight_scale: Float, activation_scale: np.float32) -> Float:
    """The values that the int32 codes of `bias`, in steps of ``s_x * s_w``, stand for."""
    step = (weight_scale * activation_scale).astype(np.float32)
    return np.asarray(np.rint(bias.astype(np.float64) / step) * step, np.float32)


def rounded_weight(weight: Float, operand: ScaledFormat, axis: int) -> Float:
    """`weight` as the values that its integer codes stand for, with scales along `axis` (of output channels).

    8 bits and more reach to the largest magnitude. Fewer take, of some scales up to that, the one with the least
    squared error (Nagel et al., arXiv 2106.08295, section 3.1): at 2 bits, the largest magnitude alone would leave
    little but zeros.
    """
    element = integer(operand)
    per_channel = operand.granularity != Tensor()
    others = tuple(place for place in range(weight.ndim) if place != axis or not per_channel)
    absmax = np.abs(weight).max(axis=others, initial=0, keepdims=True)
    format = ScaledFormat(element, Channel(axis) if per_channel else Tensor())
    best, least = np.zeros_like(weight), np.full(absmax.shape, np.inf, np.float32)
    for shrink in _SHRINKS if element.bits < _WIDE else _SHRINKS[:1]:
        tried = fake_quantize(weight, format, scale=symmetric(absmax * shrink, element).scale)
        error = np.square(tried - weight).sum(axis=others, keepdims=True)
        better = error < least
        best, least = np.where(better, tried, best), np.where(better, error, least)
    return np.asarray(best)
