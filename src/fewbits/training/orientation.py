"""Granularities are written for a matrix whose last axis is summed over; here they meet tensors as they lie."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from fewbits.formats.granularity import Channel, Group, Tensor, Tile, Token
from fewbits.formats.scaled import Format, ScaledFormat

_MATRIX = 2


@lru_cache(1024)
def oriented(format: Format, summed: int, axes: int) -> Format:
    """`format` for a tensor of `axes` axes of which `summed` is summed over.

    A matrix sums over axis 0 or 1. A tensor of a convolution is its first two axes: 1 is summed in the forward pass,
    0 where the gradient of the weight is formed; its other axes lie inside every scale, except for tiles, which repeat
    over them. More axes with the last one summed: a stack of matrices. One scale for each row is one for each
    index of the axis that is not summed.
    """
    if not isinstance(format, ScaledFormat) or isinstance(format.granularity, Tensor):
        return format
    sharing = format.granularity
    stacked = summed == axes - 1
    if isinstance(sharing, Token | Channel):
        rows: Token | Channel = Token() if stacked else Channel(1 - summed)
        return replace(format, granularity=rows)
    if isinstance(sharing, Group):
        return replace(format, granularity=Group(sharing.size, -1 if stacked else summed))
    if len(sharing.sizes) != _MATRIX or (stacked and axes > _MATRIX):
        return format
    first, second = sharing.sizes if summed == 1 else sharing.sizes[::-1]
    return replace(format, granularity=Tile((first, second, *(1,) * (axes - _MATRIX))))


def same_either_way(format: Format) -> bool:
    """Whether a tensor gets the same values whichever of its axes is summed over."""
    if not isinstance(format, ScaledFormat) or isinstance(format.granularity, Tensor):
        return True
    sharing = format.granularity
    return isinstance(sharing, Tile) and len(sharing.sizes) == _MATRIX and sharing.sizes[0] == sharing.sizes[1]
