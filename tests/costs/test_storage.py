"""Stored bits are those of what `quantize` really gives."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits.costs.model import LayerSpec
from fewbits.costs.storage import stored_bits, weight_bits
from fewbits.formats.quantize import quantize
from fewbits.formats.text import parse

SHAPES = [(48, 64), (48, 60), (16, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name",
    [
        *("int8r/channel", "int8r/tensor", "uint8/tensor", "uint8/channel", "uint4/g32", "int4r/g128", "int2/token"),
        *("mxfp4", "mxfp8_e4m3", "nvfp4", "nvfp4/tile16x16", "bfp8/tile24x24", "fp8_e4m3/tensor"),
        *("ternary/channel", "binary/channel", "kmeans4/channel", "nf4/g64", "fp16", "fp32"),
    ],
)
def test_as_many_as_an_array_takes(name: str, shape: tuple[int, int]) -> None:
    format = parse(name)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # `nbytes` counts whole bytes for codes, scales and zero points each.
    assert quantize(array, format).nbytes == pytest.approx(stored_bits(format, shape) / 8, abs=3)


def test_groups_lie_along_the_sum() -> None:
    layer = LayerSpec("conv", "conv", 0, 32 * 64 * 9, 0, 0, cin=64, cout=32, kh=3, kw=3)
    assert weight_bits(layer, parse("int4r/g64")) == 32 * 64 * 9 * 4 + 32 * 9 * 32
    assert weight_bits(layer, parse("int8r/channel")) == 32 * 64 * 9 * 8 + 32 * 32


def test_without_a_weight_there_are_no_scales_either() -> None:
    assert weight_bits(LayerSpec("add", "add", 0, 0, 8, 4, 1, 1), parse("nvfp4")) == 0
