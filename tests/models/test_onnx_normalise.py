"""Models of any age and style are opened as the same regular graph, with the same outputs as before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builders import CASES, FEATURES, Array, Net, conv_bn_relu, features, gemm, images, transformer
from conversion import converted, error, planned, rewritten, run
from fewbits.data.batches import Batch
from fewbits.errors import ModelError
from fewbits.graph import Kind
from fewbits.models import open_model
from fewbits.models.onnx_constants import MarkConstants
from fewbits.models.onnx_normalise import InferShapes, NameNodes, normalised
from odd_models import ODD

F = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def old(
    opset: int,
    *nodes: onnx.NodeProto,
    ir_version: int = 4,
    shape: tuple[int | str, ...] = ("b", 3, 8, 8),
    **weights: Array,
) -> onnx.ModelProto:
    """A model of an old opset with input ``x`` and output ``y``."""
    inputs = [helper.make_tensor_value_info("x", F, shape)]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(name, F, array.shape) for name, array in weights.items()]
    graph = helper.make_graph(
        list(nodes),
        "old",
        inputs,
        [helper.make_tensor_value_info("y", F, [None] * len(shape))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(made)
    return made


def node(op: str, inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"makes_{output}", **attributes)  # type: ignore[arg-type]


CONV = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
MATRIX = RNG.standard_normal((8, 8)).astype(np.float32)
ONES = np.ones(4, np.float32)
OLD: Mapping[str, onnx.ModelProto] = {
    "clip with attributes": old(
        6, node("Conv", "x w", "h"), node("Clip", "h", "c", min=0.0, max=6.0), node("Neg", "c"), w=CONV
    ),
    "norm of opset 7": old(
        7,
        node("Conv", "x w", "h"),
        node("BatchNormalization", "h s b m v", "n"),
        node("Relu", "n", "r"),
        node("Neg", "r"),
        w=CONV,
        s=ONES,
        b=0 * ONES,
        m=0 * ONES,
        v=ONES,
    ),
    "upsample": old(9, node("Upsample", "x s", mode="nearest"), s=np.array([1, 1, 2, 2], np.float32)),
    "pad with attributes": old(10, node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1])),
    "softmax over all axes behind": old(11, node("Softmax", "x", axis=1)),
    "attention": old(
        11, node("MatMul", "x w", "h"), node("Softmax", "h", "s", axis=3), node("MatMul", "s w"), w=MATRIX
    ),
    "sum with axes": old(11, node("ReduceSum", "x", axes=[1])),
    "weights are inputs": old(
        8, node("Conv", "x w", "h"), node("Relu", "h", "r"), node("Neg", "r"), ir_version=3, w=CONV
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_opsets_are_brought_up(name: str) -> None:
    proto = OLD[name]
    inputs = images(2)
    model = open_model(proto)
    assert model.original().content == proto.SerializeToString()
    (values,) = model.observe([Batch(inputs)], ["y"])
    assert np.allclose(values["y"], run(proto, inputs)["y"], atol=1e-6)
    assert [one.name for one in model.inputs] == ["x"]
    # Plans, ranges and profiles go by these names.
    assert {name for one in proto.graph.node for name in one.output} <= model.graph.producer.keys()
    products = [one.name for one in proto.graph.node if one.op_type in ("Conv", "MatMul")]
    assert [one.name for one in model.graph.nodes if one.op in ("Conv", "MatMul")] == products


@pytest.mark.parametrize("name", ["clip with attributes", "norm of opset 7", "attention", "weights are inputs"])
def test_old_models_convert(name: str) -> None:
    proto, inputs = OLD[name], images(4)
    _, plan, artifact = converted(proto, inputs)
    result = onnx.load_model_from_string(artifact.content)
    onnx.checker.check_model(result, full_check=True)
    assert plan.low
    assert result.opset_import[0].version >= 13
    assert [one.name for one in result.graph.input] == ["x"]
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.05


def test_an_opset_that_cannot_be_brought_up() -> None:
    gemm6 = node("Gemm", "x w c", broadcast=1)
    proto = old(6, gemm6, shape=("b", 8), w=MATRIX, c=np.ones(8, np.float32))
    with pytest.raises(
        ModelError, match=r"has opset 6 and cannot be brought to 13 .* export it with opset 13 or later"
    ):
        open_model(proto)


def test_unknown_operators_are_left_alone() -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].op_type, proto.graph.node[1].domain = "Sparkle", "my.company"
        proto.opset_import.append(helper.make_opsetid("my.company", 3))

    model = open_model(rewritten(gemm(), change))
    assert [one.kind for one in model.graph.nodes] == [Kind.GEMM, Kind.OTHER, Kind.GEMM]
    with pytest.raises(ModelError, match="Sparkle"):
        run(model.original(), features(1))


def test_functions_are_inlined() -> None:
    shape = [helper.make_opsetid("", 20)]
    half = helper.make_function(
        "mine",
        "Affine",
        ["a", "w"],
        ["c"],
        [helper.make_node("MatMul", ["a", "w"], ["b"], name="product"), helper.make_node("Relu", ["b"], ["c"])],
        shape,
    )
    graph = helper.make_graph(
        [
            helper.make_node("Affine", ["x", "w"], ["h"], domain="mine", name="first"),
            helper.make_node("Affine", ["h", "w"], ["y"], domain="mine", name="second"),
        ],
        "functions",
        [helper.make_tensor_value_info("x", F, ["b", 8])],
        [helper.make_tensor_value_info("y", F, ["b", 8])],
        [numpy_helper.from_array(MATRIX, "w")],
    )
    proto = helper.make_model(
        graph, functions=[half], opset_imports=[*shape, helper.make_opsetid("mine", 1)], ir_version=10
    )
    inputs: dict[str, Array] = {"x": RNG.standard_normal((4, 8)).astype(np.float32)}
    model, plan, artifact = converted(proto, inputs)
    assert [one.kind for one in model.graph.nodes] == [Kind.MATMUL, Kind.RELU] * 2
    assert len(plan.low) == 2
    assert error(run(artifact, inputs), run(proto, inputs)) < 0.05


def test_constant_nodes_are_weights() -> None:
    def change(proto: onnx.ModelProto) -> None:
        for tensor in list(proto.graph.initializer):
            proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        proto.graph.ClearField("initializer")

    model, reference = open_model(rewritten(gemm(), change)), open_model(gemm())
    assert planned(model, features(4)).low == planned(reference, features(4)).low
    assert np.array_equal(model.weight("constant_0"), reference.weight("constant_0"))
    with pytest.raises(KeyError):
        model.weight("relu_1_out")


@pytest.mark.parametrize("kind", ["Identity", "Transpose", "Cast", "Reshape", "three"])
def test_rearranged_constants_are_constants(kind: str) -> None:
    odd = ODD[f"weight behind {kind}"]
    proto = odd.model()
    model = open_model(proto)
    product = next(one for one in model.graph.nodes if one.kind is Kind.MATMUL)
    weight = model.weight(product.inputs[1])
    inputs = odd.inputs(3)
    got = run(proto, inputs)["y0"]
    bias = model.weight(model.graph.nodes[-1].inputs[1])
    assert np.allclose(got, inputs["x"] @ weight + bias, atol=1e-5)
    # Stored once, in its first form, until it is quantised.
    assert MarkConstants()(normalised(proto, "")).modified is False


def test_an_embedding_that_is_also_a_classifier_is_stored_once() -> None:
    net = Net()
    table = net.weight(100, FEATURES)
    hidden = net.add("Gather", table, "x", axis=0)
    y = net.add("MatMul", hidden, net.add("Transpose", table, perm=[1, 0]))
    z = net.linear(hidden, FEATURES, FEATURES)
    proto = net.model(
        {"x": (TensorProto.INT64, ["b", "s"])}, {"y": (y, ["b", "s", 100]), "z": (z, ["b", "s", FEATURES])}
    )
    inputs: dict[str, Array] = {"x": np.arange(12).reshape(3, 4)}
    model, _, artifact = converted(proto, inputs, [net.nodes[3].name])
    sizes = [tensor.dims for tensor in onnx.load_model_from_string(artifact.content).graph.initializer]
    assert sum(list(size) in ([100, FEATURES], [FEATURES, 100]) for size in sizes) == 1
    assert error(run(artifact, inputs), run(model.original(), inputs)) < 0.05


def _unnamed(proto: onnx.ModelProto) -> None:
    for one in proto.graph.node:
        one.name = ""


def _all_alike(proto: onnx.ModelProto) -> None:
    for one in proto.graph.node:
        one.name = "layer"


def _trap(proto: onnx.ModelProto) -> None:
    _unnamed(proto)
    # The names that the unnamed would be given.
    proto.graph.node[3].name = "Conv_0"
    proto.graph.node[4].name = "Conv_0_0"
    proto.graph.node[5].name = "Conv_0"


@pytest.mark.parametrize("change", [_unnamed, _all_alike, _trap])
def test_every_node_has_a_name_of_its_own(change: Callable[[onnx.ModelProto], None]) -> None:
    proto = rewritten(conv_bn_relu(), change)
    model = open_model(proto)
    names = [one.name for one in model.graph.nodes]
    assert len(set(names)) == len(names) and all(names)
    assert names == [one.name for one in open_model(proto).graph.nodes]
    if change is _trap:
        assert names[3:5] == ["Conv_0", "Conv_0_0"]
    assert NameNodes()(normalised(proto, "")).modified is False
    _, plan, artifact = converted(proto, images(2))
    assert plan.low and error(run(artifact, images(2)), run(conv_bn_relu(), images(2))) < 0.05


def test_outputs_survive_identities() -> None:
    proto = ODD["identities"].model()
    model = open_model(proto)
    assert [one.name for one in model.outputs] == ["y0", "y1", "y2"]


def test_shapes_that_went_stale_are_not_believed() -> None:
    proto = ODD["stale shapes"].model()
    assert any(value.type.tensor_type.shape.dim[0].dim_value == 1 for value in proto.graph.value_info)
    model = open_model(proto)
    assert {model.graph.tensors[one.outputs[0]].shape for one in model.graph.nodes} == {("batch", 5, FEATURES)}
    _, plan, artifact = converted(proto, ODD["stale shapes"].inputs(4))
    assert plan.low
    assert run(artifact, ODD["stale shapes"].inputs(7))["y0"].shape == (7, 5, FEATURES)


def test_the_rank_is_believed_where_nothing_else_is_known() -> None:
    def change(proto: onnx.ModelProto) -> None:
        (act,) = (one for one in proto.graph.node if one.op_type == "Relu")
        act.op_type, act.domain = "Sparkle", "my.company"
        proto.opset_import.append(helper.make_opsetid("my.company", 1))
        proto.graph.value_info.append(helper.make_tensor_value_info(act.output[0], F, ["batch", 7, 2 * FEATURES]))

    model = open_model(rewritten(ODD["relu between products"].model(), change))
    (act,) = (one for one in model.graph.nodes if one.op == "Sparkle")
    assert model.graph.tensors[act.outputs[0]].shape == ("?", "?", "?")


@pytest.mark.parametrize(
    ("op", "inputs", "outputs"),
    [
        ("FastGelu", ["h"], 1),
        ("BiasGelu", ["h", "b"], 1),
        ("SkipLayerNormalization", ["h", "h", "b", "b"], 4),
    ],
)
def test_shapes_behind_operators_of_onnx_runtime(op: str, inputs: list[str], outputs: int) -> None:
    """ONNX infers none, and what follows would be refused for want of a rank."""
    made = helper.make_node(op, inputs, ["k", *[""] * (outputs - 2), *["l"] * (outputs > 1)], domain="com.microsoft")
    graph = helper.make_graph(
        [node("MatMul", "x w", "h"), made, node("MatMul", "k w")],
        "optimised",
        [helper.make_tensor_value_info("x", F, ["b", "t", 8])],
        [helper.make_tensor_value_info("y", F, ["b", "t", 8])],
        [numpy_helper.from_array(MATRIX, "w"), numpy_helper.from_array(MATRIX[0], "b")],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=sets, ir_version=8)
    model = open_model(proto)
    assert model.graph.tensors["k"].shape == ("b", "t", 8)
    inputs_of_it: dict[str, Array] = {"x": RNG.standard_normal((4, 3, 8)).astype(np.float32)}
    _, plan, artifact = converted(proto, inputs_of_it)
    assert len(plan.low) == 2
    assert error(run(artifact, inputs_of_it), run(proto, inputs_of_it)) < 0.05
    # The stand-in is for inference alone.
    written = onnx.load_model_from_string(artifact.content).graph.node
    assert [one.domain for one in written if one.op_type == op] == ["com.microsoft"]


@pytest.mark.parametrize("name", CASES)
def test_normalising_twice_changes_nothing(name: str) -> None:
    model = normalised(CASES[name].model(0), "")
    for one in (InferShapes(), MarkConstants(), NameNodes()):
        assert one(model).modified is False


def test_the_transformer_keeps_its_symbolic_sizes() -> None:
    model = open_model(transformer())
    products = [one for one in model.graph.nodes if one.kind is Kind.MATMUL and one.name.endswith("_7")]
    shapes = {model.graph.tensors[one.outputs[0]].shape for one in products}
    assert all(shape is not None and shape[:2] == ("batch", "sequence") for shape in shapes)


def test_maps_are_refused_with_what_to_do() -> None:
    """As skl2onnx writes probabilities of a classifier, unless it is told otherwise."""
    scores = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    mapped = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    output = helper.make_value_info("z", kind)
    graph = helper.make_graph([mapped], "classifier", [scores], [output])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    with pytest.raises(ModelError, match=r"'z', which is a map or a sequence .*'zipmap': False"):
        open_model(helper.make_model(graph, opset_imports=imports, ir_version=9))
