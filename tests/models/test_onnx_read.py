"""Whatever is wrong with a model file is said, with what to do; nothing else is raised, and nothing is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builders import FEATURES, Net, conv_bn_relu, features, gemm, images, pooled_classifier
from conversion import OPENVINO, TARGET, rewritten, run
from fewbits.errors import ModelError
from fewbits.flow.job import refuse_quantised
from fewbits.models import open_model


def refused(source: Path | bytes | onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as error:
        open_model(source)
    return str(error.value)


def saved_outside(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(gemm(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"onnx",
        b"{}",
        b"ir_version: 8\ngraph { name: 'text' }",
        b"\x00" * 64,
        *(np.random.default_rng(seed).bytes(500) for seed in range(8)),
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for source in (path, content):
        assert "not an ONNX model" in refused(source)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = pooled_classifier().SerializeToString()
    path = tmp_path / "short.onnx"
    for end in {*range(1, len(content), 97), *range(len(content) - 24, len(content))}:
        path.write_bytes(content[:end])
        said = refused(path)
        assert "truncated" in said and str(path) in said


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "model.onnx")


def test_external_data_is_part_of_the_model(tmp_path: Path) -> None:
    model = open_model(saved_outside(tmp_path))
    assert np.array_equal(run(model.original(), features(3))["y"], run(gemm(), features(3))["y"])


def test_external_data_in_a_folder_below_at_an_odd_place(tmp_path: Path) -> None:
    proto = gemm()
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "weights.bin").open("wb") as file:
        file.write(b"123")
        for tensor in proto.graph.initializer:
            place, content = file.tell(), tensor.raw_data
            file.write(content + b"#")
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "data/weights.bin"), ("offset", place), ("length", len(content))):
                tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    model, whole = open_model(tmp_path / "model.onnx"), open_model(gemm())
    assert model.graph == whole.graph
    for tensor in proto.graph.initializer:
        assert np.array_equal(model.weight(tensor.name), whole.weight(tensor.name))
    assert model.sha256 == whole.sha256
    for target in (TARGET, OPENVINO):
        assert np.array_equal(run(model.original(), features(3), target)["y"], run(gemm(), features(3), target)["y"])


def test_external_data_is_missing(tmp_path: Path) -> None:
    path = saved_outside(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "other.bin")
    said = refused(path)
    assert "weights.bin" in said and str(tmp_path) in said and "copy that file there" in said


def test_external_data_is_truncated(tmp_path: Path) -> None:
    path = saved_outside(tmp_path)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-10])
    said = refused(path)
    assert "weights.bin is truncated" in said and "constant_" in said


def test_external_data_of_a_constant_node_is_missing(tmp_path: Path) -> None:
    def constant_node(proto: onnx.ModelProto) -> None:
        weight = proto.graph.initializer.pop(0)
        name = weight.name
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="elsewhere.bin")
        proto.graph.node.insert(0, helper.make_node("Constant", [], [name], value=weight))

    path = tmp_path / "model.onnx"
    path.write_bytes(rewritten(gemm(), constant_node).SerializeToString())
    assert "elsewhere.bin" in refused(path)


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    path = saved_outside(tmp_path)
    said = refused(path.read_bytes())
    assert "weights.bin" in said and "give the path" in said
    assert said == refused(onnx.load(path, load_external_data=False))
    assert open_model(onnx.load(path)).graph.nodes


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf")])
def test_weights_that_are_no_numbers(value: float, word: str) -> None:
    def spoil(proto: onnx.ModelProto) -> None:
        weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        weight.flat[:3] = value
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, proto.graph.initializer[0].name))

    said = refused(rewritten(conv_bn_relu(), spoil))
    assert word in said and "3 " in said and "conv_0" in said and "constant_0" in said


def test_inf_behind_a_transpose_is_still_a_weight() -> None:
    net = Net()
    weight = net.constant(np.full((2, FEATURES), np.inf, np.float32))
    y = net.add("MatMul", "x", net.add("Transpose", weight, perm=[1, 0]))
    proto = net.model({"x": (TensorProto.FLOAT, ["b", FEATURES])}, {"y": (y, ["b", 2])})
    assert "Inf" in refused(proto)


def test_infinite_masks_are_legal_but_nan_is_not() -> None:
    def masked(value: float) -> onnx.ModelProto:
        net = Net()
        mask = net.constant(np.array([0, value] * (FEATURES // 2), np.float32))
        y = net.add("Softmax", net.add("Add", net.linear("x", FEATURES, FEATURES), mask))
        return net.model({"x": (TensorProto.FLOAT, ["b", FEATURES])}, {"y": (y, ["b", FEATURES])})

    assert open_model(masked(-np.inf)).graph.nodes
    assert "NaN" in refused(masked(np.nan))


def _unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].op_type = "Rectify"


def _dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].input[0] = "nowhere"


def _future(proto: onnx.ModelProto) -> None:
    proto.ir_version = 99


@pytest.mark.parametrize("spoil", [_unknown_operator, _dangling, _future])
def test_invalid_graphs(spoil: Callable[[onnx.ModelProto], None]) -> None:
    assert "not a valid ONNX model" in refused(rewritten(conv_bn_relu(), spoil))


def test_something_else() -> None:
    with pytest.raises(ModelError, match="cannot open a model from int"):
        open_model(3)  # type: ignore[arg-type]


def test_the_original_is_kept_byte_for_byte(tmp_path: Path) -> None:
    # An order of fields that protobuf itself would not write.
    proto = pooled_classifier()
    content = (
        onnx.ModelProto(opset_import=proto.opset_import).SerializeToString()
        + rewritten(proto, lambda copy: copy.ClearField("opset_import")).SerializeToString()
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for model in (open_model(path), open_model(content)):
        assert model.original().content == content
        assert model.sha256 == hashlib.sha256(content).hexdigest()


def test_a_given_proto_is_not_changed() -> None:
    proto = conv_bn_relu()
    before = proto.SerializeToString(deterministic=True)
    model = open_model(proto)
    assert proto.SerializeToString(deterministic=True) == before
    proto.graph.ClearField("node")
    assert len(model.graph.nodes) == 6
    assert run(model.original(), images(1))["y"].shape == (1, 8, 8, 8)


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        ("DequantizeLinear", ""),
        ("QLinearAdd", "com.microsoft"),
        ("MatMulNBits", "com.microsoft"),
        ("DynamicQuantizeMatMul", "com.microsoft"),
        ("QAttention", "com.microsoft"),
        ("MatMulIntegerToFloat", "com.microsoft"),
    ],
)
def test_quantised_models_are_told(op: str, domain: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].op_type, proto.graph.node[1].domain = op, domain
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        if not domain:
            proto.graph.node[1].input.append(proto.graph.initializer[0].name)

    model = open_model(rewritten(gemm(), change))
    with pytest.raises(ModelError, match=f"already quantised: 1 nodes such as relu_1 .{op}."):
        refuse_quantised(model.graph)
    refuse_quantised(open_model(gemm()).graph)
