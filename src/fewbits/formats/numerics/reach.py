"""Which magnitudes a format holds: as a value, and tile by tile once its scales are known."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, log2, nan

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.floating import FloatFormat
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, TernaryFormat
from fewbits.formats.numerics.scales import Scales
from fewbits.formats.scaled import Element, Format, ScaledFormat, element_of

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reach:
    """What an element holds, in units of its scale.

    `smallest` is the smallest magnitude that is not zero, `largest` the largest; both NaN where the levels are fitted
    to the data. Outside of [`low`, `high`] rounding ends at a limit although the next value would be
    nearer: half a step beyond the lowest and the highest value. `step` is what a zero point counts in.
    """

    smallest: float
    largest: float
    low: float
    high: float
    step: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class TileReach:
    """`Reach` of every tile, in units of the array. All four have shape ``ceil(shape / tile)``."""

    tile: tuple[int, ...]
    smallest: Float64
    largest: Float64
    low: Float64
    high: Float64


def reach_of(element: Element) -> Reach:
    """The reach of `element`."""
    if isinstance(element, IntFormat | FloatFormat):
        grid = element.grid
        low = grid.low - _step(grid, grid.low) / 2
        high = grid.high + _step(grid, grid.high) / 2
        largest = max(-grid.low, grid.high)
        if isinstance(element, FloatFormat):
            return Reach(element.min_positive, largest, low, high)
        return Reach(grid.smallest_step, largest, low, high, grid.smallest_step)
    if isinstance(element, BinaryFormat):
        return Reach(1.0, 1.0, -2.0, 2.0)
    if isinstance(element, TernaryFormat):
        return Reach(1.0, 1.0, -1.5, 1.5)
    if isinstance(element, CodebookFormat):
        values = element.values
        smallest = min(abs(value) for value in values if value)
        low, high = values[0] - (values[1] - values[0]) / 2, values[-1] + (values[-1] - values[-2]) / 2
        return Reach(smallest, element.max, low, high)
    return Reach(nan, nan, -inf, inf)


def tile_reach(format: Format, shape: tuple[int, ...], scales: Scales[NDArray[np.generic]] | None) -> TileReach:
    """The reach of `format` in an array of `shape`; `scales` are its scales there, ``None`` without any."""
    if not isinstance(format, ScaledFormat) or scales is None:
        reach = reach_of(element_of(format))
        ones = np.ones((1,) * len(shape))
        return TileReach(shape, reach.smallest * ones, reach.largest * ones, reach.low * ones, reach.high * ones)
    reach = reach_of(format.element)
    scale = np.asarray(scales.scale, np.float64) * float(scales.tensor_scale)
    zero = np.asarray(scales.zero_point, np.float64) * reach.step
    low, high = reach.low - zero, reach.high - zero
    largest = np.maximum(-low, high) - reach.step / 2 if reach.step else np.full_like(scale, reach.largest)
    tile = format.granularity.tile(shape)
    return TileReach(tile, scale * reach.smallest, scale * largest, scale * low, scale * high)


def _step(grid: Grid, value: float) -> float:
    """Distance of `value` to its neighbour away from zero."""
    exponent = grid.min_exponent if value == 0 else max(floor(log2(abs(value))), grid.min_exponent)
    return 2.0 ** (exponent - grid.mantissa_bits)
