"""What the plan has in float runs in float, what it has in int8 in int8, whatever the runtime would rather fuse."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from builders import CHANNELS, FEATURES, SIZE, Net, conv_bn_relu, images
from conversion import converted, error, kernels, precisions, run
from fewbits.models.onnx_isolate import IsolateFloat, SeparateActivations
from fewbits.models.onnx_normalise import normalised
from fewbits.models.protocol import Artifact
from odd_models import ODD, deep_gemm, finish, one_gemm


def chain(width: int) -> onnx.ModelProto:
    net = Net()
    x = net.add("Relu", net.conv("x", 3, width, bias=True))
    x = net.add("Relu", net.conv(x, width, CHANNELS, bias=True))
    return finish(net, net.add("Neg", net.conv(x, CHANNELS, CHANNELS)))


@pytest.mark.parametrize("width", [1, 2, CHANNELS])
def test_a_float_convolution_between_codes(width: int) -> None:
    proto, inputs = chain(width), images(8)
    model, plan, artifact = converted(proto, inputs, ["conv_0", "conv_4"])
    assert plan.low == {"conv_0", "conv_4"}
    assert precisions(model, artifact, inputs) == {"conv_0": "int8", "conv_2": "fp32", "conv_4": "int8"}
    # Its weight is still what it was, to the last bit.
    weight = model.weight(next(node for node in model.graph.nodes if node.name == "conv_2").inputs[1])
    stored = onnx.load_model_from_string(artifact.content).graph.initializer
    assert any(np.array_equal(onnx.numpy_helper.to_array(one), weight) for one in stored)
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.04


def test_a_float_gemm_between_codes() -> None:
    net = Net()
    image = net.add("Flatten", net.add("Relu", net.conv("x", 3, CHANNELS, bias=True)))
    x = net.add("Gemm", image, net.weight(CHANNELS * 64, FEATURES, fan_in=CHANNELS * 64), net.small(FEATURES))
    y = net.add("Gemm", x, net.weight(FEATURES, FEATURES, fan_in=FEATURES), transB=1)
    proto, inputs = net.model({"x": (1, ("b", 3, 8, 8))}, {"y": (y, ("b", FEATURES))}), images(8)
    model, _, artifact = converted(proto, inputs, ["conv_0", "gemm_4"])
    assert precisions(model, artifact, inputs) == {"conv_0": "int8", "gemm_3": "fp32", "gemm_4": "int8"}
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.04


def test_a_dilated_pool_between_codes_runs_in_float() -> None:
    odd = ODD["dilated pool between codes"]
    inputs = odd.inputs(4)
    model, plan, artifact = converted(odd.model(), inputs)
    assert "averagepool_2" not in plan.low
    assert precisions(model, artifact, inputs)["averagepool_2"] == "fp32"


@pytest.mark.parametrize("act", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "HardSigmoid"])
def test_a_gemm_before_an_activation_runs_on_integers(act: str) -> None:
    for proto in (one_gemm(bias=(FEATURES // 2,), then=act)(), deep_gemm(act)()):
        inputs = {"x": np.random.default_rng(0).standard_normal((8, FEATURES)).astype(np.float32)}
        model, plan, artifact = converted(proto, inputs)
        assert set(precisions(model, artifact, inputs).values()) == {"int8"}, kernels(artifact, inputs)
        assert len(plan.low) == kernels(artifact, inputs).count("QGemm")
        assert error(run(artifact, inputs), run(proto, inputs)) < 0.04


def test_the_reshape_between_keeps_values_and_sizes() -> None:
    proto = deep_gemm("Tanh")()
    result = SeparateActivations(["gemm_0"])(normalised(proto, ""))
    assert result.modified
    made = ir.to_proto(result.model)
    onnx.checker.check_model(made, full_check=True)
    for samples in (0, 1, 5):
        inputs = {"x": np.random.default_rng(0).standard_normal((samples, FEATURES)).astype(np.float32)}
        assert np.array_equal(run(made, inputs)["y0"], run(proto, inputs)["y0"])


def test_passes_that_find_nothing() -> None:
    model = normalised(conv_bn_relu(), "")
    assert IsolateFloat([])(model).modified is False
    assert SeparateActivations(["conv_0"])(model).modified is False
    assert SeparateActivations([])(normalised(deep_gemm("Tanh")(), "")).modified is False


def test_the_runtime_would_quantise_float_weights_by_itself() -> None:
    # Why isolation is needed: with one scale instead of equal ones, the plan is not what runs.
    proto, inputs = chain(CHANNELS), images(8)
    _, _, artifact = converted(proto, inputs, ["conv_0", "conv_4"])
    plain = onnx.load_model_from_string(artifact.content)
    (isolated,) = (node for node in plain.graph.node if node.name.endswith(".channels"))
    isolated.input[:] = [name.removesuffix(".channels") for name in isolated.input]
    isolated.ClearField("attribute")
    assert kernels(artifact, inputs).count("QLinearConv") == 2
    assert kernels(Artifact(plain.SerializeToString()), inputs).count("QLinearConv") == 3


@pytest.mark.parametrize("carriers", [["Reshape"], ["Transpose"], ["Transpose", "Reshape"]])
def test_codes_are_not_moved_into_a_body(carriers: list[str]) -> None:
    """ONNX Runtime 1.31 ends the process that opens the model where they are."""
    net = Net()
    x = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    y = net.add("Neg", net.conv(x, CHANNELS, CHANNELS))
    for carrier in carriers:
        x = (
            net.add("Reshape", x, net.axes(0, 0, 4, -1))
            if carrier == "Reshape"
            else net.add("Transpose", x, perm=[0, 1, 3, 2])
        )
    chosen = net.add("If", net.add("Greater", net.add("ReduceMax", "x", keepdims=0), net.number(0.0)))
    for branch, op in (("then_branch", "Neg"), ("else_branch", "Abs")):
        result = helper.make_tensor_value_info(branch, TensorProto.FLOAT, None)
        graph = helper.make_graph([helper.make_node(op, [x], [branch])], branch, [], [result])
        net.nodes[-1].attribute.append(helper.make_attribute(branch, graph))
    proto, inputs = finish(net, y, chosen), images(4)
    _, plan, artifact = converted(proto, inputs)
    assert len(plan.low) == 2
    makers = {name: node for node in onnx.load_model_from_string(artifact.content).graph.node for name in node.output}
    read = makers[x]
    while read.op_type in carriers:
        read = makers[read.input[0]]
    assert read.op_type == "Max" and makers[read.input[0]].op_type == "DequantizeLinear"
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.04


def _read_as_codes_and_floats(op: str, *, output: bool) -> onnx.ModelProto:
    net = Net()
    operand = "x" if op == "MatMul" else net.weight(SIZE, SIZE, fan_in=SIZE)
    hidden = net.add(op, "x", operand)
    y = net.add(op, hidden, operand)
    shape = ("batch", SIZE, SIZE) if op == "MatMul" else ("batch", SIZE)
    return (
        finish(net, y, hidden, x=shape) if output else finish(net, net.add("Add", y, net.add("Tanh", hidden)), x=shape)
    )


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_a_product_whose_values_are_read_as_codes_and_as_floats(op: str, output: bool) -> None:
    proto = _read_as_codes_and_floats(op, output=output)
    shape = (16, SIZE, SIZE) if op == "MatMul" else (16, SIZE)
    inputs = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    model, plan, artifact = converted(proto, inputs)
    ran = precisions(model, artifact, inputs)
    assert len(plan.low) == 2
    assert {ran[name] for name in plan.low} == {"int8"}
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.04
