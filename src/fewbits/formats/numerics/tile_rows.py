"""An array as matrices with one row per tile, for what is computed tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from types import EllipsisType
from typing import Any

from numpy.typing import NDArray

from fewbits.formats.granularity import Shape

Array = NDArray[Any]
_CHUNK = 1 << 20  # elements of one matrix, so that working memory stays small beside the array


@dataclass(frozen=True, slots=True)
class Block:
    """Tiles of one size that stand side by side: where their elements are, and where their scales are."""

    elements: tuple[slice, ...]
    places: tuple[slice, ...]
    tile: Shape

    def rows(self, x: Array) -> Array:
        """The elements in `x`, one row per tile; tiles and elements within a tile in C order."""
        split = self._split(x)
        return split.reshape(prod(split.shape[: x.ndim]), prod(self.tile))

    def put_rows(self, x: Array, rows: Array) -> None:
        """Write `rows`, as `rows` gives them, to the elements in `x`."""
        split = self._split(x)
        split[...] = rows.reshape(split.shape)

    def put_places(self, x: Array, values: Array) -> None:
        """Write `values`, one per tile, to the places of these tiles in `x`, which has one element per tile."""
        places = _view(x, self.places)
        places[...] = values.reshape(places.shape)

    def _split(self, x: Array) -> Array:
        part = _view(x, self.elements)
        sizes = [size for whole, step in zip(part.shape, self.tile, strict=True) for size in (whole // step, step)]
        return part.reshape(sizes).transpose([*range(0, 2 * x.ndim, 2), *range(1, 2 * x.ndim, 2)])


def _view(x: Array, slices: tuple[slice, ...]) -> Array:
    # The ellipsis keeps an array without axes an array.
    index: tuple[slice | EllipsisType, ...] = (*slices, ...)
    return x[index]


def blocks(shape: Shape, tile: Shape) -> Iterator[Block]:
    """Every tile of an array of `shape` once, in blocks of about a million elements or of one tile.

    Tiles at the border are smaller where `tile` does not divide `shape`, and come in blocks of their own.
    An array without elements has no blocks.
    """
    if not prod(shape):
        return
    steps = tuple(min(max(step, 1), size) for size, step in zip(shape, tile, strict=True))
    for runs in product(*(_runs(size, step) for size, step in zip(shape, steps, strict=True))):
        sizes = tuple(size for _, _, size in runs)
        room = max(_CHUNK // prod(sizes), 1)
        ranges: list[list[tuple[int, int]]] = []
        for first, count, _ in reversed(runs):
            taken = min(count, room)
            room //= taken
            stop = first + count
            ranges.insert(0, [(start, min(start + taken, stop)) for start in range(first, stop, taken)])
        for bounds in product(*ranges):
            elements = (
                slice(start * step, start * step + (stop - start) * size)
                for (start, stop), step, size in zip(bounds, steps, sizes, strict=True)
            )
            yield Block(tuple(elements), tuple(slice(*bound) for bound in bounds), sizes)


def _runs(size: int, step: int) -> list[tuple[int, int, int]]:
    """First tile, number of tiles and their size: the whole tiles of an axis, and the one at its border."""
    whole, rest = divmod(size, step)
    return [(0, whole, step)] * (whole > 0) + [(whole, 1, rest)] * (rest > 0)
