"""Scales of a weight from ranges that are clipped for the least error of the layer's outputs.

Every tile that shares a scale tries its whole range and shares of it, and takes the one whose error, seen through the
inputs that meet the tile, is least.

Source: Lin et al., AWQ, arXiv 2306.00978, and the authors' code (``auto_clip``: shares from 1 down to 1/2 in steps of
1/20). It looks at each group apart, so errors of several groups may add up against the row; a row whose outputs are not
better for it keeps its whole range here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import FormatError
from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Channel, Group, Tensor, Token
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import CodebookFormat
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.numerics.scales import Scales, finite_range, scales_of_amax, scales_of_range
from fewbits.formats.scaled import NestedScale, ScaledFormat
from fewbits.formats.text import format_text
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.layer import as_matrices

Array = NDArray[Any]
Float64 = NDArray[np.float64]

SHARES = tuple(1 - step / 20 for step in range(11))
"""Of the whole range; the first is all of it."""


def clipped_scales(
    weight: Array, gram: Gram, format: ScaledFormat, shares: tuple[float, ...] = SHARES
) -> Scales[Array]:
    """Scales of `weight` (outputs, inputs / groups, *kernel) in `format`; the row's output error is never larger.

    One scale for the tensor, for each output, or for each group along the last axis of a matrix. `shares` are tried
    for each of them; of two equal errors the first stays.

    Raises:
        DataError: `gram` does not go with the weight.
        FormatError: another granularity, nested scales, or levels that do not come from a range.
    """
    size = _span(format, weight.shape)
    low, high = finite_range(weight, format.granularity.tile(weight.shape))
    candidates = [_scales(low * np.float32(share), high * np.float32(share), format) for share in shares]
    exact = weight.astype(np.float64)
    changes = [fake_quantize(exact, format, scales) - exact for scales in candidates]
    tiles = np.stack([_tile_errors(change, gram, size, candidates[0].scale.shape) for change in changes])
    best = tiles.argmin(axis=0)
    chosen = _chosen(candidates, best)
    before = output_errors(changes[0], gram)
    after = output_errors(fake_quantize(exact, format, chosen) - exact, gram)
    better = np.array([after.sum() < before.sum()]) if len(best) == 1 else after < before
    return _chosen(candidates, np.where(better.reshape(-1, *(1,) * (best.ndim - 1)), best, 0))


def _scales(low: Array, high: Array, format: ScaledFormat) -> Scales[Array]:
    if format.asymmetric:
        return scales_of_range(low, high, format)
    return scales_of_amax(np.maximum(high, -low), format)


def _chosen(candidates: list[Scales[Array]], best: NDArray[np.intp]) -> Scales[Array]:
    """For each tile the scale of its candidate."""

    def picked(values: list[Array]) -> Array:
        return np.asarray(np.take_along_axis(np.stack(values), best[None], 0)[0])

    scale, zero = picked([one.scale for one in candidates]), picked([one.zero_point for one in candidates])
    return Scales(scale, zero, candidates[0].tensor_scale)


def _tile_errors(change: Float64, gram: Gram, size: int, shape: tuple[int, ...]) -> Float64:
    """The output error that `change` causes in each tile alone, of the `shape` of the scales."""
    rows = as_matrices(change, gram.groups)
    errors = np.stack(list(_span_errors(rows, gram, size)), axis=-1).reshape(len(change), -1)
    return (errors if shape[0] == len(change) else errors.sum(axis=0, keepdims=True)).reshape(shape)


def _span_errors(rows: Float64, gram: Gram, size: int) -> Iterator[Float64]:
    for start in range(0, rows.shape[-1], size):
        part = rows[..., start : start + size]
        yield np.einsum("gof,gof->go", part @ gram.total[:, start : start + size, start : start + size], part)


def _span(format: ScaledFormat, shape: tuple[int, ...]) -> int:
    """How many features of a row share a scale. Raises FormatError where tiles are no part of one row, or all rows."""
    known = isinstance(format.element, IntFormat | FloatFormat | CodebookFormat)
    if not known or isinstance(format.scale, NestedScale):
        raise FormatError(f"the scales of {format_text(format)} do not come from a range of their tile alone")
    features = int(np.prod(shape[1:]))
    match format.granularity:
        case Tensor() | Channel(axis=0):
            return features
        case Token() if len(shape) == 2:
            return features
        case Group(size=size, axis=-1 | 1) if len(shape) == 2:
            return min(size, features)
    raise FormatError(
        f"{format_text(format)} over a weight of {shape}: ranges are clipped for a tensor, for outputs (channel), or "
        "for groups of a matrix (g128)"
    )
