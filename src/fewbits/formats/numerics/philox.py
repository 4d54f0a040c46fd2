"""Counter-based random numbers: what an element gets depends on its place and on nothing that was drawn before.

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (Philox4x32-10).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.rounding import NoiseKey

Words = NDArray[np.uint32]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What the two words of the key grow by from round to round."""

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_LANES, _WORDS = 16, 4
_BLOCK = _LANES * _WORDS
_CHUNK = 1 << 16  # words made at a time, so that temporaries stay in cache


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Four random words for each counter; the words of `counter` broadcast, those of `key` have 32 bits."""
    a, b, c, d = (word.astype(np.uint64) for word in counter)
    first, second = key
    for _ in range(ROUNDS):
        product_a, product_c = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a = (product_c >> _HALF) ^ b ^ np.uint64(first)
        c = (product_a >> _HALF) ^ d ^ np.uint64(second)
        b, d = product_c & _LOW, product_a & _LOW
        first, second = (first + WEYL[0]) & 0xFFFFFFFF, (second + WEYL[1]) & 0xFFFFFFFF
    return a.astype(np.uint32), b.astype(np.uint32), c.astype(np.uint32), d.astype(np.uint32)


def noise(key: NoiseKey, count: int, start: int = 0) -> Words:
    """Random words of the elements `start` to ``start + count - 1`` of an array in C order; see `NoiseKey`."""
    words = np.empty(count, np.uint32)
    stop = start + count
    for first in range(start // _BLOCK * _BLOCK, stop, _CHUNK):
        last = min(first + _CHUNK, stop)
        blocks = _blocks(key, first // _BLOCK, -(-last // _BLOCK))
        begin = max(first, start)
        words[begin - start : last - start] = blocks[begin - first : last - first]
    return words


def tensor_id(name: str) -> int:
    """32 bits that stand for the tensor called `name` in a `NoiseKey`; the same everywhere and always."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")


def _blocks(key: NoiseKey, first: int, stop: int) -> Words:
    counters = np.arange(first * _LANES, stop * _LANES, dtype=np.uint64)
    low, high = (counters & _LOW).astype(np.uint32), (counters >> _HALF).astype(np.uint32)
    rest = np.array([key.tensor], np.uint32), np.array([key.step], np.uint32)
    words = philox4x32((low, high, *rest), (key.seed & 0xFFFFFFFF, key.seed >> 32))
    return np.stack([word.reshape(-1, _LANES) for word in words], axis=1).reshape(-1)
