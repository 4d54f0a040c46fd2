"""Converted models against the same arithmetic in numpy: quantise operands, multiply, quantise the result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from affine_casts import fake_quantize
from builders import CHANNELS, FEATURES, SIZE, Array, Net, images
from conversion import converted, kernels, precisions, run
from fewbits.errors import PlanError
from fewbits.formats.integer import INT8R, UINT8
from fewbits.formats.numerics.affine import Affine, asymmetric, symmetric
from fewbits.formats.scheme import Scheme
from fewbits.grouping import group
from fewbits.models.onnx_graph import graph_of
from fewbits.models.onnx_normalise import normalised
from fewbits.models.onnx_quantize import InsertQuantizers
from fewbits.placement import Placement, place
from odd_models import finish

F = TensorProto.FLOAT


def activation(ranges: tuple[float, float]) -> Affine:
    return asymmetric(*ranges, UINT8)


def channels(weight: Array, axis: int) -> Array:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return fake_quantize(weight, symmetric(np.abs(weight).max(axis=others), INT8R, axis))


def rounded_bias(bias: Array, weight: Array, axis: int, scale: float) -> Array:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    steps = np.abs(weight).max(axis=others) / 127 * scale
    return np.rint(bias / steps) * steps


def convolution(x: Array, weight: Array) -> Array:
    """3x3, padded by 1."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


@pytest.mark.parametrize("gain", [1.0, -0.7])
def test_convolution_norm_and_relu(gain: float) -> None:
    net = Net()
    weight, bias = (net._random.standard_normal(shape).astype(np.float32) for shape in ((CHANNELS, 3, 3, 3), CHANNELS))
    gamma, beta, mean, variance = (
        (net._random.uniform(0.5, 1.5, CHANNELS) * factor).astype(np.float32) for factor in (gain, 0.2, 0.1, 1.0)
    )
    x = net.add("Conv", "x", net.constant(weight), net.constant(bias), pads=[1, 1, 1, 1])
    norm = [net.constant(one) for one in (gamma, beta, mean, variance)]
    x = net.add("Relu", net.add("BatchNormalization", x, *norm, epsilon=1e-3))
    proto = finish(net, net.add("Neg", x))
    inputs = images(8)
    _, plan, artifact = converted(proto, inputs)
    source, result = activation(plan.ranges["x"]), activation(plan.ranges["relu_2_out"])

    ratio = gamma / np.sqrt(variance + np.float32(1e-3))
    folded = weight * ratio[:, None, None, None]
    shift = rounded_bias(beta + (bias - mean) * ratio, folded, 0, float(source.scale))
    real = convolution(fake_quantize(inputs["x"], source), channels(folded, 0)) + shift[:, None, None]
    wanted = fake_quantize(np.maximum(real, 0).astype(np.float32), result)

    got = -run(artifact, inputs)["y0"]
    steps = np.abs(got - wanted) / result.scale
    # Where a value lies between two codes, either may come out.
    assert steps.max() < 1.01 and (steps > 0.01).mean() < 0.01
    assert kernels(artifact, inputs).count("QLinearConv") == 1
    assert "Relu" not in kernels(artifact, inputs)


@pytest.mark.parametrize("shape", [("batch", FEATURES), ("batch", "tokens", FEATURES)])
def test_product_and_bias(shape: Sequence[int | str]) -> None:
    net = Net()
    weight = net._random.standard_normal((FEATURES, 7)).astype(np.float32)
    bias = net._random.standard_normal(7).astype(np.float32)
    proto = finish(net, net.add("Add", net.add("MatMul", "x", net.constant(weight)), net.constant(bias)), x=shape)
    sizes = (6, 5, FEATURES)[3 - len(shape) :] if len(shape) == 3 else (6, FEATURES)
    inputs = {"x": np.random.default_rng(1).standard_normal(sizes).astype(np.float32)}
    _, plan, artifact = converted(proto, inputs)
    source = activation(plan.ranges["x"])
    shift = rounded_bias(bias, weight, 1, float(source.scale))
    wanted = fake_quantize(inputs["x"], source) @ channels(weight, 1) + shift
    assert np.allclose(run(artifact, inputs)["y0"], wanted, rtol=1e-4, atol=1e-4)
    assert kernels(artifact, inputs).count("QGemm") == 1


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("bias", [None, (7,), (1, 7), (1,), ()])
def test_gemm(transposed: bool, bias: Sequence[int] | None) -> None:
    net = Net()
    weight = net._random.standard_normal((7, FEATURES) if transposed else (FEATURES, 7)).astype(np.float32)
    operands = ["x", net.constant(weight)]
    added = np.zeros((), np.float32)
    if bias is not None:
        added = net._random.standard_normal(bias).astype(np.float32)
        operands.append(net.constant(added))
    proto = finish(net, net.add("Gemm", *operands, transB=int(transposed)), x=("batch", FEATURES))
    inputs = {"x": np.random.default_rng(1).standard_normal((9, FEATURES)).astype(np.float32)}
    _, plan, artifact = converted(proto, inputs)
    source, axis = activation(plan.ranges["x"]), 0 if transposed else 1
    matrix = channels(weight, axis)
    shift = rounded_bias(np.broadcast_to(added.reshape(-1), 7), weight, axis, float(source.scale))
    wanted = fake_quantize(inputs["x"], source) @ (matrix.T if transposed else matrix) + shift
    assert np.allclose(run(artifact, inputs)["y0"], wanted, rtol=1e-4, atol=1e-4)
    assert kernels(artifact, inputs).count("QGemm") == 1


