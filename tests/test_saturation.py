"""Sums of two products in 16 bits: the published vectors, and laws against 32 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.saturation import Isa, may_saturate, saturated, simulate_dot

EXACT = [Isa.VNNI, Isa.AMX, Isa.ARM]
CUT = [Isa.AVX2, Isa.AVX512]
Codes = NDArray[np.int8]

signed = arrays.arrays(np.int8, (3, 7), elements=st.integers(-127, 127))
small = arrays.arrays(np.int8, (3, 7), elements=st.integers(-63, 63))
unsigned = arrays.arrays(np.uint8, (4, 7))


def u8(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8)


def s8(*values: int) -> Codes:
    return np.array(values, np.int8)


@pytest.mark.parametrize("isa", CUT)
def test_the_published_vectors(isa: Isa) -> None:
    """oneDNN developer guide, "Nuances of int8 computations"."""
    assert simulate_dot(u8(255, 255, 0, 0), s8(127, 127, 0, 0), isa) == 32767
    assert simulate_dot(s8(127, 127, 0, 0), s8(127, 127, 0, 0), isa) == 255


@pytest.mark.parametrize("isa", EXACT)
def test_with_32_bits_nothing_is_cut(isa: Isa) -> None:
    assert simulate_dot(u8(255, 255, 0, 0), s8(127, 127, 0, 0), isa) == 64770
    assert simulate_dot(s8(127, 127, 0, 0), s8(127, 127, 0, 0), isa) == 32258


@given(unsigned, small)
def test_seven_bits_are_always_safe(a: NDArray[np.uint8], b: Codes) -> None:
    assert not may_saturate(b).any()
    exact, cut = (simulate_dot(a[:, None], b, isa) for isa in (Isa.VNNI, Isa.AVX2))
    assert np.array_equal(exact, cut)


@given(unsigned, signed)
def test_what_cannot_saturate_does_not(a: NDArray[np.uint8], b: Codes) -> None:
    exact, cut = (simulate_dot(a[:, None], b, isa) for isa in (Isa.VNNI, Isa.AVX512))
    assert np.array_equal(exact[:, ~may_saturate(b)], cut[:, ~may_saturate(b)])
    # A difference is a cut, but two cuts may cancel.
    assert float((exact != cut).mean()) <= saturated(a, b) + 1e-12


@given(signed)
def test_what_may_saturate_does_for_some_inputs(b: Codes) -> None:
    """The inputs that are worst for a pair, and nothing elsewhere."""
    for row, may in zip(b, may_saturate(b), strict=True):
        worst = [
            np.where((np.arange(7) // 2 == pair) & (sign * row > 0), 255, 0).astype(np.uint8)
            for pair in range(4)
            for sign in (1, -1)
        ]
        assert any(simulate_dot(a, row, Isa.AVX2) != simulate_dot(a, row, Isa.VNNI) for a in worst) == may


def test_no_pairs_no_saturation() -> None:
    """A depthwise kernel has one input channel for each output."""
    assert not may_saturate(np.full((4, 1), 127, np.int8)).any()


def test_the_share_of_outputs() -> None:
    a = np.array([[255, 255], [1, 1]], np.uint8)
    b = np.array([[127, 127], [-127, -127], [127, -127]], np.int8)
    assert saturated(a, b) == pytest.approx(2 / 6)


def test_other_types_are_refused() -> None:
    with pytest.raises(DataError, match="float32 by int8"):
        simulate_dot(np.ones(2, np.float32), s8(1, 1), Isa.AVX2)
