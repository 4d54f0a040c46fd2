"""A folded batch norm gives what the norm gave (Krishnamoorthi, arXiv 1806.08342, section 3.2.2)."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from builders import CHANNELS, SIZE, Net, conv_bn_relu, images, pooled_classifier
from conversion import rewritten, run
from fewbits.models.onnx_fold import FoldBatchNorm
from fewbits.models.onnx_normalise import normalised

CONVS = ("conv_0", "conv_3")


def folded(proto: onnx.ModelProto, *names: str) -> tuple[onnx.ModelProto, bool]:
    result = FoldBatchNorm(names or CONVS)(normalised(proto, ""))
    made = ir.to_proto(result.model)
    onnx.checker.check_model(made, full_check=True)
    return made, result.modified


def norms(proto: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in proto.graph.node)


@pytest.mark.parametrize("bias", [True, False])
@settings(max_examples=25, deadline=None)
@given(
    gamma=st.floats(-3, 3, width=32),
    variance=st.floats(2**-33, 100, width=32),
    epsilon=st.sampled_from([1e-5, 1e-3]),
    groups=st.sampled_from([1, CHANNELS]),
)
def test_folding_equals_the_norm(bias: bool, gamma: float, variance: float, epsilon: float, groups: int) -> None:
    net = Net()
    x = net.conv("x", CHANNELS, CHANNELS, groups=groups, bias=bias)
    parameters = [
        net.constant(np.linspace(value, value / 2, CHANNELS, dtype=np.float32))
        for value in (gamma, 0.3, -0.2, variance)
    ]
    y = net.add("BatchNormalization", x, *parameters, epsilon=epsilon)
    shape = ("batch", CHANNELS, SIZE, SIZE)
    proto = net.model({"x": (TensorProto.FLOAT, shape)}, {"y": (y, shape)})
    inputs = {"x": np.random.default_rng(0).standard_normal((2, CHANNELS, SIZE, SIZE)).astype(np.float32)}
    made, modified = folded(proto)
    assert modified and not norms(made)
    got, wanted = run(made, inputs)["y"], run(proto, inputs)["y"]
    assert np.abs(got - wanted).max() <= 1e-5 * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_behind_a_transposed_convolution(groups: int, bias: bool) -> None:
    net = Net()
    more = [net.small(CHANNELS)] if bias else []
    x = net.add("ConvTranspose", "x", net.weight(4, CHANNELS // groups, 2, 2), *more, strides=[2, 2], group=groups)
    y = net.norm(x, CHANNELS)
    given, made_of = ("batch", 4, SIZE, SIZE), ("batch", CHANNELS, 2 * SIZE, 2 * SIZE)
    proto = net.model({"x": (TensorProto.FLOAT, given)}, {"y": (y, made_of)})
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 4, SIZE, SIZE)).astype(np.float32)}
    made, modified = folded(proto, "convtranspose_0")
    assert modified and not norms(made)
    assert np.allclose(run(made, inputs)["y"], run(proto, inputs)["y"], atol=1e-5)


def test_the_default_epsilon() -> None:
    def change(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            if node.op_type == "BatchNormalization":
                node.ClearField("attribute")

    proto = rewritten(conv_bn_relu(), change)
    made, _ = folded(proto)
    assert np.allclose(run(made, images(2))["y"], run(proto, images(2))["y"], atol=1e-5)


def test_only_the_named_are_folded() -> None:
    made, modified = folded(conv_bn_relu(), "conv_3")
    assert modified and norms(made) == 1


def test_the_tensor_behind_keeps_its_name() -> None:
    made, _ = folded(conv_bn_relu())
    assert [node.output[0] for node in made.graph.node] == [
        "batchnormalization_1_out",
        "relu_2_out",
        "batchnormalization_4_out",
        "y",
    ]


def read_twice(proto: onnx.ModelProto) -> None:
    (norm,) = (node for node in proto.graph.node if node.name == "batchnormalization_4")
    proto.graph.node.append(onnx.helper.make_node("Neg", [norm.input[0]], ["z"], name="neg"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))


def also_output(proto: onnx.ModelProto) -> None:
    (norm,) = (node for node in proto.graph.node if node.name == "batchnormalization_4")
    proto.graph.output.append(onnx.helper.make_tensor_value_info(norm.input[0], TensorProto.FLOAT, [None] * 4))


@pytest.mark.parametrize("change", [read_twice, also_output])
def test_a_convolution_that_others_see_is_not_folded(change: object) -> None:
    assert callable(change)
    proto = rewritten(conv_bn_relu(), change)
    made, modified = folded(proto, "conv_3")
    assert not modified and norms(made) == 2


def test_nothing_to_fold() -> None:
    assert folded(pooled_classifier())[1] is False
    assert folded(conv_bn_relu(), "relu_2", "nothing")[1] is False