def test_a_product_of_two_activations() -> None:
    net = Net()
    keys = net.add("Transpose", net.add("Mul", "x", net.number(3.0)), perm=[0, 2, 1])
    proto = finish(net, net.add("MatMul", "x", keys), x=("batch", "tokens", FEATURES))
    inputs = {"x": np.random.default_rng(1).standard_normal((2, 5, FEATURES)).astype(np.float32)}
    model, plan, artifact = converted(proto, inputs)
    low, high = plan.ranges["transpose_1_out"]
    left = fake_quantize(inputs["x"], activation(plan.ranges["x"]))
    right = fake_quantize(3 * inputs["x"], symmetric(np.array(max(-low, high), np.float32), INT8R))
    wanted = left @ right.transpose(0, 2, 1)
    assert np.allclose(run(artifact, inputs)["y0"], wanted, rtol=1e-4, atol=1e-3)
    assert precisions(model, artifact, inputs) == {"matmul_2": "int8"}


def test_one_sided_and_mixed_ranges() -> None:
    def zero_point(low: float, high: float) -> int:
        net = Net()
        x = net.linear("x", FEATURES, FEATURES)
        proto = finish(net, x, x=("batch", FEATURES))
        inputs = {"x": np.linspace(low, high, 8 * FEATURES, dtype=np.float32).reshape(8, FEATURES)}
        _, _, artifact = converted(proto, inputs)
        values = {one.name: one for one in onnx.load_model_from_string(artifact.content).graph.initializer}
        # The error is that of a range which holds 0: every input is within half a step.
        scale = float(onnx.numpy_helper.to_array(values["x.uint8.scale"]))
        assert np.isclose(scale, (max(high, 0) - min(low, 0)) / 255, rtol=1e-5)
        return int(onnx.numpy_helper.to_array(values["x.uint8.zero_point"]))

    assert zero_point(0.0, 4.0) == 0
    assert zero_point(1.0, 4.0) == 0
    assert zero_point(-4.0, 0.0) == 255
    assert zero_point(-4.0, -1.0) == 255
    assert zero_point(-1.0, 3.0) == 64


def quantised(proto: onnx.ModelProto, low: dict[str, Scheme], ranges: dict[str, tuple[float, float]]) -> bool:
    model = normalised(proto, "")
    graph = graph_of(model)
    groups = {one.name: one for one in group(graph)}
    placement = place(graph, tuple(groups.values()), low) if low else Placement({}, {})
    return InsertQuantizers(groups, low, placement, ranges, {})(model).modified


def test_the_pass_says_whether_it_did_anything() -> None:
    net = Net()
    y = net.add("Gemm", "x", net.weight(CHANNELS, SIZE), transB=1)
    proto = finish(net, y, x=("batch", SIZE))
    assert quantised(proto, {}, {}) is False
    assert quantised(proto, {"gemm_0": Scheme.parse("int8")}, {"x": (0.0, 1.0)}) is True
    with pytest.raises(PlanError, match="no range for the tensor x"):
        quantised(proto, {"gemm_0": Scheme.parse("int8")}, {})
    with pytest.raises(PlanError, match=r"\[2.0, 1.0\]"):
        quantised(proto, {"gemm_0": Scheme.parse("int8")}, {"x": (2.0, 1.0)})


def test_signed_activations() -> None:
    net = Net()
    y = net.add("Gemm", "x", net.weight(CHANNELS, FEATURES, fan_in=FEATURES), transB=1)
    proto = finish(net, y, x=("batch", FEATURES))
    model = normalised(proto, "")
    groups = {one.name: one for one in group(graph_of(model))}
    scheme = {"gemm_0": Scheme.parse("w:int8r/channel a:int8/tensor")}
    placement = place(graph_of(model), tuple(groups.values()), scheme)
    result = ir.to_proto(InsertQuantizers(groups, scheme, placement, {"x": (-3.0, 4.0)}, {})(model).model)
    inputs = {"x": np.random.default_rng(1).standard_normal((4, FEATURES)).astype(np.float32)}
    got, wanted = run(result, inputs)["y0"], run(proto, inputs)["y0"]
    assert np.abs(got - wanted).max() < 0.1
    zero = next(one for one in result.graph.initializer if one.name == "x.int8.zero_point")
    assert zero.data_type == TensorProto.INT8 and not onnx.numpy_helper.to_array(zero)
