"""Largest magnitudes of tiles, and the scales that follow from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.floating import E8M0, FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.kernels.cpu_compiled import bits, compiled, number
from fewbits.formats.kernels.cpu_lattice import Lattice, Three, box
from fewbits.formats.kernels.cpu_vector import largest_of_16, largest_of_32
from fewbits.formats.numerics.affine import largest_to_top
from fewbits.formats.numerics.scales import middle_code
from fewbits.formats.scaled import PowerOfTwoScale, ScaledFormat, ScaleRule

Patterns = NDArray[np.uint32]

PIECE = 4096
"""Elements that are worked on at a time: few enough for the first level of cache, with all that belongs to them."""


_MAGNITUDE, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_LEAST_NORMAL = np.uint32(0x00800000)
_NOTHING = np.uint32(0)
_MANTISSA = np.uint32(0x007FFFFF)
_ONE, _LIFT, _TINY = np.float32(1), np.float32(2.0**24), np.finfo(np.float32).tiny
_LEAST_POWER, _MOST_POWER = np.float32(2.0**-126), np.float32(2.0**126)
_ENDLESS = np.float32(np.inf)
_MANTISSA_BITS = 23
_WIDE = 256  # columns of a tile from which on each is a loop of its own
_NONE, _TOP_BIT, _MOST = np.int32(0), np.int32(22), np.int32(127)
_UNLIFTED, _LIFTED = np.int32(127), np.int32(127 + 24)


class Sizing(NamedTuple):
    """How the scale of a tile follows from its largest magnitude, for symmetric formats."""

    power_of_two: np.bool_
    top: np.float32  # real scales: what the largest magnitude becomes
    largest: np.float32  # no real scale is larger
    carry: np.uint32  # powers of two: added to the mantissa, it overflows where the exponent is to go up
    less: np.int32  # what the exponent of the scale is smaller by
    least: np.int32  # its least value
    reach: np.float32  # largest magnitude of an element


def sizing_of(format: ScaledFormat) -> Sizing:
    """The numbers for real scales and powers of two."""
    element, kind = format.element, format.scale
    assert isinstance(element, IntFormat | FloatFormat)
    grid, unit = element.grid, 2.0**-element.fraction if isinstance(element, IntFormat) else 1.0
    middle = middle_code(format) * unit
    top, reach = element.max - middle, max(element.max - middle, middle - grid.low)
    carry, least = 0, 0
    if isinstance(kind, PowerOfTwoScale):
        mantissa_bits = element.mantissa_bits if isinstance(element, FloatFormat) else element.qmax.bit_length() - 1
        of_top = int(np.float32(element.max).view(np.uint32) & _MANTISSA)
        carry = {
            ScaleRule.FLOOR: 0,
            ScaleRule.CEIL: int(_MANTISSA),
            ScaleRule.RCEIL: int(_MANTISSA) - of_top,
            ScaleRule.EVEN: (1 << 22) >> mantissa_bits,
        }[kind.rule]
        least = -127 if kind.storage == E8M0 else -149
    return Sizing(
        power_of_two=np.bool_(isinstance(kind, PowerOfTwoScale)),
        top=np.float32(top),
        largest=np.float32(largest_to_top(np.asarray(np.inf, np.float32), top, reach)),
        carry=np.uint32(carry),
        less=np.int32(element.max_exponent),
        least=np.int32(least),
        reach=np.float32(reach),
    )


@compiled
def _largest_of_blocks(run: Patterns, wide: int, of_blocks: Patterns) -> None:
    """Write the largest magnitude of each `wide`, 16 or 32, of `run`, which is Inf or NaN if there is one."""
    address = run.ctypes.data
    if wide == 32:
        for block in range(of_blocks.size):
            of_blocks[block] = largest_of_32(address + block * 128)
    else:
        for block in range(of_blocks.size):
            of_blocks[block] = largest_of_16(address + block * 64)


@compiled
def _largest(run: Patterns, most: np.uint32) -> np.uint32:
    """The largest finite magnitude in `run`, or `most` if that is larger."""
    for i in range(run.size):
        magnitude = np.uint32(run[i] & _MAGNITUDE)
        most = max(most, magnitude if magnitude < _INFINITY else _NOTHING)
    return most


@compiled
def _raise_to(columns: Patterns, run: Patterns) -> None:
    """Raise each of `columns` to the finite magnitude in `run`."""
    for i in range(run.size):
        magnitude = np.uint32(run[i] & _MAGNITUDE)
        columns[i] = max(columns[i], magnitude if magnitude < _INFINITY else _NOTHING)


@compiled
def _raise_tiles(run: Patterns, column: int, wide: int, of_blocks: Patterns, of_tiles: Patterns) -> None:
    """Raise `of_tiles` to the largest finite magnitudes in `run`, which begins at `column` of the array."""
    done, block = 0, 32 if wide % 32 == 0 else 16
    if wide < _WIDE and wide % block == 0 and column % wide == 0:
        count = run.size // block
        done = count * block
        blocks = of_blocks[:count]
        _largest_of_blocks(run, block, blocks)
        most_of_all = _NOTHING
        for i in range(count):
            most_of_all = max(most_of_all, blocks[i])
        if most_of_all >= _INFINITY:
            for i in range(count):
                if blocks[i] >= _INFINITY:
                    blocks[i] = _largest(run[i * block : (i + 1) * block], _NOTHING)
        these = of_tiles[column // wide : column // wide + -(-done // wide)]
        if wide == block:
            for i in range(count):
                these[i] = max(these[i], blocks[i])
        else:
            per_tile = wide // block
            for i in range(count):
                these[i // per_tile] = max(these[i // per_tile], blocks[i])
    at, end = column + done, column + run.size
    while at < end:
        tile = at // wide
        stop = min((tile + 1) * wide, end)
        of_tiles[tile] = _largest(run[at - column : stop - column], of_tiles[tile])
        at = stop


@compiled
def raise_amax(
    x: Patterns, lattice: Lattice, unit: int, scratch: Patterns, origin: Three, amax: NDArray[np.uint32]
) -> None:
    """Raise `amax`, one per tile from the tile `origin` on, to the largest finite magnitudes in one box of `x`.

    `x` has one axis; `scratch` is of twice PIECE. Magnitudes are bit patterns: those of numbers without sign are in
    the order of the numbers.
    """
    columns, of_blocks = scratch[:PIECE], scratch[PIECE:]
    _, height, width = lattice.shape
    deep, high, wide = lattice.tile
    plane, last_plane, first_row, last_row, first_column, last_column = box(lattice, unit)
    step = PIECE // wide * wide if wide <= PIECE else PIECE
    before = origin[2] * wide
    while plane < last_plane:
        slab_end = min(last_plane, (plane // deep + 1) * deep)
        row = first_row
        while row < last_row:
            band_end = min(last_row, (row // high + 1) * high)
            of_tiles = amax[plane // deep - origin[0], row // high - origin[1]]
            single = slab_end - plane == 1 and band_end - row == 1
            for column in range(first_column, last_column, step):
                end = min(column + step, last_column)
                if single:
                    start = (plane * height + row) * width
                    _raise_tiles(x[start + column : start + end], column - before, wide, of_blocks, of_tiles)
                    continue
                for i in range(end - column):
                    columns[i] = _NOTHING
                for z in range(plane, slab_end):
                    for y in range(row, band_end):
                        start = (z * height + y) * width
                        _raise_to(columns, x[start + column : start + end])
                _raise_tiles(columns[: end - column], column - before, wide, of_blocks, of_tiles)
            row = band_end
        plane = slab_end


@compiled
def _real_scales(amax: Patterns, sizing: Sizing, scale: NDArray[np.float32]) -> bool:
    unusual = False
    for i in range(amax.size):
        found = number(amax[i]) / sizing.top
        found = _ONE if found < _TINY else min(found, sizing.largest)
        scale[i] = found
        unusual |= found * sizing.reach == _ENDLESS
    return unusual


@compiled
def _powers_of_two(amax: Patterns, sizing: Sizing, scale: NDArray[np.float32]) -> bool:
    unusual = False
    for i in range(amax.size):
        subnormal = amax[i] < _LEAST_NORMAL
        pattern = bits(number(amax[i]) * _LIFT) if subnormal else amax[i]
        field = np.int32(np.uint32(pattern + sizing.carry) >> np.uint32(_MANTISSA_BITS))
        exponent = np.int32(field - (_LIFTED if subnormal else _UNLIFTED) - sizing.less)
        exponent = np.int32(min(max(exponent, sizing.least), _MOST))
        normal = np.uint32(exponent + _MOST) << np.uint32(_MANTISSA_BITS)
        below = np.uint32(1) << np.uint32(min(max(exponent + np.int32(149), _NONE), _TOP_BIT))
        found = number(np.uint32(normal if exponent > -_MOST else below))
        found = _ONE if amax[i] == _NOTHING else found
        scale[i] = found
        unusual |= (found * sizing.reach == _ENDLESS) | (found < _LEAST_POWER) | (found > _MOST_POWER)
    return unusual


@compiled
def write_scales(amax: NDArray[np.uint32], sizing: Sizing, scale: NDArray[np.float32]) -> bool:
    """Write the scales of tiles, of three axes; whether the fast loops do not know one of them.

    They do not where a scaled element can be infinite, or where the inverse of a power of two is not normal.
    """
    if sizing.power_of_two:
        return _powers_of_two(amax.reshape(-1), sizing, scale.reshape(-1))
    return _real_scales(amax.reshape(-1), sizing, scale.reshape(-1))
