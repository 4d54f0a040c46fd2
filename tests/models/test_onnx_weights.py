"""Scales and codes of weights and biases (Rodriguez et al. 2018; oneDNN's int8 inference)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from affine_casts import dequantize, quantize
from builders import CHANNELS, FEATURES, Array, depthwise_separable, gemm, images
from conversion import converted
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT8_CHANNEL, INT8_TENSOR
from fewbits.models.weight_codes import bias_codes, weight_affine, weight_codes
from odd_models import ODD

CHANNEL, TENSOR = INT8_CHANNEL, INT8_TENSOR
WEIGHTS = hnp.arrays(np.float32, (4, 6), elements=st.floats(-1e3, 1e3, width=32))
INT32 = np.iinfo(np.int32)


@given(WEIGHTS, st.sampled_from([0, 1]))
def test_each_channel_reaches_its_largest_code(weight: Array, axis: int) -> None:
    affine = weight_affine(weight, CHANNEL, axis, None, 0.1)
    codes = quantize(weight, affine)
    assert affine.axis == axis and affine.scale.shape == (weight.shape[axis],)
    assert not affine.zero_point.any()
    channels = np.moveaxis(codes, axis, 0).reshape(weight.shape[axis], -1)
    largest = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(axis=1)
    usable = largest > 1e-30
    assert (np.abs(channels).max(axis=1)[usable] == 127).all()
    assert not channels[~usable & (largest == 0)].any()
    bound = np.expand_dims(affine.scale, 1 - axis) * 0.5000001
    assert (np.abs(dequantize(codes, affine) - weight) <= bound + 1e-30).all()


@given(WEIGHTS)
def test_one_scale_for_the_tensor(weight: Array) -> None:
    affine = weight_affine(weight, TENSOR, 0, None, 0.1)
    assert affine.axis is None and affine.scale.shape == ()
    if np.abs(weight).max() > 1e-30:
        assert np.isclose(affine.scale, np.abs(weight).max() / 127, rtol=1e-6)


def test_channels_of_zeros_keep_their_bias() -> None:
    weight = np.array([[0, 0], [0.5, -0.25], [0, 0], [4, 2]], np.float32)
    bias = np.array([0.3, 0, -1.7, 0], np.float32)
    affine = weight_affine(weight, CHANNEL, 0, bias, 0.05)
    assert np.allclose(affine.scale, np.array([0.5, 0.5, 0.5, 4]) / 127, rtol=1e-6)
    scale = affine.scale * np.float32(0.05)
    assert np.allclose(bias_codes(bias, scale) * scale, bias, atol=float(scale.max()))
    dead = weight_affine(np.zeros((4, 2), np.float32), CHANNEL, 0, None, 0.05)
    assert np.isfinite(dead.scale).all() and (dead.scale > 0).all()


@given(
    hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**66), 2.0**66, width=32)),
    st.floats(2**-20, 2**10, width=32),
    st.sampled_from([CHANNEL, TENSOR]),
)
def test_a_bias_never_overflows(bias: Array, activation_scale: float, operand: ScaledFormat) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32) * 1e-3
    affine = weight_affine(weight, operand, 0, bias, activation_scale)
    scale = np.broadcast_to(affine.scale * np.float32(activation_scale), bias.shape)
    assert np.isfinite(scale).all()
    codes = np.rint(bias.astype(np.float64) / scale)
    # Half of int32 is left for the products that the bias is added to: 255 * 127 * 33,000 of them.
    assert np.abs(codes).max() <= 2**30 * 1.001
    assert np.array_equal(bias_codes(bias, scale), codes)


def parameters(artifact: bytes) -> tuple[dict[str, Array], dict[str, onnx.NodeProto]]:
    graph = onnx.load_model_from_string(artifact).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return values, {node.name: node for node in graph.node}


def test_depthwise_weights_have_a_scale_per_channel() -> None:
    proto = depthwise_separable()
    _, plan, artifact = converted(proto, images(4))
    values, nodes = parameters(artifact.content)
    assert "conv_3" in plan.low
    codes, scale, zero = (values[name] for name in nodes["conv_3.weight.dequantize"].input)
    assert (codes.dtype, codes.shape) == (np.int8, (CHANNELS, 1, 3, 3))
    assert scale.shape == zero.shape == (CHANNELS,) and not zero.any()
    assert codes.min() >= -127
    assert (np.abs(codes.reshape(CHANNELS, -1)).max(axis=1) == 127).all()


def test_a_bias_has_the_scale_of_its_products() -> None:
    proto = gemm()
    inputs = {"x": np.random.default_rng(0).standard_normal((16, FEATURES)).astype(np.float32)}
    _, _, artifact = converted(proto, inputs)
    values, nodes = parameters(artifact.content)
    weight = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    product = values["x.uint8.scale"] * values["gemm_0.weight.scale"]
    assert np.array_equal(values["gemm_0.bias.scale"], product)
    assert values["gemm_0.bias.codes"].dtype == np.int32
    assert nodes["gemm_0.bias.dequantize"].attribute[0].i == 0
    assert np.allclose(values["gemm_0.bias.codes"] * product, weight["constant_1"], atol=float(product.max()) / 2)


def test_what_is_shared_is_stored_once() -> None:
    proto = ODD["subgraphs"].model()
    _, plan, artifact = converted(proto, ODD["subgraphs"].inputs(8))
    values, _ = parameters(artifact.content)
    codes = [name for name, array in values.items() if array.dtype == np.int8 and array.ndim == 2]
    assert len(plan.low) == 4 and len(codes) == 1


@pytest.mark.parametrize(("shape", "axis"), [((70, 33), 0), ((70, 33), 1), ((70, 3, 5), 0), ((70, 3, 5), 2)])
@pytest.mark.parametrize("operand", [INT8_CHANNEL, INT8_TENSOR], ids=str)
def test_rounding_in_parts_gives_the_same_codes(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], axis: int, operand: ScaledFormat
) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    affine = weight_affine(weight, operand, axis, None, 1.0)
    whole = weight_codes(weight, affine)
    monkeypatch.setattr("fewbits.models.weight_codes._PART", 100)
    parts = weight_codes(weight, affine)
    assert parts.dtype == whole.dtype
    assert np.array_equal(parts, whole)
