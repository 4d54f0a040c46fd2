"""What docs/int8.md says an int8 model computes, in numpy integers, against the runtimes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

import builders
from builders import Array
from conversion import OPENVINO, TARGET, converted, precisions, run
from fewbits.targets.protocol import Target

Int = NDArray[np.int64]
F32 = np.float32


@dataclass(frozen=True)
class Codes:
    """An array of codes with scale and zero point, as the model file has them."""

    codes: Int
    scale: NDArray[np.float32]
    zero: Int


def stored(made: onnx.ModelProto, decoder: onnx.NodeProto) -> Codes:
    values = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    codes, scale, zero = (values[name] for name in decoder.input)
    return Codes(codes.astype(np.int64), scale.astype(F32), zero.astype(np.int64))


def encoded(x: Array, scale: NDArray[np.float32], zero: Int) -> Int:
    return np.clip(np.rint(x.astype(F32) / scale) + zero, 0, 255).astype(np.int64)


def requantised(acc: Int, x: NDArray[np.float32], w: NDArray[np.float32], y: NDArray[np.float32], zero: Int) -> Int:
    multiplier = (x * w).astype(F32) / y
    return np.clip(np.rint(acc.astype(F32) * multiplier.astype(F32)) + zero, 0, 255).astype(np.int64)


@dataclass(frozen=True)
class Layer:
    """The first product of a converted model: its codes, and what the runtime makes of inputs."""

    activation: Codes
    weight: Codes
    bias: Codes
    result: Codes
    ran: Int
    outputs: dict[str, Array]


def first_layer(proto: onnx.ModelProto, inputs: dict[str, Array], target: Target = TARGET) -> Layer:
    model, _, artifact = converted(proto, inputs, target=target)
    made = onnx.load_model_from_string(artifact.content)
    nodes = {output: node for node in made.graph.node for output in node.output}
    product = next(node for node in made.graph.node if node.op_type in ("Conv", "Gemm"))
    (reader,) = (node for node in made.graph.node if node.input[0] == product.output[0])
    assert reader.op_type == "QuantizeLinear"
    made.graph.output.append(onnx.helper.make_tensor_value_info(reader.output[0], onnx.TensorProto.UINT8, None))
    values = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    decoders = [nodes[name] for name in product.input]
    scale, zero = values[decoders[0].input[1]], values[decoders[0].input[2]]
    got = run(made, inputs, target)
    names = [output.name for output in made.graph.output]
    assert precisions(model, artifact, inputs, target)[product.name] == "int8"
    return Layer(
        Codes(encoded(inputs["x"], scale, zero), scale, zero.astype(np.int64)),
        stored(made, decoders[1]),
        stored(made, decoders[2]),
        Codes(np.zeros(0, np.int64), values[reader.input[1]], values[reader.input[2]].astype(np.int64)),
        np.asarray(got.pop(names[-1])).astype(np.int64),
        got,
    )


def convolved(one: Layer) -> Int:
    """Sums of a 3 x 3 convolution with a border of one, which is the zero point."""
    padded = np.pad(one.activation.codes - one.activation.zero, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, one.weight.codes) + one.bias.codes[:, None, None]


def multiplied(one: Layer) -> Int:
    return (one.activation.codes - one.activation.zero) @ one.weight.codes.T + one.bias.codes


def expected(one: Layer, acc: Int, shape: tuple[int, ...]) -> Int:
    scale = one.weight.scale.reshape(shape)
    return requantised(acc, one.activation.scale, scale, one.result.scale, one.result.zero)


@pytest.mark.parametrize("seed", range(4))
def test_a_convolution_with_batch_norm_and_relu_bit_for_bit(seed: int) -> None:
    one = first_layer(builders.conv_bn_relu(seed), builders.images(16, seed))
    assert np.array_equal(one.ran, expected(one, convolved(one), (-1, 1, 1)))
    # Bias codes have the scale of the sums.
    assert np.array_equal(one.bias.scale, (one.activation.scale * one.weight.scale).astype(F32))


@pytest.mark.parametrize("seed", range(4))
def test_a_product_with_relu_bit_for_bit(seed: int) -> None:
    one = first_layer(builders.gemm(seed), builders.features(64, seed))
    assert np.array_equal(one.ran, expected(one, multiplied(one), (-1,)))


@pytest.mark.parametrize("seed", range(4))
def test_the_last_product_gives_floats(seed: int) -> None:
    proto, inputs = builders.gemm(seed), builders.features(64, seed)
    _, _, artifact = converted(proto, inputs)
    made = onnx.load_model_from_string(artifact.content)
    one = first_layer(proto, inputs)
    last = [node for node in made.graph.node if node.op_type == "Gemm"][-1]
    nodes = {output: node for node in made.graph.node for output in node.output}
    weight, bias = (stored(made, nodes[name]) for name in last.input[1:])
    acc = (one.ran - one.result.zero) @ weight.codes.T + bias.codes
    assert np.array_equal(one.outputs["y"], acc.astype(F32) * (one.result.scale * weight.scale).astype(F32))


@pytest.mark.parametrize("seed", range(4))
def test_openvino_is_within_one_code(seed: int) -> None:
    one = first_layer(builders.conv_bn_relu(seed), builders.images(16, seed), OPENVINO)
    away = np.abs(one.ran - expected(one, convolved(one), (-1, 1, 1)))
    assert away.max() <= 1
    assert (away > 0).mean() < 0.01


def test_weights_and_biases_are_what_the_page_says() -> None:
    one = first_layer(builders.conv_bn_relu(), builders.images(16))
    assert np.abs(one.weight.codes).max(axis=(1, 2, 3)).min() == 127
    assert one.weight.codes.min() >= -127
    assert not one.weight.zero.any()
    assert not one.bias.zero.any()
    assert int(one.result.zero) == 0, "behind a ReLU"
