"""Packed codes against whole numbers of Python, ONNX's 4-bit and 2-bit tensors and numpy's bits; the way back."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from fewbits.errors import DataError
from fewbits.formats.numerics.packing import pack, packed_size, unpack

Codes = NDArray[np.integer]

BITS = range(1, 33)
SIGNED = (np.int8, np.int16, np.int32)
UNSIGNED = (np.uint8, np.uint16, np.uint32)


def limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def types(bits: int) -> list[Any]:
    return [kind for kind in (*SIGNED, *UNSIGNED) if np.dtype(kind).itemsize * 8 >= bits]


def wide_enough(bits: int, kind: Any, count: int, seed: int = 0) -> Codes:
    low, high = limits(bits, np.dtype(kind).kind == "i")
    return np.random.default_rng(seed).integers(low, high, count, dtype=np.int64, endpoint=True).astype(kind)


def as_one_number(codes: Codes, bits: int) -> bytes:
    """The documented layout in one line: element i begins at bit i * bits of a number, lowest byte first."""
    number = sum((int(code) % (1 << bits)) << (i * bits) for i, code in enumerate(codes))
    return number.to_bytes(packed_size(len(codes), bits), "little")


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, Codes]:
    bits = draw(st.sampled_from(BITS))
    kind = draw(st.sampled_from(types(bits)))
    low, high = limits(bits, np.dtype(kind).kind == "i")
    return bits, np.array(draw(st.lists(st.integers(low, high), max_size=40)), kind)


@given(cases())
def test_the_layout_is_one_little_endian_number(case: tuple[int, Codes]) -> None:
    bits, codes = case
    assert pack(codes, bits).tobytes() == as_one_number(codes, bits)


@given(cases())
def test_unpacking_gives_the_codes_back(case: tuple[int, Codes]) -> None:
    bits, codes = case
    back = unpack(pack(codes, bits), bits, codes.size, codes.dtype)
    assert back.dtype == codes.dtype
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("bits", BITS)
def test_arrays_of_many_chunks_come_back(bits: int) -> None:
    for kind in (types(bits)[0], types(bits)[-1]):
        codes = wide_enough(bits, kind, (1 << 17) + 5)
        packed = pack(codes, bits)
        assert packed.shape == (packed_size(codes.size, bits),)
        np.testing.assert_array_equal(unpack(packed, bits, codes.size, kind), codes)
        # Eight codes are whole bytes, so streams of multiples of eight can be put behind one another: no seams.
        first, second = pack(codes[:41_000], bits), pack(codes[41_000:], bits)
        np.testing.assert_array_equal(packed, np.concatenate([first, second]))


@pytest.mark.parametrize(
    ("bits", "kind", "codes", "expected"),
    [
        (4, np.uint8, [1, 2, 3, 4, 5], [0x21, 0x43, 0x05]),  # two in a byte, low nibble first
        (6, np.uint8, [0b000001, 0b000010, 0b000011, 0b000100], [0b10000001, 0b00110000, 0b00010000]),  # four in three
        (4, np.int8, [-1, -8, 7], [0x8F, 0x07]),
        (1, np.uint8, [1, 0, 0, 0, 0, 0, 0, 0, 1], [1, 1]),
        (2, np.uint8, [0, 1, 2, 3], [0b11100100]),
        (16, np.uint16, [0x1234], [0x34, 0x12]),
        (12, np.uint16, [0xABC, 0x123], [0xBC, 0x3A, 0x12]),
    ],
)
def test_documented_layouts(bits: int, kind: Any, codes: list[int], expected: list[int]) -> None:
    assert pack(np.array(codes, kind), bits).tolist() == expected


@pytest.mark.parametrize(("name", "bits"), [("int4", 4), ("uint4", 4), ("float4_e2m1fn", 4), ("int2", 2), ("uint2", 2)])
def test_onnx_packs_the_same(name: str, bits: int) -> None:
    kind = np.dtype(getattr(ml_dtypes, name))
    codes = np.tile(np.arange(1 << bits, dtype=np.uint8), 3)[:-1]
    # ml_dtypes keeps one element per byte; ONNX stores them packed.
    values = unpack(pack(codes, bits), bits, codes.size, np.int8).astype(kind) if "f" not in name else codes.view(kind)
    assert numpy_helper.from_array(values).raw_data == pack(codes, bits).tobytes()


def test_one_bit_is_numpys_little_packbits() -> None:
    codes = wide_enough(1, np.uint8, 1001)
    np.testing.assert_array_equal(pack(codes, 1), np.packbits(codes, bitorder="little"))


@pytest.mark.parametrize(("bits", "kind"), [(8, np.int8), (16, np.uint16), (32, np.uint32)])
def test_whole_bytes_lie_as_in_memory(bits: int, kind: Any) -> None:
    codes = wide_enough(bits, kind, 100)
    assert pack(codes, bits).tobytes() == codes.astype(np.dtype(kind).newbyteorder("<")).tobytes()


def test_the_order_is_c_whatever_the_memory_layout() -> None:
    codes = wide_enough(5, np.uint8, 60).reshape(3, 4, 5)
    turned = np.asfortranarray(codes)
    np.testing.assert_array_equal(pack(turned, 5), pack(codes.reshape(-1), 5))
    np.testing.assert_array_equal(pack(codes[:, ::2], 5), pack(codes[:, ::2].copy(), 5))


def test_the_last_byte_is_filled_with_zeros() -> None:
    assert pack(np.array([7, 7, 7], np.uint8), 3).tolist() == [0xFF, 0x01]


@pytest.mark.parametrize(("bits", "kind"), [(4, np.uint8), (6, np.uint8), (3, np.int8), (12, np.int16)])
def test_memory_is_the_output_and_little_more(bits: int, kind: Any) -> None:
    codes = wide_enough(bits, kind, 1 << 22)
    packed = pack(codes, bits)
    for work, output in ((lambda: pack(codes, bits), packed), (lambda: unpack(packed, bits, codes.size, kind), codes)):
        tracemalloc.start()
        work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < output.nbytes + 2_000_000


class TestRefused:
    @pytest.mark.parametrize("bits", [0, -1, 33])
    def test_bits(self, bits: int) -> None:
        with pytest.raises(DataError, match=f"1 to 32 bits, not {bits}"):
            pack(np.zeros(3, np.uint8), bits)
        with pytest.raises(DataError, match=f"1 to 32 bits, not {bits}"):
            unpack(np.zeros(3, np.uint8), bits, 3, np.uint8)

    @pytest.mark.parametrize(("code", "kind"), [(16, np.uint8), (8, np.int8), (-9, np.int8), (-(2**31), np.int32)])
    def test_a_code_that_does_not_fit(self, code: int, kind: Any) -> None:
        with pytest.raises(DataError, match=f"the code {code} does not fit 4 bits"):
            pack(np.array([1, code, 2], kind), 4)

    def test_numbers_that_are_no_integers(self) -> None:
        with pytest.raises(DataError, match="codes are integers, not float32"):
            pack(np.zeros(3, np.float32), 4)  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [0, 4, 6])
    def test_another_number_of_bytes(self, size: int) -> None:
        with pytest.raises(DataError, match="10 codes of 4 bits are 5 bytes"):
            unpack(np.zeros(size, np.uint8), 4, 10, np.uint8)

    def test_a_type_too_narrow_or_no_integer(self) -> None:
        with pytest.raises(DataError, match="9 bits or more, not uint8"):
            unpack(np.zeros(9, np.uint8), 9, 8, np.uint8)
        with pytest.raises(DataError, match="integer type"):
            unpack(np.zeros(4, np.uint8), 4, 8, np.float32)  # type: ignore[arg-type]
