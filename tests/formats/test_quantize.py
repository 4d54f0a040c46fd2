"""The public verbs: what they take, what they refuse and how they say it, on numpy arrays."""

import hashlib
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fewbits
from fewbits.errors import DataError, FormatError
from fewbits.formats.numerics import reference
from fewbits.formats.rounding import Rounding
from fewbits.formats.text import parse

KEY = fewbits.NoiseKey(seed=3, step=1, tensor=2)
TEXTS = ["bf16", "fp8_e4m3", "int8f4", "int8r/channel", "uint8/tensor", "mxfp4", "nvfp4", "bfp8/tile24x24", "nf4/g64"]
# Large enough for the compiled kernels, with border tiles everywhere.
LARGE = np.random.default_rng(0).standard_normal((301, 333), dtype=np.float32)


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()


class TestArrays:
    @pytest.mark.parametrize("text", [text for text in TEXTS if text != "nf4/g64"])
    @pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
    def test_large_arrays_have_the_bits_of_the_reference(self, text: str, rounding: str) -> None:
        key = KEY if rounding == "stochastic" else None
        found = fewbits.fake_quantize(LARGE, text, rounding=rounding, key=key)
        same_bits(found, reference.fake_quantize(LARGE, parse(text), rounding=Rounding(rounding), key=key))

    @pytest.mark.parametrize("text", TEXTS)
    def test_codes_and_values_are_the_same_numbers(self, text: str) -> None:
        same_bits(fewbits.dequantize(fewbits.quantize(LARGE, text)), fewbits.fake_quantize(LARGE, text))

    @pytest.mark.parametrize("text", TEXTS)
    def test_the_layout_in_memory_does_not_matter(self, text: str) -> None:
        wide = np.zeros((602, 666), np.float32)
        for strided in (np.asfortranarray(LARGE), wide[::2, 1::2], wide.T[1::2, ::2].T):
            strided[...] = LARGE
            same_bits(fewbits.fake_quantize(strided, text), fewbits.fake_quantize(LARGE, text))

    @pytest.mark.parametrize("text", TEXTS)
    def test_the_result_may_go_to_given_memory_or_in_place(self, text: str) -> None:
        expected, out, own = fewbits.fake_quantize(LARGE, text), np.empty_like(LARGE), LARGE.copy()
        assert fewbits.fake_quantize(LARGE, text, out=out) is out
        assert fewbits.fake_quantize(own, text, out=own) is own
        same_bits(out, expected)
        same_bits(own, expected)

    @pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
    @pytest.mark.parametrize("text", ["fp8_e4m3", "int8/tensor", "nf4/tensor"])
    def test_empty_arrays_and_single_numbers(self, shape: tuple[int, ...], text: str) -> None:
        x = np.ones(shape, np.float32)
        same_bits(fewbits.fake_quantize(x, text), x)
        assert fewbits.quantize(x, text).shape == shape

    def test_float64_is_rounded_once(self) -> None:
        # Rounded to float32 first it would be the tie 1.0625, which goes down to 1.
        assert fewbits.fake_quantize(np.array([1.0625 + 2.0**-40]), "fp8_e4m3").tolist() == [1.125]

    def test_float16_keeps_its_type_and_stays_finite(self) -> None:
        found = fewbits.fake_quantize(np.float16([65504, -65504]), "int4r/tensor")
        assert found.dtype == np.float16 and np.isfinite(found).all()

    def test_the_input_is_left_alone(self) -> None:
        before = LARGE.copy()
        fewbits.fake_quantize(LARGE, "mxfp4")
        fewbits.quantize(LARGE, "mxfp4")
        same_bits(LARGE, before)

    def test_tiles_that_do_not_divide_the_shape_are_reported(self) -> None:
        q = fewbits.quantize(LARGE, "bfp8/tile24x24")
        assert q.padding == (11, 3)
        assert q.scale.shape == (13, 14)


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "says"),
        [
            ([1.0], "numpy array or a torch tensor, not list"),
            (np.arange(3), "not of int64; convert it with astype"),
            (np.array([True]), "not of bool"),
            (np.array([1j]), "not of complex128"),
            (np.array(["a"]), "not of <U1"),
        ],
    )
    def test_what_is_no_array_of_real_numbers(self, x: Any, says: str) -> None:
        for verb in (fewbits.quantize, fewbits.fake_quantize):
            with pytest.raises(DataError, match=says):
                verb(x, "bf16")

    @pytest.mark.parametrize(
        ("format", "arguments", "says"),
        [
            ("fp8_e4m4", {}, "did you mean fp8_e4m3"),
            ("e1m0", {}, "no room for both Inf and NaN"),
            ("int8", {}, "write int8/tensor or int8/channel, pass scale="),
            ("ternary", {}, "write ternary/tensor"),
            ("bf16", {"rounding": "up"}, "choose nearest_even, nearest_away, toward_zero, floor, stochastic"),
            ("bf16", {"overflow": "wrap"}, "choose saturate, nonsaturate"),
            ("bf16", {"rounding": "stochastic"}, "needs key=NoiseKey"),
            ("bf16", {"key": KEY}, "other roundings take none"),
            ("nf4/g64", {"rounding": "floor"}, "no floor rounding"),
            ("mxfp4", {"overflow": "nonsaturate"}, "neither Inf nor NaN"),
            ("int8/channel@2", {}, "axis 2"),
        ],
    )
    def test_what_does_not_go_together(self, format: str, arguments: dict[str, Any], says: str) -> None:
        for verb in (fewbits.quantize, fewbits.fake_quantize):
            with pytest.raises(FormatError, match=says):
                verb(LARGE, format, **arguments)

    def test_nan_without_a_code_is_counted_and_found(self) -> None:
        x = LARGE.copy()
        x[2, 5] = x[7, 7] = np.nan
        for text in ("int8/tensor", "mxfp4", "nf4/g64", "kmeans2/channel"):
            with pytest.raises(DataError, match=rf"no NaN, but 2 of {x.size} values are; the first is at \[2, 5\]"):
                fewbits.quantize(x, text)
            assert np.isnan(fewbits.fake_quantize(x, text)).sum() == 2

    @pytest.mark.parametrize("out", [LARGE.astype(np.float64), LARGE[1:], np.asfortranarray(LARGE), LARGE[:-1]])
    def test_an_output_that_does_not_fit(self, out: NDArray[Any]) -> None:
        with pytest.raises(DataError, match="out is a writable array in C order of shape"):
            fewbits.fake_quantize(LARGE, "bf16", out=out)

    def test_an_output_that_overlaps(self) -> None:
        both = np.zeros(99, np.float32)
        with pytest.raises(DataError, match="overlaps x"):
            fewbits.fake_quantize(both[:-1], "bf16", out=both[1:])

    @pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan, np.ones((2, 2), np.float32)])
    def test_scales_that_do_not_fit(self, scale: Any) -> None:
        with pytest.raises(DataError, match="scale"):
            fewbits.fake_quantize(LARGE, "int8/channel", scale=scale)


def test_without_numba_the_bits_are_the_same() -> None:
    script = """
        import sys
        sys.modules["numba"] = None
        import hashlib, numpy, fewbits
        x = numpy.random.default_rng(0).standard_normal((301, 333), dtype=numpy.float32)
        key = fewbits.NoiseKey(seed=3, step=1, tensor=2)
        found = fewbits.fake_quantize(x, "mxfp8_e4m3", rounding="stochastic", key=key)
        assert "fewbits.formats.kernels.cpu" not in sys.modules
        print(hashlib.sha256(found.tobytes()).hexdigest())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = fewbits.fake_quantize(LARGE, "mxfp8_e4m3", rounding="stochastic", key=KEY)
    assert done.stdout.strip() == hashlib.sha256(found.tobytes()).hexdigest()
