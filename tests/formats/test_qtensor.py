"""The shape laws of quantised arrays, their padding, and how many bytes they take."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fewbits.errors import DataError, FewbitsError, FormatError
from fewbits.formats.granularity import Shape
from fewbits.formats.numerics.reference import quantize
from fewbits.formats.qtensor import QTensor, code_type
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse

Array = NDArray[np.generic]


def made(text: str, shape: Shape) -> QTensor[Array]:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return quantize(x, parse(text))


EXAMPLES = (
    ("bf16", (3, 5)),
    ("fp8_e4m3", (3, 5)),
    ("tf32", (7,)),
    ("int8r/channel", (4, 6)),
    ("uint4/g4", (3, 10)),
    ("uint8/tensor/sym", (3, 10)),
    ("mxfp4", (2, 70)),
    ("mxfp6_e2m3", (2, 64)),
    ("nvfp4", (3, 40)),
    ("bfp8/tile24x24", (30, 50)),
    ("binary/channel", (4, 6)),
    ("ternary/g4", (4, 6)),
    ("nf4/g8", (4, 16)),
    ("kmeans3/g8", (4, 16)),
    ("kmeans3", (4, 16)),
)


class TestLaws:
    @pytest.mark.parametrize(("text", "shape"), EXAMPLES)
    def test_what_quantize_makes_keeps_them(self, text: str, shape: Shape) -> None:
        q = made(text, shape)
        assert q.shape == q.codes.shape == shape
        assert q.scale.shape == q.zero_point.shape == q.scale_shape
        assert q.codes.dtype == code_type(q.format.element if isinstance(q.format, ScaledFormat) else q.format)
        assert (q.scale.dtype, q.zero_point.dtype, q.tensor_scale.dtype, q.table.dtype) == (
            *(np.float32, np.int32, np.float32, np.float32),
        )

    @pytest.mark.parametrize("part", ["scale", "zero_point", "tensor_scale", "table"])
    @pytest.mark.parametrize(("text", "shape"), EXAMPLES)
    def test_a_part_of_another_shape_is_refused(self, text: str, shape: Shape, part: str) -> None:
        q = made(text, shape)
        array = getattr(q, part)
        for wrong in (array[None], np.zeros((*array.shape, 2), array.dtype)):
            with pytest.raises(DataError, match=rf"{part} of a quantised array has shape .*, not "):
                replace(q, **{part: wrong})

    @pytest.mark.parametrize(("text", "shape"), [e for e in EXAMPLES if "/" in e[0] and "tensor" not in e[0]])
    def test_codes_of_another_shape_are_refused(self, text: str, shape: Shape) -> None:
        q = made(text, shape)
        longer = np.concatenate([q.codes] * 20, axis=0)
        with pytest.raises(DataError, match="has shape"):
            replace(q, codes=np.concatenate([longer] * 20, axis=-1))

    def test_a_granularity_without_its_axis_is_refused(self) -> None:
        with pytest.raises(FormatError, match="needs axis 1"):
            replace(made("int8/tensor", (3,)), format=parse("int8/channel@1"))

    def test_tensors_of_torch_keep_the_same_laws(self) -> None:
        q = made("int8r/channel", (4, 6))
        parts = {name: torch.from_numpy(getattr(q, name)) for name in ("codes", "scale", "zero_point")}
        like = {"tensor_scale": torch.ones(()), "table": torch.zeros(0), "format": q.format, "dtype": "float32"}
        assert QTensor(**parts, **like).nbytes == q.nbytes
        with pytest.raises(DataError, match=r"scale of a quantised array has shape \(4, 1\), not \(4,\)"):
            QTensor(**{**parts, "scale": parts["scale"].reshape(4)}, **like)

    def test_a_refusal_is_an_error_of_usage(self) -> None:
        assert issubclass(DataError, FewbitsError)


class TestTiles:
    @pytest.mark.parametrize(
        ("text", "shape", "tile", "scales", "padding"),
        [
            ("int8/tensor", (3, 5), (3, 5), (1, 1), (0, 0)),
            ("int8/channel", (3, 5), (1, 5), (3, 1), (0, 0)),
            ("int8/channel@-1", (3, 5), (3, 1), (1, 5), (0, 0)),
            ("int8/token", (2, 3, 5), (1, 1, 5), (2, 3, 1), (0, 0, 0)),
            ("mxfp4", (3, 64), (1, 32), (3, 2), (0, 0)),
            ("mxfp4", (3, 65), (1, 32), (3, 3), (0, 31)),
            ("mxfp4", (3, 5), (1, 32), (3, 1), (0, 27)),
            ("bfp8/tile24x24", (2, 25, 48), (1, 24, 24), (2, 2, 2), (0, 23, 0)),
            ("int8/tensor", (), (), (), ()),
            ("int8/tensor", (0, 4), (0, 4), (0, 1), (0, 0)),
            ("bf16", (3, 5), (3, 5), (), (0, 0)),
        ],
    )
    def test_tile_scales_and_padding(self, text: str, shape: Shape, tile: Shape, scales: Shape, padding: Shape) -> None:
        q = made(text, shape)
        assert (q.tile, q.scale_shape, q.padding) == (tile, scales, padding)


class TestBytes:
    @pytest.mark.parametrize(
        ("text", "shape", "expected"),
        [
            ("fp32", (10,), 40),
            ("bf16", (10,), 20),
            ("tf32", (8,), 19),
            ("fp6_e3m2", (4,), 3),
            ("fp6_e3m2", (5,), 4),  # the last byte is filled up
            ("int8/tensor", (10, 10), 100 + 4),
            ("int4/g32", (4, 64), 128 + 8 * 4),
            ("uint4/g32", (4, 64), 128 + 8 * 4 + 4),  # a zero point for each scale, two in a byte
            ("uint8/tensor/sym", (10,), 10 + 4),  # the zero point is known
            ("mxfp4", (4, 64), 128 + 8),
            ("mxfp8_e4m3", (4, 33), 132 + 8),
            ("nvfp4", (4, 64), 128 + 16 + 4),
            ("bfp8/tile4x4", (8, 8), 64 + 4 * 4),
            ("binary/tensor", (9,), 2 + 4),
            ("ternary/tensor", (9,), 3 + 4),
            ("kmeans2/tensor", (8,), 2 + 4 + 4 * 4),
            ("kmeans2", (8,), 2 + 4 * 4),
            ("int8/tensor", (0, 3), 0),
        ],
    )
    def test_codes_scales_zero_points_and_tables(self, text: str, shape: Shape, expected: int) -> None:
        assert made(text, shape).nbytes == expected

    def test_a_large_array_takes_the_bits_that_its_format_says(self) -> None:
        for text, bits in (("nvfp4", 4.5), ("mxfp4", 4.25), ("mxfp8_e4m3", 8.25), ("mxfp6_e2m3", 6.25)):
            assert made(text, (256, 512)).nbytes * 8 / (256 * 512) == pytest.approx(bits, abs=0.001)


@pytest.mark.parametrize(
    "text", ["int8/tensor", "int9/tensor", "uint16/tensor", "fp8_e4m3", "fp4_e2m1", "bf16", "tf32"]
)
def test_codes_have_the_smallest_type_that_holds_them(text: str) -> None:
    format = parse(text)
    element = format.element if isinstance(format, ScaledFormat) else format
    kind = np.dtype(code_type(element))
    assert kind.itemsize * 8 >= element.bits and (kind.itemsize == 1 or kind.itemsize * 4 < element.bits)


@pytest.mark.parametrize(("text", "peer"), [("fp8_e4m3", "float8_e4m3fn"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_codes_of_floats_are_bit_patterns(text: str, peer: str) -> None:
    x = np.random.default_rng(1).standard_normal(100).astype(np.float32)
    kind = np.dtype(peer if peer == "float16" else getattr(ml_dtypes, peer))
    q = quantize(x, parse(text))
    np.testing.assert_array_equal(q.codes, x.astype(kind).view(q.codes.dtype))
