"""The operator set is raised where a type or an attribute needs it, and only where nothing changes its meaning."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, version_converter

from builders import CASES, FEATURES, Net, conv_bn_relu, features, images
from conversion import OPENVINO, TARGET, converted, error, rewritten, run
from fewbits.errors import PlanError
from fewbits.formats.scheme import BF16, FP16, INT4_BLOCKS, INT8_BLOCKS, Scheme
from fewbits.models import open_model
from fewbits.models.onnx_opset import RaiseOpset
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from odd_models import finish


def of_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`proto` with another operator set written on it."""

    def change(copy: onnx.ModelProto) -> None:
        copy.opset_import[0].version = opset

    return rewritten(proto, change)


def opset(artifact: Artifact) -> int:
    proto = onnx.load_model_from_string(artifact.content)
    return int(next(one.version for one in proto.opset_import if one.domain == ""))


@pytest.mark.parametrize("name", ["conv_bn_relu", "pooled_classifier", "squeeze_excite"])
def test_convolutions_in_bf16_need_22(name: str) -> None:
    case = CASES[name]
    proto, inputs = case.model(0), case.inputs(4, 0)
    _, _, artifact = converted(proto, inputs, target=OPENVINO, scheme=BF16)
    assert opset(artifact) == 22
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)


@pytest.mark.parametrize(("name", "scheme"), [("mlp_gelu", BF16), ("conv_bn_relu", FP16), ("conv_bn_relu", None)])
def test_where_the_set_will_do_it_stays(name: str, scheme: Scheme | None) -> None:
    case = CASES[name]
    _, _, artifact = converted(case.model(0), case.inputs(4, 0), target=OPENVINO, scheme=scheme)
    assert opset(artifact) == 20


def test_the_same_values_as_by_the_version_converter() -> None:
    proto, inputs = of_opset(conv_bn_relu(), 15), images(4)
    _, plan, artifact = converted(proto, inputs, target=OPENVINO, scheme=BF16)
    converter = open_model(version_converter.convert_version(proto, 22))
    other = Plan(converter.sha256, plan.choices, {}, OPENVINO.name)
    by_hand, by_converter = run(artifact, inputs, OPENVINO), run(converter.converted(other), inputs, OPENVINO)
    assert opset(artifact) == 22
    assert error(by_hand, by_converter) == 0


def raised(op: str, version: int, *inputs: str, **attributes: int) -> bool:
    """Whether a model with `op` beside a bf16 convolution is raised from `version`."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        helper.make_node(op, list(inputs), ["z"], name="other", **attributes),
    ]
    given = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in (
            ("x", TensorProto.BFLOAT16, [1, 3, 8, 8]),
            ("w", TensorProto.BFLOAT16, [4, 3, 3, 3]),
            ("f", TensorProto.FLOAT, [2, 4]),
            ("i", TensorProto.INT64, [1]),
        )
    ]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8))
    result = RaiseOpset()(model)
    assert result.model.graph.opset_imports[""] == (22 if result.modified else version)
    assert not result.modified or result.model.ir_version == 10
    return bool(result.modified)


def test_what_means_the_same_and_what_does_not() -> None:
    assert raised("Relu", 13, "f")
    assert raised("Reshape", 13, "f", "i")
    assert raised("Cast", 13, "f", to=TensorProto.FLOAT16)
    # Axes were an attribute before 18; since 15 Shape has an end without a default.
    assert not raised("ReduceMean", 13, "f")
    assert raised("ReduceMean", 18, "f", "i")
    assert not raised("Shape", 13, "f")
    assert raised("Shape", 15, "f")
    assert not raised("Split", 13, "f")
    assert not raised("GroupNormalization", 18, "x", "f", "f", num_groups=1)
    assert not raised("NoSuchOperator", 20, "f")
    assert not raised("Relu", 22, "f")


def _with_reduction() -> onnx.ModelProto:
    net = Net()
    y = net.add("MatMul", "x", net.weight(FEATURES, FEATURES))
    proto = finish(net, net.add("ReduceMax", y, net.axes(-1)), x=("batch", FEATURES))

    def change(copy: onnx.ModelProto) -> None:
        copy.graph.node[1].input.pop()
        copy.graph.node[1].attribute.add(name="axes", type=onnx.AttributeProto.INTS, ints=[-1])
        del copy.graph.initializer[1]
        copy.opset_import[0].version = 13

    return rewritten(proto, change)


@pytest.mark.parametrize("scheme", [INT8_BLOCKS, INT4_BLOCKS])
def test_blocks_behind_a_dequantiser_need_21(scheme: Scheme) -> None:
    model = open_model(CASES["mlp_gelu"].model(0))
    choices = {"matmul_0": Choice(str(scheme), "")}
    artifact = model.converted(Plan(model.sha256, choices, {}, OPENVINO.name))
    assert opset(artifact) == 22
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    # ONNX Runtime's own kernel does not.
    assert opset(model.converted(Plan(model.sha256, choices, {}, TARGET.name))) == 20


def test_blocks_that_cannot_be_had() -> None:
    model = open_model(_with_reduction())
    choices = {"matmul_0": Choice(str(INT8_BLOCKS), "")}
    said = r"has 13, in which ReduceMax mean something else.*or set .* to w:int8r/channel"
    with pytest.raises(PlanError, match=said):
        model.converted(Plan(model.sha256, choices, {}, OPENVINO.name))
    assert run(model.converted(Plan(model.sha256, choices, {}, TARGET.name)), features(2))["y0"].shape == (2, 1)
