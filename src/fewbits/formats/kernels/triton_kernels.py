"""Triton kernels that cast arrays. An array is ``[A, B, C]`` in C order under tiles ``(ta, tb, tc)``.

Two ways: `cast_tiles` holds whole tiles, finds their scales and rounds in one pass; for larger tiles, `magnitudes` and
`finish_scales` come first and `cast_planes`, which takes any tiles, reads the scales. All offsets have 64 bits.
"""

# Compile-time values are in capitals, and branches on them cost nothing: Triton compiles what is taken.
# ruff: noqa: N803, PLR0124, PLR0912, PLR0915
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from fewbits.formats.kernels.triton_numerics import (
    decode,
    encode,
    narrow,
    noise_at,
    noise_from,
    round_to_codes,
    round_to_grid,
    widen,
)
from fewbits.formats.kernels.triton_scales import (
    exponent_of,
    limits_of_power,
    magnitude_of,
    ordered_magnitude,
    quotient_of_power,
    scale_of,
    shrunk,
)

_KEEP_NAN = tl.constexpr(tl.PropagateNan.ALL)
# Of all numbers only the length of a row says something about alignment.
_PLAIN = ["planes", "rows", "ta", "tb", "tc", "tile_rows", "tile_columns", "key_low", "key_high", "tensor", "step"]


