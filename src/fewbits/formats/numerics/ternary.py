"""Codes and scales of ternary and binary formats, fitted to each tile.

Sources: Li et al., Ternary Weight Networks, arXiv 1605.04711, section 2; Mellempudi et al., arXiv 1705.01462 (fine
grained quantisation) and 1701.08978 (clusters with an RMS scale); Rastegari et al., XNOR-Net, arXiv 1603.05279,
equation 6 (binary).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.levels import TernaryRule
from fewbits.formats.numerics.tile_rows import blocks

Float = NDArray[np.floating]
Codes = NDArray[np.int8]
Scale = NDArray[np.float32]

_TWN = 0.7  # threshold as a share of mean |x|, arXiv 1605.04711 equation 6
_LARGEST = np.finfo(np.float32).max
_NEARLY_ZERO = np.finfo(np.float32).tiny


def ternarise(x: Float, tile: Shape, rule: TernaryRule) -> tuple[Codes, Scale]:
    """Codes -1, 0, 1 of `x`, in its shape, and one scale per tile, of shape ``ceil(x.shape / tile)``.

    A code is not zero where ``|x|`` reaches the threshold of its tile, so that equal magnitudes have equal codes;
    `rule` says how threshold and scale are found. NaN and Inf are left out of the fit; an infinite element has code
    -1 or 1, a NaN has code 0. A tile without a finite element other than 0 has scale 1. Sums are taken in float64.
    """
    codes = np.zeros(x.shape, np.int8)
    scale = np.ones(tiles(x.shape, tile), np.float32)
    for block in blocks(x.shape, tile):
        rows = block.rows(x)
        magnitudes, unit = _finite_magnitudes(rows)
        fit = _above_threshold(magnitudes, rows) if rule is TernaryRule.THRESHOLD else _best(magnitudes, rule)
        level = _float32(fit.level, unit)
        # With an infinite threshold, infinite elements alone are not zero.
        reach = np.where(level > 0, np.ldexp(fit.threshold, unit), np.inf).astype(x.dtype)[:, None]
        block.put_rows(codes, (rows >= reach).view(np.int8) - (rows <= -reach).view(np.int8))
        block.put_places(scale, np.where(level > 0, level, np.float32(1)))
    return codes, scale


def binarise(x: Float, tile: Shape) -> tuple[Codes, Scale]:
    """Codes -1 and 1 of `x`, in its shape, and one scale per tile, of shape ``ceil(x.shape / tile)``.

    The scale is the mean of ``|x|`` over the finite elements, which has the least squared error. Where that is zero,
    it is the least normal float32: there is no zero among the levels. Zeros of either sign and NaN have code 1.
    """
    scale = np.ones(tiles(x.shape, tile), np.float32)
    for block in blocks(x.shape, tile):
        rows = block.rows(x)
        magnitudes, unit = _finite_magnitudes(rows)
        level = _float32(_mean(magnitudes, np.isfinite(rows)), unit)
        block.put_places(scale, np.where(level > 0, level, _NEARLY_ZERO))
    return np.where(x < 0, np.int8(-1), np.int8(1)), scale


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The least magnitude that is not rounded to zero, and what the others are rounded to, for each row."""

    threshold: Float
    level: NDArray[np.float64]


def _best(magnitudes: Float, rule: TernaryRule) -> _Fit:
    """The fit of least squared error.

    Whatever the scale, the best support of k elements is the k largest. With S and Q the sums of their magnitudes
    and squares, the error falls short of the sum of all squares by ``S**2 / k`` with the scale ``S / k``, and by
    ``2 S sqrt(Q / k) - Q`` with the scale ``sqrt(Q / k)``.
    """
    largest = -np.sort(-magnitudes, axis=1)
    count = np.arange(1, largest.shape[1] + 1, dtype=np.float64)
    sums = np.cumsum(largest, axis=1, dtype=np.float64)
    if rule is TernaryRule.RMS:
        squares = np.cumsum(np.square(largest, dtype=np.float64), axis=1)
        levels = np.sqrt(squares / count)
        gain = 2 * sums * levels - squares
    else:
        levels = sums / count
        gain = sums * levels
    # A support takes all elements of one magnitude or none.
    gain[:, :-1][largest[:, 1:] == largest[:, :-1]] = -1
    best = np.argmax(gain, axis=1)[:, None]
    return _Fit(np.take_along_axis(largest, best, axis=1)[:, 0], np.take_along_axis(levels, best, axis=1)[:, 0])


def _above_threshold(magnitudes: Float, rows: Float) -> _Fit:
    """The fit of Ternary Weight Networks: above ``0.7 mean |x|``."""
    support = magnitudes > _TWN * _mean(magnitudes, np.isfinite(rows))[:, None]
    return _Fit(magnitudes.min(axis=1, where=support, initial=1), _mean(magnitudes, support))


def _finite_magnitudes(rows: Float) -> tuple[Float, NDArray[np.int32]]:
    """``|x| / 2**unit``, less than 1, and 0 for what is not finite; with the unit of each row.

    So the sums of squares of any floats lie within float64; what it costs in precision is far below its own.
    """
    magnitudes = np.abs(rows, dtype=np.promote_types(rows.dtype, np.float32))
    magnitudes[~np.isfinite(magnitudes)] = 0
    unit: NDArray[np.int32] = np.frexp(magnitudes.max(axis=1))[1]
    return np.ldexp(magnitudes, -unit[:, None]), unit


def _mean(magnitudes: Float, support: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the `support` of each row, 0 where that is empty."""
    total = magnitudes.sum(axis=1, where=support, dtype=np.float64)
    mean: NDArray[np.float64] = total / np.maximum(support.sum(axis=1), 1)
    return mean


def _float32(level: NDArray[np.float64], unit: NDArray[np.int32]) -> Scale:
    """``level * 2**unit``, the largest float32 if it is larger."""
    scale: Scale = np.minimum(np.ldexp(level, unit), _LARGEST).astype(np.float32)
    return scale
