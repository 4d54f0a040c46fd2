"""Scales and zero points of integers from ranges, for ``q = clip(round(x / s) + z)``, ``x' = s * (q - z)``.

Source: Krishnamoorthi, arXiv 1806.08342, section 2; the zero point nudge follows FBGEMM's
``ChooseQuantizationParams``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    scale = largest_to_top(absmax, format.qmax - middle, max(format.qmax - middle, middle - format.qmin))
    return Affine(format, scale, np.full(scale.shape, middle, np.int32), axis)


def asymmetric(low: float | NDArray[Any], high: float | NDArray[Any], format: IntFormat) -> Affine:
    """Scale and zero point of the range [low, high], extended so that real 0 is exactly a code.

    Ranges of several tiles or channels, as two arrays of one shape, give scales and zero points of that shape.
    """
    low = np.minimum(np.asarray(low, np.float64), 0)
    high = np.maximum(np.asarray(high, np.float64), 0)
    scale = np.asarray(((high - low) / (format.qmax - format.qmin)).astype(np.float32))
    too_small = scale < _FLOAT.tiny
    divisor = np.where(too_small, np.float32(1), scale)
    # Both ends give an estimate of the zero point; the one with the smaller rounding error wins.
    steps_low, steps_high = low.astype(np.float32) / divisor, high.astype(np.float32) / divisor
    from_low, from_high = np.float32(format.qmin) - steps_low, np.float32(format.qmax) - steps_high
    error_low = np.float32(abs(format.qmin)) + np.abs(steps_low)
    error_high = np.float32(abs(format.qmax)) + np.abs(steps_high)
    nearest = np.clip(np.rint(np.where(error_low < error_high, from_low, from_high)), format.qmin, format.qmax)
    zero_point = np.where(too_small, max(format.qmin, 0), nearest).astype(np.int32)
    reach = np.maximum(format.qmax - zero_point, zero_point - format.qmin)
    return Affine(format, np.where(too_small, np.float32(1), _finite(scale, reach)), zero_point)


def of_range(low: float, high: float, format: IntFormat) -> Affine:
    """Scale and zero point for values from `low` to `high`: signed formats are symmetric, others have a zero point."""
    if format.signed:
        return symmetric(np.array(max(abs(low), abs(high)), np.float32), format)
    return asymmetric(low, high, format)


def largest_to_top(absmax: Float, top: float, reach: float) -> Float:
    """``absmax / top`` in float32, the scale with which the largest magnitude becomes the format's.

    Below float32's normal numbers it is 1; and it is never so large that `reach` times it is infinite.
    """
    with np.errstate(over="ignore"):
        scale = np.asarray(absmax, np.float32) / np.float32(top)
        scale = np.where(scale < _FLOAT.tiny, np.float32(1), _finite(scale, reach))
    return np.asarray(scale, np.float32)


def _finite(scale: Float, reach: float | NDArray[Any]) -> Float:
    """`scale`, or the largest with which `reach` steps are a finite value.

    Masks of attention are filled with the lowest float32: rounded up, their scale would give -inf.
    """
    largest = np.nextafter(_FLOAT.max / np.asarray(reach, np.float32), np.float32(0))
    limited: Float = np.asarray(np.minimum(scale, largest), np.float32)
    return limited
