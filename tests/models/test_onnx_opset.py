"""The operator set is raised where a type or an attribute needs it, and only where nothing changes its meaning."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, version_converter

from builders import CASES, CHANNELS, FEATURES, SIZE, Net, conv_bn_relu, features, images
from conversion import OPENVINO, TARGET, converted, error, rewritten, run
from fewbits.errors import ModelError, PlanError
from fewbits.formats.scheme import BF16, FP16, INT4_BLOCKS, INT8_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.onnx_opset import raised, upgraded
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target
from odd_models import finish
from opset_nets import NETS, OPSETS, Dated, vision


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


def made_from(op: str, version: int, *inputs: str, **attributes: int | list[int]) -> ir.Model:
    """What a model with `op` beside a bf16 convolution is raised to from `version`."""
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
    return raised(model)


def set_of(model: ir.Model) -> int:
    return model.graph.opset_imports[""]


@pytest.mark.parametrize(
    ("op", "version", "inputs", "attributes"),
    [
        ("Relu", 13, "f", {}),
        ("Reshape", 13, "fi", {}),
        ("Cast", 13, "f", {"to": int(TensorProto.FLOAT16)}),
        ("ReduceMean", 18, "fi", {}),
        ("Shape", 15, "f", {}),
    ],
)
def test_what_means_the_same_stays_as_it_is(op: str, version: int, inputs: str, attributes: dict[str, int]) -> None:
    model = made_from(op, version, *inputs, **attributes)
    assert (set_of(model), model.ir_version) == (22, 10)
    other = model.graph[1]
    assert [value and value.name for value in other.inputs] == list(inputs)
    assert {key: value.as_int() for key, value in other.attributes.items()} == attributes


def test_axes_become_an_input() -> None:
    # An attribute before 18; left out, it means all of them in both forms.
    model = made_from("ReduceMean", 13, "f", axes=[1])
    (mean,) = (node for node in model.graph if node.op_type == "ReduceMean")
    assert set_of(model) == 22 and "axes" not in mean.attributes
    assert mean.inputs[1] is not None and mean.inputs[1].producer() is not None
    assert set_of(made_from("ReduceMean", 13, "f")) == 22


def test_parts_of_a_split_are_counted() -> None:
    model = made_from("Split", 13, "f")
    (split,) = (node for node in model.graph if node.op_type == "Split")
    assert set_of(model) == 22
    assert split.attributes["num_outputs"].as_int() == 1


def test_what_no_converter_knows_stays() -> None:
    assert set_of(made_from("NoSuchOperator", 20, "f")) == 20
    model = made_from("Relu", 22, "f")
    assert (set_of(model), model.ir_version) == (22, 8)


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


def test_blocks_beside_a_reduction_with_an_attribute() -> None:
    proto = _with_reduction()
    model = open_model(proto)
    choices = {"matmul_0": Choice(str(INT8_BLOCKS), "")}
    artifact = model.converted(Plan(model.sha256, choices, {}, OPENVINO.name))
    assert opset(artifact) == 22
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    assert error(run(artifact, features(2), OPENVINO), run(proto, features(2))) < 0.03


def test_blocks_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter")

    model = open_model(_with_reduction())
    choices = {"matmul_0": Choice(str(INT8_BLOCKS), "")}
    monkeypatch.setattr(version_converter, "convert_version", fails)
    said = r"has 13, in which ReduceMax mean something else, .*\(no adapter\).*or set .* to w:int8r/channel"
    with pytest.raises(PlanError, match=said):
        model.converted(Plan(model.sha256, choices, {}, OPENVINO.name))
    assert run(model.converted(Plan(model.sha256, choices, {}, TARGET.name)), features(2))["y0"].shape == (2, 1)


def test_weights_pass_by_the_converter() -> None:
    """It copies all that it is given, and takes 2 GiB at most."""
    model = ir.from_proto(vision(9))
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    result = upgraded(model, 13)
    after = {name: value.const_value for name, value in result.graph.initializers.items()}
    large = [name for name, tensor in before.items() if tensor is not None and tensor.nbytes > 1000]
    assert large and all(after[name] is before[name] for name in large)
    # The given model is whole again.
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == before
    assert [value.name for value in model.graph.inputs] == [value.name for value in result.graph.inputs] == ["x"]


PAIRS: Sequence[tuple[Target, Scheme | None]] = (
    (TARGET, None),
    (TARGET, INT8_DYNAMIC),
    (TARGET, INT8_BLOCKS),
    (OPENVINO, None),
    (OPENVINO, BF16),
    (OPENVINO, INT8_WEIGHT),
    (OPENVINO, INT8_BLOCKS),
)


@pytest.mark.parametrize("version", OPSETS)
@pytest.mark.parametrize("name", NETS)
def test_every_operator_set_in_every_scheme(name: str, version: int) -> None:
    build, make = NETS[name]
    proto, inputs = build(version), make(8)
    reference = run(proto, inputs)
    low = 0
    for target, scheme in PAIRS:
        _, plan, artifact = converted(proto, inputs, target=target, scheme=scheme)
        result = onnx.load_model_from_string(artifact.content)
        onnx.checker.check_model(result, full_check=True)
        assert [one.name for one in result.graph.output] == [one.name for one in proto.graph.output]
        assert error(run(artifact, inputs, target), reference) < 0.03
        assert not plan.low or opset(artifact) >= max(version, 13)
        low += len(plan.low)
    # The oldest are as good as the newest: the same groups may leave fp32, but where LayerNormalization or Gelu is
    # spelled out, and adds joints of its own.
    assert low >= {"vision": 13, "sequence": 38, "segmentation": 14}[name]


@pytest.mark.parametrize("version", [7, 13, 14])
def test_norms_of_the_batch_at_hand_are_no_constants(version: int) -> None:
    net = Dated(opset=version)
    statistics = [net.positive(CHANNELS), net.small(CHANNELS), net.small(CHANNELS), net.positive(CHANNELS)]
    operands = [net.conv("x", 3, CHANNELS), *statistics]
    if version < 14:
        normal = net.several("BatchNormalization", operands, 5)[0]
    else:
        normal = net.several("BatchNormalization", operands, 3, training_mode=1)[0]
    y = net.add("Sigmoid", net.conv(net.add("Relu", normal), CHANNELS, 4))
    proto, inputs = net.finished(("batch", 3, SIZE, SIZE), (y, 4)), images(8)
    model, plan, artifact = converted(proto, inputs)
    assert len(plan.low) == 1
    assert all(len(one.nodes) < 3 for one in group(model.graph))
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.03


def test_a_norm_per_place_is_refused() -> None:
    net = Dated(opset=7)
    shape = (CHANNELS, SIZE, SIZE)
    statistics = [net.positive(*shape), net.small(*shape), net.small(*shape), net.positive(*shape)]
    y = net.add("BatchNormalization", net.conv("x", 3, CHANNELS), *statistics, spatial=0)
    proto = net.finished(("batch", 3, SIZE, SIZE), (y, 4))
    with pytest.raises(ModelError, match=r"cannot be brought to 13 \(Attribute spatial must have value 1\)"):
        open_model(proto)


def test_bodies_are_brought_up_too() -> None:
    net = Dated(opset=11)
    hidden = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    hidden = net.add("Relu", net.conv(hidden, CHANNELS, CHANNELS, bias=True))
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, [hidden], [f"{name}_out"], axes=[2, 3], keepdims=0)],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name, op in (("then_branch", "ReduceMean"), ("else_branch", "ReduceSum"))
    }
    y = net.add("If", net.add("Greater", net.add("ReduceSum", "x", keepdims=0), net.number(0.0)))
    net.nodes[-1].attribute.extend(helper.make_attribute(name, graph) for name, graph in branches.items())
    proto, inputs = net.finished(("batch", 3, SIZE, SIZE), (y, 2)), images(8)
    for target, scheme in ((TARGET, None), (OPENVINO, BF16)):
        _, plan, artifact = converted(proto, inputs, target=target, scheme=scheme)
        onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
        assert plan.low
        assert error(run(artifact, inputs, target), run(proto, inputs)) < 0.03