@triton.jit(do_not_specialize=_PLAIN)
def cast_tiles(
    x_ptr,
    out_ptr,
    scale_ptr,
    tensor_scale_ptr,
    refused_ptr,
    rows,
    columns,
    tile_rows,
    tile_columns,
    key_low,
    key_high,
    tensor,
    step,
    S: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    NESTED: tl.constexpr,
    HALF: tl.constexpr,
    HALF_CODE: tl.constexpr,
    OFFSET: tl.constexpr,
    CODES: tl.constexpr,
    FLAT: tl.constexpr,
    TB: tl.constexpr,
    TC: tl.constexpr,
    NB: tl.constexpr,
    NC: tl.constexpr,
    PB: tl.constexpr,
    PC: tl.constexpr,
    NATIVE: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """One program: `NB` x `NC` tiles of `TB` x `TC` elements, held in `PB` x `PC` places, of one plane.

    `FLAT`: one row, cut into whole tiles without padding, so that a program's elements are neighbours. `HARDWARE`: the
    GPU has a conversion that rounds and encodes.
    """
    across = tl.cdiv(tile_columns, NC)
    down = tl.cdiv(tile_rows, NB)
    program = tl.program_id(0)
    first_tile_row = (program // across) % down * NB
    first_tile_column = program % across * NC
    plane = (program // across // down).to(tl.int64)
    tile_row = first_tile_row + tl.arange(0, NB)[:, None, None, None]
    tile_column = first_tile_column + tl.arange(0, NC)[None, None, :, None]
    in_row = tl.arange(0, PB)[None, :, None, None]
    in_column = tl.arange(0, PC)[None, None, None, :]
    row = tile_row.to(tl.int64) * TB + in_row
    column = tile_column.to(tl.int64) * TC + in_column
    inside = (row < rows) & (column < columns)
    if TB < PB:
        inside = inside & (in_row < TB)
    if TC < PC:
        inside = inside & (in_column < TC)
    index = (plane * rows + row) * columns + column
    stored = tl.load(x_ptr + index, mask=inside, other=0.0)
    x = widen(stored, NATIVE)
    amax_bits = magnitude_of(tl.max(tl.max(ordered_magnitude(x), axis=3), axis=1))
    tensor_scale = tl.load(tensor_scale_ptr)
    scale = scale_of(amax_bits, tensor_scale, K, NESTED)
    if CODES:
        tile = tl.reshape(tile_row, [NB, 1]), tl.reshape(tile_column, [1, NC])
        place = (plane * tile_rows + tile[0]) * tile_columns + tile[1]
        tl.store(scale_ptr + place, scale, mask=(tile[0] < tile_rows) & (tile[1] < tile_columns))
    if K.power_of_two:
        k = exponent_of(amax_bits, K)
        low, high = limits_of_power(k, S, K)
        y = quotient_of_power(x, k[:, None, :, None], K)
    else:
        low = tl.full([NB, NC], S.low, tl.float32)
        high = tl.full([NB, NC], S.high, tl.float32)
        if K.nested:
            scale = scale * tensor_scale
            if tensor_scale > K.tensor_tight:
                low = shrunk(low, scale, S)
                high = shrunk(high, scale, S)
        y = tl.div_rn(x, tl.broadcast_to(scale[:, None, :, None], [NB, PB, NC, PC]))
    scale = scale[:, None, :, None]
    low = low[:, None, :, None]
    high = high[:, None, :, None]
    noise = 0
    if S.stochastic:
        if FLAT:
            start = first_tile_column.to(tl.int64) * TC
            words = noise_from(start, NC * TC, tensor, step, key_low, key_high)
            noise = tl.reshape(words, [1, 1, NC, TC])
        else:
            noise = noise_at(index, tensor, step, key_low, key_high)
    if CODES:
        if HARDWARE:
            y = tl.minimum(tl.maximum(y, low, propagate_nan=_KEEP_NAN), high, propagate_nan=_KEEP_NAN)
            code = round_to_codes(y, x, S, C)
        else:
            code = encode(round_to_grid(y, noise, low, high, S), x, OFFSET, C)
        if not C.nan:
            _refuse_nan(x, inside, refused_ptr)
        tl.store(out_ptr + index, code.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        value = round_to_grid(y, noise, low, high, S) * scale
        if not S.negative_zero:
            value = tl.where(value == 0, 0.0, value)
        tl.store(out_ptr + index, narrow(value, out_ptr.dtype.element_ty, HALF, HALF_CODE, NATIVE), mask=inside)


@triton.jit(do_not_specialize=_PLAIN)
def cast_planes(
    x_ptr,
    out_ptr,
    scale_ptr,
    low_ptr,
    high_ptr,
    zero_point_ptr,
    refused_ptr,
    planes,
    rows,
    columns,
    ta,
    tb,
    tc,
    tile_rows,
    tile_columns,
    key_low,
    key_high,
    tensor,
    step,
    S: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    HALF_CODE: tl.constexpr,
    SCALED: tl.constexpr,
    ASYMMETRIC: tl.constexpr,
    OFFSET: tl.constexpr,
    CODES: tl.constexpr,
    ONE_TILE_PER_ROW: tl.constexpr,
    ALIGNED: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    NATIVE: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """Round, or decode, a block of `BR` x `BC` elements, each with the scale and the limits of its tile.

    `CODES`: 0 values to values, 1 values to codes, 2 codes to values. `ALIGNED`: `BR` is 1 and every block begins at a
    multiple of 64 elements.
    """
    program = tl.program_id(0)
    across = tl.cdiv(columns, BC)
    row = (program // across).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    column = (program % across).to(tl.int64) * BC + tl.arange(0, BC)[None, :]
    inside = (row < planes * rows) & (column < columns)
    index = row * columns + column
    stored = tl.load(x_ptr + index, mask=inside, other=0)
    low = tl.full([1, 1], S.low, tl.float32)
    high = tl.full([1, 1], S.high, tl.float32)
    zero_point = OFFSET
    if SCALED:
        tile = ((row // rows) // ta * tile_rows + (row % rows) // tb) * tile_columns
        known = row < planes * rows
        if not ONE_TILE_PER_ROW:
            tile = tile + column // tc
            known = inside
        scale = tl.load(scale_ptr + tile, mask=known, other=1.0)
        if CODES != 2:
            low = tl.load(low_ptr + tile, mask=known, other=0.0)
            high = tl.load(high_ptr + tile, mask=known, other=0.0)
        if ASYMMETRIC:
            zero_point = tl.load(zero_point_ptr + tile, mask=known, other=0)
    if CODES == 2:
        r = decode(stored.to(tl.int32), zero_point, C)
    else:
        x = widen(stored, NATIVE)
        y = x
        if SCALED:
            y = tl.div_rn(x, tl.broadcast_to(scale, [BR, BC]))
        noise = 0
        if S.stochastic:
            if ALIGNED:
                start = (program // across).to(tl.int64) * columns + (program % across).to(tl.int64) * BC
                noise = tl.reshape(noise_from(start, BC, tensor, step, key_low, key_high), [1, BC])
            else:
                noise = noise_at(index, tensor, step, key_low, key_high)
        if CODES == 1:
            if HARDWARE:
                if SCALED:
                    y = tl.minimum(tl.maximum(y, low, propagate_nan=_KEEP_NAN), high, propagate_nan=_KEEP_NAN)
                code = round_to_codes(y, x, S, C)
            else:
                code = encode(round_to_grid(y, noise, low, high, S), x, zero_point, C)
            if not C.nan:
                _refuse_nan(x, inside, refused_ptr)
            tl.store(out_ptr + index, code.to(out_ptr.dtype.element_ty), mask=inside)
        else:
            r = round_to_grid(y, noise, low, high, S)
    if CODES != 1:
        value = r
        if SCALED:
            value = r * scale
            if not S.negative_zero:
                value = tl.where(value == 0, 0.0, value)
        result = narrow(value, out_ptr.dtype.element_ty, HALF, HALF_CODE, NATIVE)
        tl.store(out_ptr + index, result, mask=inside)


@triton.jit(do_not_specialize=_PLAIN)
def magnitudes(
    x_ptr,
    above_ptr,
    below_ptr,
    planes,
    rows,
    columns,
    ta,
    tb,
    tc,
    tile_rows,
    tile_columns,
    BOTH: tl.constexpr,
    ALONG: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    REPEAT: tl.constexpr,
    NATIVE: tl.constexpr,
):
    """Largest finite magnitude of every tile, as patterns; `BOTH`: of its positive and its negative numbers.

    The maximum of integers does not depend on the order, so that atomics give the same bits every time. `ALONG`:
    1, tiles cover whole rows; 0, one row of tiles only; -1, neither: element by element.
    """
    program = tl.program_id(0)
    across = tl.cdiv(columns, BC * REPEAT)
    row = (program // across).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    start = (program % across).to(tl.int64) * BC * REPEAT
    tile_row = ((row // rows) // ta * tile_rows + (row % rows) // tb) * tile_columns
    above = tl.zeros([BR, BC], dtype=tl.int32)
    below = tl.zeros([BR, BC], dtype=tl.int32)
    for k in range(REPEAT):
        column = start + k * BC + tl.arange(0, BC)[None, :]
        inside = (row < planes * rows) & (column < columns)
        x = widen(tl.load(x_ptr + row * columns + column, mask=inside, other=0.0), NATIVE)
        ordered = ordered_magnitude(x)
        if BOTH:
            above = tl.maximum(above, tl.where(x > 0, ordered, 0))
            below = tl.maximum(below, tl.where(x < 0, ordered, 0))
        else:
            above = tl.maximum(above, ordered)
    if ALONG == 1:
        place = tl.reshape(tile_row, [BR])
        inside = tl.reshape(row < planes * rows, [BR])
        above = tl.max(above, axis=1)
        below = tl.max(below, axis=1)
    elif ALONG == 0:
        column = start + tl.arange(0, BC)
        place = column // tc
        inside = column < columns
        above = tl.max(above, axis=0)
        below = tl.max(below, axis=0)
    else:
        column = start + tl.arange(0, BC)[None, :]
        place = tile_row + column // tc
        inside = (row < planes * rows) & (column < columns)
    tl.atomic_max(above_ptr + place, magnitude_of(above), mask=inside, sem="relaxed")
    if BOTH:
        tl.atomic_max(below_ptr + place, magnitude_of(below), mask=inside, sem="relaxed")


@triton.jit
def finish_scales(
    amax_ptr, tensor_scale_ptr, scale_ptr, count, K: tl.constexpr, NESTED: tl.constexpr, BLOCK: tl.constexpr
):
    """Scales, as stored, of tiles from the patterns of their largest magnitudes."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    amax_bits = tl.load(amax_ptr + place, mask=inside, other=0)
    tensor_scale = tl.load(tensor_scale_ptr)
    tl.store(scale_ptr + place, scale_of(amax_bits, tensor_scale, K, NESTED), mask=inside)


@triton.jit
def limits(
    scale_ptr,
    tensor_scale_ptr,
    zero_point_ptr,
    product_ptr,
    low_ptr,
    high_ptr,
    count,
    unit,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What an element is divided by, and the limits of the quotient; `S` is without offset."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    scale = tl.load(scale_ptr + place, mask=inside, other=1.0) * tl.load(tensor_scale_ptr)
    shift = tl.load(zero_point_ptr + place, mask=inside, other=0).to(tl.float32) * unit
    tl.store(product_ptr + place, scale, mask=inside)
    tl.store(low_ptr + place, shrunk(S.low - shift, scale, S), mask=inside)
    tl.store(high_ptr + place, shrunk(S.high - shift, scale, S), mask=inside)


@triton.jit
def _refuse_nan(x, inside, refused_ptr):
    """Leave a mark where a format has no code for NaN."""
    nan = ((x != x) & inside).to(tl.int32)
    found = tl.max(tl.reshape(nan, [nan.numel]), axis=0)
    if found > 0:
        tl.atomic_max(refused_ptr, 1, sem="relaxed")
