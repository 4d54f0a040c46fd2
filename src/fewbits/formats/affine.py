"""Affine quantisation of arrays: ``q = clip(round(x / s) + z)``, ``x' = s * (q - z)``.

Source: Krishnamoorthi, arXiv 1806.08342, section 2; the zero point nudge follows FBGEMM's
``ChooseQuantizationParams``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.integer import IntFormat

Float = NDArray[np.float32]
_FLOAT = np.finfo(np.float32)


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale and zero point; scalars (shape ``()``) for a tensor, shape ``(C,)`` for channels along `axis`."""

    format: IntFormat
    scale: Float
    zero_point: NDArray[np.int32]
    axis: int | None = None


def symmetric(absmax: Float, format: IntFormat, axis: int | None = None) -> Affine:
    """Zero point 0 (or the middle code of an unsigned format) and ``scale = absmax / qmax``.

    A channel of zeros gets scale 1, so that its codes are zero points and nothing is divided by zero.
    """
    middle = 0 if format.signed else (format.qmax + 1) // 2
    scale = np.asarray(absmax, np.float32) / np.float32(format.qmax - middle)
    scale = np.where(scale < _FLOAT.tiny, np.float32(1), _finite(scale, format, middle)).astype(np.float32)
    return Affine(format, scale, np.full(scale.shape, middle, np.int32), axis)


def asymmetric(low: float, high: float, format: IntFormat) -> Affine:
    """Scale and zero point of the range [low, high], extended so that real 0 is exactly a code."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32((high - low) / (format.qmax - format.qmin))
    if scale < _FLOAT.tiny:
        return Affine(format, np.array(1, np.float32), np.array(max(format.qmin, 0), np.int32))
    # Both ends give an estimate of the zero point; the one with the smaller rounding error wins.
    from_low, from_high = format.qmin - low / scale, format.qmax - high / scale
    error_low = abs(format.qmin) + abs(low / scale)
    error_high = abs(format.qmax) + abs(high / scale)
    zero_point = int(np.clip(np.rint(from_low if error_low < error_high else from_high), format.qmin, format.qmax))
    return Affine(format, _finite(scale, format, zero_point), np.array(zero_point, np.int32))


def quantize(x: Float, affine: Affine) -> NDArray[np.int32]:
    """Codes of `x`, same shape, rounded to nearest even and clipped to the format."""
    scale, zero_point = _broadcast(affine, x.ndim)
    # Far outside of the range the quotient is infinite, and clipped like any other.
    with np.errstate(over="ignore"):
        steps = np.rint(x / scale) + zero_point
    codes: NDArray[np.int32] = np.clip(steps, affine.format.qmin, affine.format.qmax).astype(np.int32)
    return codes


def dequantize(codes: NDArray[np.int32], affine: Affine) -> Float:
    """Values of `codes`, same shape."""
    scale, zero_point = _broadcast(affine, codes.ndim)
    return ((codes - zero_point) * scale).astype(np.float32)


def fake_quantize(x: Float, affine: Affine) -> Float:
    """The value that each element of `x` has after quantising and dequantising."""
    return dequantize(quantize(x, affine), affine)


def _finite(scale: Float | np.float32, format: IntFormat, zero_point: int) -> Float:
    """`scale`, or the largest with which every code of `format` stands for a finite value.

    Masks of attention are filled with the lowest float32: rounded up, their scale would give -inf.
    """
    reach = max(format.qmax - zero_point, zero_point - format.qmin)
    largest = np.nextafter(_FLOAT.max / np.float32(reach), np.float32(0))
    limited: Float = np.asarray(np.minimum(scale, largest), np.float32)
    return limited


def _broadcast(affine: Affine, ndim: int) -> tuple[Float, NDArray[np.int32]]:
    if affine.axis is None:
        return affine.scale, affine.zero_point
    shape = [1] * ndim
    shape[affine.axis] = -1
    return affine.scale.reshape(shape), affine.zero_point.reshape(shape)
