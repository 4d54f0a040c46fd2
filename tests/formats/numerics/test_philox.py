"""Random words: published vectors, and independence of how they are asked for."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from fewbits.formats.numerics.philox import noise, philox4x32, tensor_id
from fewbits.formats.rounding import NoiseKey


def _words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], np.uint32) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    assert tuple(int(word[0]) for word in philox4x32(_words(*counter), key)) == expected


@given(st.integers(0, 500), st.integers(0, 300))
def test_a_part_is_the_slice_of_the_whole(start, count):
    key = NoiseKey(2**63 + 12345, step=7, tensor=9)
    np.testing.assert_array_equal(noise(key, count, start), noise(key, 900)[start : start + count])


def test_parts_join_where_words_are_made_in_chunks():
    key = NoiseKey(5)
    whole = noise(key, 200_000)
    np.testing.assert_array_equal(noise(key, 150_003, 49_997), whole[49_997:])


@given(st.integers(0, 2**40), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_element_takes_the_word_that_the_contract_names(element, seed, step, tensor):
    counter = (element >> 6) * 16 + (element & 15)
    words = philox4x32(_words(counter & 0xFFFFFFFF, counter >> 32, tensor, step), (seed & 0xFFFFFFFF, seed >> 32))
    assert noise(NoiseKey(seed, step, tensor), 1, element)[0] == words[(element >> 4) & 3][0]


def test_words_are_uniform_and_streams_unrelated():
    words = noise(NoiseKey(1), 1 << 20)
    confidence = 1e-6
    counts = np.bincount(words >> np.uint32(24), minlength=256)
    expected = words.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(confidence, 255)
    for other in (NoiseKey(2), NoiseKey(1, step=1), NoiseKey(1, tensor=1), NoiseKey(1 + (1 << 32))):
        correlation = np.corrcoef(words / 2.0**32, noise(other, words.size) / 2.0**32)[0, 1]
        assert abs(correlation) * np.sqrt(words.size) < norm.isf(confidence)


def test_tensor_id_is_the_hash_of_the_name():
    assert tensor_id("layer1.weight") == int.from_bytes(blake2b(b"layer1.weight", digest_size=4).digest(), "little")
    assert len({tensor_id(f"layer{i}.weight") for i in range(1000)}) == 1000
    NoiseKey(0, tensor=tensor_id("é"))
