"""Boxes of an array rounded with their scales, which are found on the way unless they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.kernels.cpu_compiled import compiled
from fewbits.formats.kernels.cpu_lattice import Lattice, Three, box, first_tile
from fewbits.formats.kernels.cpu_noise import Stream, fill_noise
from fewbits.formats.kernels.cpu_rule import Rule
from fewbits.formats.kernels.cpu_scales import PIECE, Sizing, raise_amax, write_scales
from fewbits.formats.kernels.cpu_vector import copy_bytes, fill_16, stream, stream_fence

Float32 = NDArray[np.float32]

_LINE = 16  # float32 numbers in a line of the cache


@compiled
def _spread(values: Float32, first: int, last: int, wide: int, run: Float32) -> None:
    """Write the value of its tile to each place of `run`, which stands for the columns `first` to `last`."""
    at, tile = first, first // wide
    if wide % _LINE == 0 and first == tile * wide:
        # Whole tiles of whole lines, without looking for their ends.
        lines = wide // _LINE
        for whole in range((last - first) // wide):
            for line in range(lines):
                fill_16(run.ctypes.data + (whole * wide + line * _LINE) * 4, values[tile + whole])
        tile += (last - first) // wide
        at = tile * wide
    while at < last:
        stop, value, address = min((tile + 1) * wide, last), values[tile], run.ctypes.data + (at - first) * 4
        lines = (stop - at) // _LINE
        for line in range(lines):
            fill_16(address + line * 64, value)
        rest = run[at - first + lines * _LINE : stop - first]
        for i in range(rest.size):
            rest[i] = value
        at, tile = stop, tile + 1


@compiled
def _round_box(
    loop: Any,
    x: Float32,
    words_of: Stream,
    noisy: bool,
    scaled: bool,
    scale: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    lattice: Lattice,
    unit: int,
    origin: Three,
    rule: Rule,
    runs: NDArray[np.float32],
    words: NDArray[np.uint32],
    out: Float32,
    streaming: bool,
    ahead: int,
) -> None:
    """Round one box of `x`; scales and limits are those of the tiles from `origin` on.

    `runs` (four of PIECE and a line) and `words` are scratch.
    What lies `ahead` numbers further is fetched meanwhile.
    """
    _, height, width = lattice.shape
    deep, tall, wide = lattice.tile
    first_plane, last_plane, first_row, last_row, first_column, last_column = box(lattice, unit)
    limited, before = low.size > 0, origin[2] * wide
    following, left = 0, 0  # where the next number of `out` goes, and how many before it are still in runs[3]
    steps, lows, highs, noise = runs[0, :0], runs[1, :0], runs[2, :0], words[:0]
    for plane in range(first_plane, last_plane):
        row = first_row
        while row < last_row:
            band_end = min(last_row, (row // tall + 1) * tall)
            for column in range(first_column, last_column, PIECE):
                end = min(column + PIECE, last_column)
                size = end - column
                above, left_of = plane // deep - origin[0], row // tall - origin[1]
                if scaled:
                    steps = runs[0, :size]
                    _spread(scale[above, left_of], column - before, end - before, wide, steps)
                if limited:
                    lows, highs = runs[1, :size], runs[2, :size]
                    _spread(low[above, left_of], column - before, end - before, wide, lows)
                    _spread(high[above, left_of], column - before, end - before, wide, highs)
                for y in range(row, band_end):
                    start = (plane * height + y) * width + column
                    if noisy:
                        blocks = (start + size + 63) // 64 - start // 64
                        fill_noise(words[: blocks * 64].reshape(-1, 4, 16), start // 64, blocks, words_of)
                        noise = words[start % 64 : start % 64 + size]
                    soon = x.ctypes.data + (start + ahead) * 4
                    if not streaming:
                        rounded = out[start : start + size]
                        loop(x[start : start + size], noise, steps, steps, lows, highs, rule, rounded, soon)
                        continue
                    if start != following:
                        if left:
                            copy_bytes(runs[3].ctypes.data, out.ctypes.data + (following - left) * 4, left * 4)
                        left = 0
                    rounded = runs[3, left : left + size]
                    loop(x[start : start + size], noise, steps, steps, lows, highs, rule, rounded, soon)
                    left = stream(runs[3], left + size, out, start - left)
                    following = start + size
            row = band_end
    if left:
        copy_bytes(runs[3].ctypes.data, out.ctypes.data + (following - left) * 4, left * 4)


@compiled
def cast_boxes(
    loop: Any,
    x: Float32,
    words_of: Stream,
    noisy: bool,
    own: bool,
    sizing: Sizing,
    scaled: bool,
    scale: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    lattice: Lattice,
    first: int,
    last: int,
    rule: Rule,
    out: Float32,
    streaming: bool,
) -> bool:
    """Round the boxes `first` to ``last - 1`` of `x`, of one axis; whether the result is wrong.

    With `own` the scales are found, box by box: those of all tiles together would be a large array where tiles are
    small. The boxes are then of whole tiles, and the result is wrong if a scale is unusual.
    """
    runs = np.empty((4, PIECE + _LINE), np.float32)
    words = np.empty(PIECE + 128, np.uint32)
    scratch = np.empty(2 * PIECE, np.uint32)
    deep, high_, wide = lattice.unit
    ahead = deep * high_ * wide if own else PIECE
    unusual = False
    origin, (planes, rows, columns) = (0, 0, 0), (lattice.unit if own else (0, 0, 0))
    tall, broad = lattice.tile[1], lattice.tile[2]
    amax = np.empty((-(-planes // lattice.tile[0]), -(-rows // tall), -(-columns // broad)), np.uint32)
    found = np.empty(amax.shape, np.float32)
    for unit in range(first, last):
        if own:
            origin = first_tile(lattice, unit)
            amax[...] = 0
            raise_amax(x.view(np.uint32), lattice, unit, scratch, origin, amax)
            unusual |= write_scales(amax, sizing, found)
        steps = found if own else scale
        _round_box(
            loop,
            x,
            words_of,
            noisy,
            scaled,
            steps,
            low,
            high,
            lattice,
            unit,
            origin,
            rule,
            runs,
            words,
            out,
            streaming,
            ahead,
        )
    stream_fence()
    return unusual


@compiled
def amax_of_boxes(x: Float32, lattice: Lattice, first: int, last: int, amax: NDArray[np.uint32]) -> None:
    """Raise `amax` to the largest finite magnitudes in the boxes `first` to ``last - 1`` of `x`, of one axis."""
    scratch = np.empty(2 * PIECE, np.uint32)
    for unit in range(first, last):
        raise_amax(x.view(np.uint32), lattice, unit, scratch, (0, 0, 0), amax)
