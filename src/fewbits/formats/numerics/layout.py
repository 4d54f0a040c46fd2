"""An array under its tiles with as few axes as possible, so that a kernel meets few shapes."""

from __future__ import annotations

from math import prod

from fewbits.formats.granularity import Shape


def fold(shape: Shape, tile: Shape) -> tuple[Shape, Shape]:
    """Merge neighbouring axes of `shape` that `tile` covers in the same way, for an array in C order.

    Axes inside a tile altogether merge, and so do axes of which every index has a tile of its own. Gives
    the folded shape and tile, of three axes or more (ones in front). Three is what every granularity folds to, except
    for a tile or group in the middle of several axes.
    """
    axes: list[tuple[int, int]] = []
    for size, wanted in zip(shape, tile, strict=True):
        if size == 1:
            continue
        step = min(max(wanted, 1), max(size, 1))
        if axes:
            before, before_step = axes[-1]
            both_inside = before_step == before and step == size
            both_apart = before_step == 1 and step == 1
            if both_inside or both_apart:
                axes[-1] = (before * size, before_step * step)
                continue
        axes.append((size, step))
    while len(axes) < 3:
        axes.insert(0, (1, 1))
    folded = tuple(size for size, _ in axes), tuple(step for _, step in axes)
    assert prod(folded[0]) == prod(shape)
    return folded
