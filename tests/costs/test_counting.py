"""Counted costs against figures in papers."""

from __future__ import annotations

import pytest

from fewbits.costs.counting import BitOperations, PeakMemory, Size
from fewbits.costs.model import Widths, total
from fewbits.formats.floating import FP32
from published_nets import convolution, mobilenet_v1, mobilenet_v2

KIB = 1024


def test_the_published_nets_are_those_of_their_papers() -> None:
    # 569 and 300 million multiply-adds, 4.2 and 3.4 million parameters (arXiv 1704.04861 table 8, 1801.04381 table 4).
    v1, v2 = mobilenet_v1(), mobilenet_v2()
    assert sum(layer.macs for layer in v1) / 1e6 == pytest.approx(569, abs=0.5)
    assert sum(layer.macs for layer in v2) / 1e6 == pytest.approx(300, abs=1)
    assert sum(layer.weights for layer in v1) / 1e6 == pytest.approx(4.2, abs=0.05)
    assert sum(layer.weights for layer in v2) / 1e6 == pytest.approx(3.4, abs=0.1)
    assert (len(v1), len(v2)) == (28, 53)


@pytest.mark.parametrize(("bits", "share"), [(4, 1 / 64), (8, 1 / 16)])
def test_bit_operations_are_those_of_hawq(bits: int, share: float) -> None:
    # HAWQ-V3's integer program: MACs / 64 at 4 bits and / 16 at 8 bits, in units of 32 x 32.
    layer = convolution("conv", 64, 64, 3, 56)
    assert layer.macs == 115605504
    assert BitOperations().cost(layer, bits, bits, 32) == share * BitOperations().cost(layer, FP32, FP32, FP32)


def test_the_size_of_resnet18_s_first_block_in_hawq() -> None:
    layer = convolution("conv", 64, 64, 3, 56)
    assert layer.weights == 36864
    assert Size().cost(layer, 4, 8, 8) == 36864 / 2


def test_the_memory_of_mobilenet_in_a_microcontroller() -> None:
    # What the rules of Rusci et al., arXiv 1905.13082, cut to for 512 KiB: outputs of the first layers in 4, 4 and 2
    # bits, some more in 4, all else in 8. All in 8 bits, one layer needs 1176 KiB.
    bits = [8, *map(int, "4428444888888888888888888888")]
    layers = mobilenet_v1()
    cut = [(layer, Widths(8, bits[place], bits[place + 1])) for place, layer in enumerate(layers)]
    assert total(PeakMemory(), cut) == 392 * KIB
    assert total(PeakMemory(), [(layer, Widths(8, 8, 8)) for layer in layers]) == 1176 * KIB


def test_a_peak_is_no_sum() -> None:
    layers = [(layer, Widths(8, 8, 8)) for layer in mobilenet_v1()]
    assert total(PeakMemory(), layers) == max(PeakMemory().cost(layer, 8, 8, 8) for layer, _ in layers)
    assert total(Size(), layers) == sum(layer.weights for layer, _ in layers)
    assert total(PeakMemory(), []) == total(Size(), []) == 0
