"""Integer products on CPUs that sum pairs of them in 16 bits, where sums that do not fit are cut.

x86 without VNNI multiplies unsigned by signed bytes with VPMADDUBSW: two neighbours along the depth give one saturating
int16; those are then summed exactly. VNNI's VPDPBUSD, AMX and ARM's SDOT sum in 32 bits. Two signed operands are
multiplied after 128 is added to the first, and 128 times the sum of the second is taken away again.

Source: oneDNN, "Nuances of int8 computations" (developer guide), with the two vectors that tests pin: 255, 255 by 127,
127 gives 32767 instead of 64770, and signed 127, 127 by 127, 127 gives 255 instead of 32258.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError

Array = NDArray[Any]

_LOW, _HIGH = np.iinfo(np.int16).min, np.iinfo(np.int16).max
_SHIFT: Final = 128
_MOST: Final = 255
_AT_A_TIME: Final = 1 << 22


class Isa(StrEnum):
    """What multiplies bytes on the CPU that serves."""

    AVX2 = "avx2"
    AVX512 = "avx512"
    VNNI = "vnni"
    AMX = "amx"
    ARM = "arm"

    @property
    def saturates(self) -> bool:
        """Whether sums of two products are cut at 16 bits."""
        return self in (Isa.AVX2, Isa.AVX512)


def simulate_dot(first: Array, second: Array, isa: Isa) -> NDArray[np.int64]:
    """The sum over the last axis of ``first * second`` as `isa` computes it; shapes broadcast.

    `first` is uint8 or int8, `second` int8. Raises DataError for other types.
    """
    if first.dtype not in (np.uint8, np.int8) or second.dtype != np.int8:
        raise DataError(f"bytes are multiplied: uint8 or int8 by int8, not {first.dtype} by {second.dtype}")
    a, b = first.astype(np.int64), second.astype(np.int64)
    if not isa.saturates:
        return np.asarray((a * b).sum(axis=-1))
    shift = _SHIFT if first.dtype == np.int8 else 0
    pairs = np.clip(_in_pairs((a + shift) * b).sum(axis=-1), _LOW, _HIGH)
    return np.asarray(pairs.sum(axis=-1) - shift * b.sum(axis=-1))


def may_saturate(codes: Array, most: int = _MOST) -> NDArray[np.bool_]:
    """Which rows of `codes` (rows, depth), int8, have two neighbours whose products with codes from 0 to `most` could
    sum up to what 16 bits do not hold."""
    pairs = _in_pairs(codes.astype(np.int64))
    high, low = np.maximum(pairs, 0).sum(axis=-1) * most, np.minimum(pairs, 0).sum(axis=-1) * most
    return np.asarray(((high > _HIGH) | (low < _LOW)).any(axis=-1))


def saturated(inputs: Array, codes: Array) -> float:
    """The share of the outputs of ``inputs @ codes.T``, (samples, depth) uint8 by (rows, depth) int8, in which at least
    one sum of two products is cut."""
    if not (rows := codes[may_saturate(codes)]).size or not inputs.size:
        return 0.0
    a, b = _in_pairs(inputs.astype(np.int32)), _in_pairs(rows.astype(np.int32))
    step = max(1, _AT_A_TIME // max(b.shape[0] * b.shape[1], 1))
    cut = 0
    for start in range(0, len(a), step):
        sums = np.einsum("spk,rpk->srp", a[start : start + step], b)
        cut += int(((sums > _HIGH) | (sums < _LOW)).any(axis=-1).sum())
    return cut / (len(inputs) * len(codes))


def _in_pairs(values: Array) -> Array:
    """`values` with the last axis in neighbours, (..., depth / 2, 2); an odd one has a zero beside it."""
    odd = values.shape[-1] % 2
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, odd)]) if odd else values
    return padded.reshape(*padded.shape[:-1], -1, 2)
