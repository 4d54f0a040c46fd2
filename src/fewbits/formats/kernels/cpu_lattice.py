"""How an array of three axes is cut into boxes of work, and the boxes shared out to threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from fewbits.formats.kernels.cpu_compiled import compiled
from fewbits.formats.kernels.cpu_threads import any_of

UNIT = 1 << 16
"""Elements of a box: so few that it stays in a core's cache between finding its scales and rounding."""

_NARROWEST = 256  # columns, so that memory is still read in long runs
_TASKS_PER_THREAD = 4  # for when a thread is held up

WORTH_THREADS = 1 << 16
"""Elements of an array below which starting threads takes longer than the work."""

Three = tuple[int, int, int]


class Lattice(NamedTuple):
    """Boxes of size `unit` over an array of size `shape` with tiles of size `tile`, all in C order."""

    shape: Three
    tile: Three
    unit: Three

    @property
    def units(self) -> int:
        """How many boxes there are."""
        return prod(-(-size // step) for size, step in zip(self.shape, self.unit, strict=True))

    @property
    def scale_shape(self) -> Three:
        """How many tiles there are along each axis."""
        planes, rows, columns = (-(-size // step) for size, step in zip(self.shape, self.tile, strict=True))
        return planes, rows, columns


def whole_tiles(shape: Three, tile: Three) -> Lattice:
    """Boxes that are made of whole tiles."""
    planes, rows, columns = shape
    deep, high, wide = tile
    if deep * high * columns > UNIT:
        fitting = max(UNIT // (deep * high), _NARROWEST) // wide
        return Lattice(shape, tile, (deep, high, min(max(fitting, 1) * wide, columns)))
    bands = max(UNIT // (deep * high * columns), 1)
    if bands * high < rows:
        return Lattice(shape, tile, (deep, bands * high, columns))
    slabs = max(UNIT // (deep * rows * columns), 1)
    return Lattice(shape, tile, (min(slabs * deep, planes), rows, columns))


@lru_cache(1024)
def any_boxes(shape: Three, tile: Three) -> Lattice:
    """Boxes of equal size wherever the tiles are."""
    return Lattice(shape, tile, whole_tiles(shape, (1, 1, 1)).unit)


@compiled
def box(lattice: Lattice, unit: int) -> tuple[int, int, int, int, int, int]:
    """Along each axis the first index of box number `unit`, and the one after its last."""
    planes, rows, columns = lattice.shape
    deep, high, wide = lattice.unit
    across = (columns + wide - 1) // wide
    down = (rows + high - 1) // high
    column = unit % across * wide
    row = unit // across % down * high
    plane = unit // (across * down) * deep
    return plane, min(plane + deep, planes), row, min(row + high, rows), column, min(column + wide, columns)


@compiled
def first_tile(lattice: Lattice, unit: int) -> tuple[int, int, int]:
    """Where the first tile of box number `unit` is among the tiles of the array."""
    plane, _, row, _, column, _ = box(lattice, unit)
    deep, high, wide = lattice.tile
    return plane // deep, row // high, column // wide


def share(work: Callable[[int, int, int], bool], lattice: Lattice, threads: int) -> bool:
    """Call ``work(task, first, last)`` for all boxes, in tasks over `threads` threads; whether any said True."""
    bounds = task_bounds(lattice, threads)
    if len(bounds) == 1:
        return work(0, *bounds[0])
    return any_of(lambda task: work(task, *bounds[task]), len(bounds), threads)


@lru_cache(1024)
def task_bounds(lattice: Lattice, threads: int) -> tuple[tuple[int, int], ...]:
    """The boxes of each task, as ranges of their numbers."""
    units = lattice.units
    useful = 1 if threads == 1 or prod(lattice.shape) < WORTH_THREADS else threads * _TASKS_PER_THREAD
    cuts = np.linspace(0, units, min(useful, units) + 1).astype(int).tolist()
    return tuple((first, last) for first, last in pairwise(cuts) if first < last)
