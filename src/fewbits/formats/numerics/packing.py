"""Codes of 1 to 32 bits as a stream of bytes, and back.

The stream is little-endian in every sense: bit ``b`` of element ``i`` is bit ``i * bits + b`` of the stream, and bit
``j`` of the stream is bit ``j % 8``, counted from the lowest, of byte ``j // 8``. So 4-bit codes lie two in a byte, the
low nibble first (as in ONNX and ``torch.float4_e2m1fn_x2``), 6-bit codes four in three bytes, and codes of 8, 16 and
32 bits as they lie in memory. The bits that fill up the last byte are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError

Bytes = NDArray[np.uint8]
Codes = NDArray[np.integer]
_Kind = np.dtype[np.integer]

MAX_BITS = 32
_CHUNK = 1 << 16  # codes at a time, so that what is shifted about stays in the cache


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take, ``ceil(count * bits / 8)``."""
    return -(-count * bits // 8)


def pack(codes: Codes, bits: int) -> Bytes:
    """The integers `codes`, of any shape and in C order, as ``packed_size(codes.size, bits)`` bytes.

    Negative codes are stored in two's complement. Raises DataError for bits outside of 1..32, for an array that
    does not hold integers, and for a code that does not fit.
    """
    _check_bits(bits)
    if codes.dtype.kind not in "iu":
        raise DataError(f"codes are integers, not {codes.dtype}")
    flat = codes.reshape(-1)
    _check_range(flat, bits)
    if bits in (8, 16, 32):
        whole: Bytes = flat.astype(f"<u{bits // 8}").view(np.uint8)
        return whole
    group, width = _group(bits)
    packed = np.empty(packed_size(flat.size, bits), np.uint8)
    full = flat.size // group * group
    for start, stop in _chunks(full, group):
        packed[start // group * width : stop // group * width] = _pack_groups(flat[start:stop], bits)
    if full < flat.size:
        last = np.zeros(group, flat.dtype)
        last[: flat.size - full] = flat[full:]
        rest = packed[full // group * width :]
        rest[...] = _pack_groups(last, bits)[: rest.size]
    return packed


def unpack(packed: Bytes, bits: int, count: int, dtype: np.dtype[np.integer] | type[np.integer]) -> Codes:
    """The `count` codes of `bits` bits in `packed`: an array of shape ``(count,)``, the inverse of `pack`.

    Codes are read in two's complement if `dtype` is signed. Raises DataError for bits outside of 1..32 or wider
    than `dtype`, and if `packed` is not 1-D uint8 of ``packed_size(count, bits)`` bytes.
    """
    _check_bits(bits)
    kind = np.dtype(dtype)
    if not np.issubdtype(kind, np.integer) or kind.itemsize * 8 < bits:
        raise DataError(f"codes of {bits} bits need an integer type of {bits} bits or more, not {kind}")
    if packed.dtype != np.uint8 or packed.shape != (packed_size(count, bits),):
        raise DataError(
            f"{count} codes of {bits} bits are {packed_size(count, bits)} bytes, not an array of shape {packed.shape} "
            f"and type {packed.dtype}"
        )
    if bits in (8, 16, 32):
        whole: Codes = np.ascontiguousarray(packed).view(f"<{kind.kind}{bits // 8}").astype(kind)
        return whole
    group, width = _group(bits)
    codes: Codes = np.empty(count, kind)
    full = count // group * group
    for start, stop in _chunks(full, group):
        codes[start:stop] = _unpack_groups(packed[start // group * width : stop // group * width], bits, kind)
    if full < count:
        ends = np.zeros(width, np.uint8)
        rest = packed[full // group * width :]
        ends[: rest.size] = rest
        codes[full:] = _unpack_groups(ends, bits, kind)[: count - full]
    return codes


def _group(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes."""
    common = gcd(bits, 8)
    return 8 // common, bits // common


def _chunks(full: int, group: int) -> Iterator[tuple[int, int]]:
    step = _CHUNK // group * group
    return ((start, min(start + step, full)) for start in range(0, full, step))


def _pack_groups(codes: Codes, bits: int) -> Bytes:
    return _squeeze(codes, bits) if bits < 8 else _pack_places(codes, bits)


def _unpack_groups(source: Bytes, bits: int, kind: _Kind) -> Codes:
    if bits > 8:
        return _unpack_places(source, bits, kind)
    codes = _spread(source, bits)
    if kind.kind == "u":
        return codes
    sign = np.uint8(1 << (bits - 1))
    codes ^= sign
    codes -= sign
    return codes.view(np.int8)


def _squeeze(codes: Codes, bits: int) -> Bytes:
    """Codes in the bytes of one word per group; neighbours move together, two, then four, then eight of them."""
    group, width = _group(bits)
    words = codes.astype(np.uint8).view(f"<u{group}")
    if codes.dtype.kind == "i":
        words &= words.dtype.type(_lanes(group, 8, bits))
    for lane, held in _steps(bits):
        upper = words & words.dtype.type(_lanes(group, 2 * lane, held) << lane)
        words ^= upper
        upper >>= upper.dtype.type(lane - held)
        words |= upper
    packed = np.empty((words.size, width), np.uint8)
    for byte in range(width):  # numpy copies long columns faster than short rows
        packed[:, byte] = words.view(np.uint8)[byte::group]
    return packed.reshape(-1)


def _spread(source: Bytes, bits: int) -> Bytes:
    """The inverse of `_squeeze`."""
    group, width = _group(bits)
    padded = np.zeros(source.size // width * group, np.uint8)
    for byte in range(width):
        padded[byte::group] = source[byte::width]
    words = padded.view(f"<u{group}")
    for lane, held in reversed(_steps(bits)):
        upper = words & words.dtype.type(_lanes(group, 2 * lane, held) << held)
        words ^= upper
        upper <<= upper.dtype.type(lane - held)
        words |= upper
    return padded


def _steps(bits: int) -> list[tuple[int, int]]:
    """Bits of a lane, and of what it holds, before each step of `_squeeze`."""
    group, _ = _group(bits)
    return [(8 * count, bits * count) for count in (1, 2, 4) if count < group]


def _lanes(size: int, lane: int, held: int) -> int:
    """A word of `size` bytes with ones in the lowest `held` bits of every lane of `lane` bits."""
    return sum(((1 << held) - 1) << place for place in range(0, 8 * size, lane))


def _places(bits: int) -> Iterator[tuple[int, int, int]]:
    """Every (code, byte, left) of a group that share bits: bit 0 of the code is bit `left` of the byte."""
    group, _ = _group(bits)
    for code in range(group):
        for byte in range(code * bits // 8, (code * bits + bits - 1) // 8 + 1):
            yield code, byte, code * bits - byte * 8


def _pack_places(codes: Codes, bits: int) -> Bytes:
    """Codes wider than a byte: each byte of a group is put together from the codes that reach into it."""
    group, width = _group(bits)
    columns = (codes.view(f"u{codes.dtype.itemsize}") & ((1 << bits) - 1)).reshape(-1, group)
    out = np.zeros((columns.shape[0], width), np.uint8)
    for code, byte, left in _places(bits):
        column = columns[:, code]
        # What a shift to the left loses in eight bits belongs to the next byte.
        out[:, byte] |= column.astype(np.uint8) << left if left >= 0 else (column >> -left).astype(np.uint8)
    return out.reshape(-1)


def _unpack_places(source: Bytes, bits: int, kind: _Kind) -> Codes:
    group, width = _group(bits)
    unsigned = f"u{kind.itemsize}"
    out: Codes = np.zeros((source.size // width, group), unsigned)
    for code, byte, left in _places(bits):
        column = source.reshape(-1, width)[:, byte]
        out[:, code] |= column >> left if left >= 0 else column.astype(unsigned) << -left
    # Shifted up against the top and down again, a code loses its neighbours' bits and gains its sign.
    spare = kind.itemsize * 8 - bits
    signed: Codes = (out << spare).view(kind) >> spare
    return signed.reshape(-1)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise DataError(f"codes have 1 to {MAX_BITS} bits, not {bits}")


def _check_range(flat: Codes, bits: int) -> None:
    if flat.size == 0:
        return
    signed = flat.dtype.kind == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    least, most = int(flat.min()), int(flat.max())
    if least < low or most > high:
        wrong = least if least < low else most
        raise DataError(f"the code {wrong} does not fit {bits} bits ({flat.dtype}: {low} to {high})")
