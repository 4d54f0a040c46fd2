"""The noise of a `NoiseKey`, a block of 64 elements at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.kernels.cpu_compiled import compiled
from fewbits.formats.kernels.cpu_vector import philox_block
from fewbits.formats.rounding import NoiseKey

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
def fill_noise(words: NDArray[np.uint32], block: int, count: int, stream: Stream) -> None:
    """Write the noise of `count` blocks of 64 elements, from block number `block` on, to `words`, shape (n, 4, 16)."""
    for place in range(count):
        counter = np.uint64(block + place) << _LANES_LOG
        philox_block(
            words.ctypes.data + place * 256,
            counter & _LOW,
            counter >> _HALF,
            stream.tensor,
            stream.step,
            stream.first,
            stream.second,
        )
