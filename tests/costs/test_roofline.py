"""A roofline divides MobileNetV2 as the look-up table of HAQ does."""

from __future__ import annotations

import pytest

from fewbits.costs.model import Widths, total
from fewbits.costs.roofline import Roofline
from fewbits.errors import UsageError
from published_nets import convolution, mobilenet_v2

MACHINE = Roofline(bit_operations=1280.0, bandwidth=1.0)
"""Only the ratio counts here: 1280 bit operations (20 products of 8 by 8 bits) for each byte that moves."""

HAQ = {2: 0.178, 3: 0.280, 4: 0.397, 5: 0.528, 6: 0.673, 7: 0.830}
"""Cycles of MobileNetV2 with every layer in so many bits, relative to 8, by the table that HAQ ships (Wang et al., CVPR
2019, repository of its authors)."""


@pytest.mark.parametrize(("bits", "published"), HAQ.items())
def test_uniform_policies_cost_what_haq_s_table_says(bits: int, published: float) -> None:
    # One figure, the ratio above, was chosen; six come out.
    layers = mobilenet_v2()
    uniform = {b: total(MACHINE, [(layer, Widths(b, b, b)) for layer in layers]) for b in (bits, 8)}
    assert uniform[bits] / uniform[8] == pytest.approx(published, abs=0.02)


def test_depthwise_layers_wait_for_memory_and_the_late_others_for_arithmetic() -> None:
    layers = mobilenet_v2()
    depthwise = [layer for layer in layers if layer.is_depthwise]
    late = [layer for layer in layers if not layer.is_depthwise and layer.kh == 1 and layer.out_h in (7, 14)]
    assert (len(depthwise), len(late)) == (17, 22)
    for layer in depthwise:
        # Bits of the weight are irrelevant there, bits of the activations count in full.
        assert MACHINE.cost(layer, 4, 8, 8) > 0.95 * MACHINE.cost(layer, 8, 8, 8)
        assert MACHINE.cost(layer, 8, 4, 4) < 0.55 * MACHINE.cost(layer, 8, 8, 8)
    for layer in late:
        assert MACHINE.cost(layer, 4, 8, 8) == pytest.approx(0.5 * MACHINE.cost(layer, 8, 8, 8))


def test_a_layer_takes_the_longer_of_both() -> None:
    layer = convolution("conv", 16, 32, 3, 8)
    compute = layer.macs * 4 * 8 / 1e9
    memory = (layer.weights * 4 + layer.in_elems * 8 + layer.out_elems * 2) / 8 / 1e3
    assert Roofline(1e9, 1e30).cost(layer, 4, 8, 2) == compute
    assert Roofline(1e30, 1e3).cost(layer, 4, 8, 2) == memory
    assert Roofline(1e9, 1e3).cost(layer, 4, 8, 2) == max(compute, memory)


@pytest.mark.parametrize(("peak", "bandwidth"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_a_machine_has_a_peak_and_a_bandwidth(peak: float, bandwidth: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        Roofline(peak, bandwidth)
