"""Boxes of an array rounded with their scales, which are found on the way unless they are given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.kernels.cpu_compiled import compiled
from fewbits.formats.kernels.cpu_lattice import Lattice, box
from fewbits.formats.kernels.cpu_noise import Stream, fill_noise
from fewbits.formats.kernels.cpu_round import Rule, round_floats, round_integers
from fewbits.formats.kernels.cpu_scales import PIECE, Sizing, raise_amax, scales_of_box

Float32 = NDArray[np.float32]

_PAGE = 1024  # float32 numbers in 4096 bytes

Scratch = NDArray[np.float32] | NDArray[np.uint32]


@compiled
def _spread(values: Float32, first: int, last: int, wide: int, run: Float32) -> None:
    """Write the value of its tile to each place of `run`, which stands for the columns `first` to `last`."""
    tile = first // wide
    at, stop = first, (tile + 1) * wide
    while at < last:
        run[at - first : min(stop, last) - first] = values[tile]
        at, stop, tile = stop, stop + wide, tile + 1


@compiled
def _alike(scratch: Scratch, out: Float32, start: int) -> int:
    """Where to begin in `scratch`, so that its address and that of ``out[start]`` end in the same twelve bits.

    Processors tell loads from pending stores by these bits. If they differed, what is read from `scratch` would now
    and then look like something that is still on its way to `out`, and wait until it has arrived in memory.
    """
    return (out.ctypes.data // 4 + start - scratch.ctypes.data // 4) % _PAGE


@compiled
def _apart(x: Float32, out: Float32, start: int, size: int, scratch: Float32) -> Float32:
    """``x[start:start + size]``, in `scratch` if `out` is `x`: loops are vectorised for arrays that lie apart."""
    part = x[start : start + size]
    if x.ctypes.data != out.ctypes.data:
        return part
    scratch[:size] = part
    return scratch[:size]


@compiled
def _round_box(
    x: Float32,
    stream: Stream | None,
    to_even: bool | None,
    saturate: bool | None,
    flush: bool | None,
    integers: bool | None,
    scale: NDArray[np.float32] | None,
    low: NDArray[np.float32] | None,
    high: NDArray[np.float32] | None,
    lattice: Lattice,
    unit: int,
    rule: Rule,
    runs: NDArray[np.float32],
    words: NDArray[np.uint32],
    out: Float32,
) -> None:
    """Round one box of `x`; `runs` (four of PIECE and a page) and `words` are scratch."""
    _, height, width = lattice.shape
    deep, tall, wide = lattice.tile
    first_plane, last_plane, first_row, last_row, first_column, last_column = box(lattice, unit)
    for plane in range(first_plane, last_plane):
        row = first_row
        while row < last_row:
            band_end = min(last_row, (row // tall + 1) * tall)
            for column in range(first_column, last_column, PIECE):
                end = min(column + PIECE, last_column)
                size = end - column
                first = _alike(runs[0], out, (plane * height + row) * width + column)
                if scale is None:
                    scales = None
                else:
                    scales = runs[0, first : first + size]
                    _spread(scale[plane // deep, row // tall], column, end, wide, scales)
                if low is None or high is None:
                    lows, highs = None, None
                else:
                    lows, highs = runs[1, first : first + size], runs[2, first : first + size]
                    _spread(low[plane // deep, row // tall], column, end, wide, lows)
                    _spread(high[plane // deep, row // tall], column, end, wide, highs)
                for y in range(row, band_end):
                    start = (plane * height + y) * width + column
                    if stream is None:
                        noise = None
                    else:
                        at = _alike(words, out, start // 64 * 64)
                        blocks = (start + size + 63) // 64 - start // 64
                        fill_noise(words[at : at + blocks * 64].reshape(-1, 4, 16), start // 64, blocks, stream)
                        noise = words[at + start % 64 : at + start % 64 + size]
                    part = _apart(x, out, start, size, runs[3, first:])
                    result = out[start : start + size]
                    if integers is None:
                        round_floats(part, noise, to_even, saturate, flush, scales, lows, highs, scales, rule, result)
                    else:
                        round_integers(part, noise, to_even, scales, lows, highs, scales, rule, result)
            row = band_end


@compiled
def cast_boxes(
    x: Float32,
    stream: Stream | None,
    to_even: bool | None,
    saturate: bool | None,
    flush: bool | None,
    integers: bool | None,
    amax: NDArray[np.uint32],
    sizing: Sizing | None,
    scale: NDArray[np.float32] | None,
    low: NDArray[np.float32] | None,
    high: NDArray[np.float32] | None,
    lattice: Lattice,
    first: int,
    last: int,
    rule: Rule,
    out: Float32,
) -> bool:
    """Round the boxes `first` to ``last - 1`` of `x`, of one axis; whether a scaled element can be infinite.

    With `sizing` the scales are found and written to `scale`; the boxes are then of whole tiles.
    """
    runs = np.empty((4, PIECE + _PAGE), np.float32)
    words = np.empty(PIECE + 128 + _PAGE, np.uint32)
    columns = np.empty(PIECE, np.uint32)
    infinite = False
    for unit in range(first, last):
        if sizing is not None and scale is not None:
            raise_amax(x.view(np.uint32), lattice, unit, columns, amax)
            infinite |= scales_of_box(amax, lattice, unit, sizing, scale)
        _round_box(
            x,
            stream,
            to_even,
            saturate,
            flush,
            integers,
            scale,
            low,
            high,
            lattice,
            unit,
            rule,
            runs,
            words,
            out,
        )
    return infinite


@compiled
def amax_of_boxes(x: Float32, lattice: Lattice, first: int, last: int, amax: NDArray[np.uint32]) -> None:
    """Raise `amax` to the largest finite magnitudes in the boxes `first` to ``last - 1`` of `x`, of one axis."""
    columns = np.empty(PIECE, np.uint32)
    for unit in range(first, last):
        raise_amax(x.view(np.uint32), lattice, unit, columns, amax)
