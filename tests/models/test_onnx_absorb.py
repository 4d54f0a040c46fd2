"""A quantiser takes over the ReLU or Clip before it exactly where its codes end where they clip."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine_casts import quantize
from builders import CHANNELS, Net, images
from conversion import converted, error, kernels, precisions, run
from fewbits.formats.integer import INT8, UINT8
from fewbits.formats.numerics.affine import asymmetric, symmetric
from fewbits.models.onnx_absorb import absorbed, clips_to
from odd_models import ODD, finish


def clip(low: float | None, high: float | None) -> ir.Node:
    inputs: list[ir.Value | None] = [ir.Value(name="x")]
    for name, end in (("low", low), ("high", high)):
        tensor = None if end is None else ir.tensor(np.array(end, np.float32))
        inputs.append(None if tensor is None else ir.Value(name=name, const_value=tensor))
    return ir.node("Clip", inputs)


def relu() -> ir.Node:
    return ir.node("Relu", [ir.Value(name="x")])


def test_where_activations_end() -> None:
    assert clips_to(relu()) == (0.0, np.inf)
    assert clips_to(clip(-1, None)) == (-1.0, np.inf)
    assert clips_to(clip(None, 6)) == (-np.inf, 6.0)
    assert clips_to(ir.node("Clip", [ir.Value(name="x"), ir.Value(name="computed")])) is None
    assert clips_to(ir.node("Sigmoid", [ir.Value(name="x")])) is None
    assert clips_to(ir.node("Relu", [ir.Value(name="x")], domain="my.company")) is None


@settings(deadline=None)
@given(st.floats(-10, 0), st.floats(0.01, 10), st.floats(-10, 10), st.floats(0, 10))
def test_absorbing_changes_no_code_by_more_than_one(low: float, high: float, start: float, width: float) -> None:
    affine, node = asymmetric(low, high, UINT8), clip(start, start + width)
    if not absorbed(node, affine):
        return
    x = np.linspace(-20, 20, 4001, dtype=np.float32)
    clipped = np.clip(x, np.float32(start), np.float32(start + width))
    assert np.abs(quantize(x, affine) - quantize(clipped, affine)).max() <= 1


@given(st.floats(0.01, 1e4))
def test_a_relu_is_absorbed_by_its_own_range(high: float) -> None:
    assert absorbed(relu(), asymmetric(0.0, high, UINT8))
    assert not absorbed(relu(), asymmetric(-high, high, UINT8))
    assert not absorbed(relu(), symmetric(np.array(high, np.float32), INT8))


@given(st.floats(-10, 10), st.floats(0.01, 20))
def test_a_clip_is_absorbed_by_its_own_range(low: float, width: float) -> None:
    low, high = min(low, 0.0), max(low + width, 0.0)
    assert absorbed(clip(low, high), asymmetric(low, high, UINT8))
    wide = 0.05 * (high - low)
    assert not absorbed(clip(low + wide, high), asymmetric(low, high, UINT8))
    assert not absorbed(clip(low, high - wide), asymmetric(low, high, UINT8))


@pytest.mark.parametrize("ends", [(0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (-0.7, 0.3), (-2.0, 0.0)])
def test_the_runtime_runs_a_clipped_convolution_on_integers(ends: tuple[float, float]) -> None:
    net = Net()
    x = net.add("Clip", net.conv("x", 3, CHANNELS, bias=True), *(net.number(end) for end in ends))
    proto = finish(net, net.add("Neg", x))
    inputs = {"x": 10 * images(8)["x"]}
    model, plan, artifact = converted(proto, inputs)
    assert plan.ranges["clip_1_out"] == pytest.approx(ends)
    assert precisions(model, artifact, inputs)["conv_0"] == "int8"
    assert "Clip" not in kernels(artifact, inputs)
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.04


def test_a_wide_concat_does_not_undo_the_relu_before_it() -> None:
    # The inputs of the concat share a range that reaches far below 0, where the ReLU gives nothing.
    odd = ODD["inception"]
    inputs = odd.inputs(8)
    model, plan, artifact = converted(odd.model(), inputs)
    assert plan.ranges["clip_3_out"] == plan.ranges["concat_6_out"]
    assert plan.ranges["clip_3_out"][0] < 0
    assert set(precisions(model, artifact, inputs).values()) == {"int8"}
