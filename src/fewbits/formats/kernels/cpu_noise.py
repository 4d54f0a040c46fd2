"""Philox on vectors: four times sixteen words at a time, as `NoiseKey` lays them out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.kernels.cpu_compiled import compiled
from fewbits.formats.numerics.philox import MULTIPLIERS, ROUNDS, WEYL
from fewbits.formats.rounding import NoiseKey

_FIRST, _SECOND = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
_WEYL_FIRST, _WEYL_SECOND = (np.uint64(step) for step in WEYL)
_LOW = np.uint64(0xFFFFFFFF)
_HALF, _LANES_LOG = np.uint64(32), np.uint64(4)


class Stream(NamedTuple):
    """A `NoiseKey` in the words that the rounds work on."""

    first: np.uint64
    second: np.uint64
    tensor: np.uint64
    step: np.uint64


def stream_of(key: NoiseKey) -> Stream:
    """The words of `key`."""
    return Stream(
        np.uint64(key.seed & 0xFFFFFFFF), np.uint64(key.seed >> 32), np.uint64(key.tensor), np.uint64(key.step)
    )


@compiled
def _fill_block(words: NDArray[np.uint32], counter: np.uint64, stream: Stream) -> None:
    """The 64 words, of shape (4, 16), of sixteen counters from `counter` on."""
    low, high = counter & _LOW, counter >> _HALF
    # Words live in the low halves of 64-bit lanes. What products leave in the high halves is masked where it matters,
    # which costs nothing: the vector multiplication reads low halves only.
    for lane in range(16):
        a, b, c, d = low + np.uint64(lane), high, stream.tensor, stream.step
        first, second = stream.first, stream.second
        for _ in range(ROUNDS):
            product_a, product_c = (a & _LOW) * _FIRST, (c & _LOW) * _SECOND
            a, b, c, d = (product_c >> _HALF) ^ b ^ first, product_c, (product_a >> _HALF) ^ d ^ second, product_a
            first, second = (first + _WEYL_FIRST) & _LOW, (second + _WEYL_SECOND) & _LOW
        words[0, lane] = np.uint32(a)
        words[1, lane] = np.uint32(b)
        words[2, lane] = np.uint32(c)
        words[3, lane] = np.uint32(d)


@compiled
def fill_noise(words: NDArray[np.uint32], block: int, count: int, stream: Stream) -> None:
    """Write the noise of `count` blocks of 64 elements, from block number `block` on, to `words`, shape (n, 4, 16)."""
    for place in range(count):
        _fill_block(words[place], np.uint64(block + place) << _LANES_LOG, stream)
