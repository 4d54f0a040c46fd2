"""Every constant tensor of an ONNX file, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewbits.demo import demo_model
from fewbits.errors import ModelError
from fewbits.models import open_model, open_tensors

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def save(path: Path, *initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> Path:
    nodes = nodes or (helper.make_node("Identity", ["x"], ["y"]),)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([*nodes], "g", ends[:1], ends[1:], [*initializers])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_the_weights_are_those_of_the_model() -> None:
    weights, model = open_tensors(demo_model()), open_model(demo_model())
    assert weights.tensors
    for tensor in weights.tensors:
        found = weights.read(tensor.name)
        assert (found.shape, found.dtype.name) == (tensor.shape, tensor.dtype)
        if tensor.name in model.graph.tensors:
            np.testing.assert_array_equal(found, model.weight(tensor.name))


def test_all_types_keep_their_names_and_values(tmp_path: Path) -> None:
    arrays = {
        "f16": WEIGHT.astype(np.float16),
        "bf16": WEIGHT.astype(ml_dtypes.bfloat16),
        "f64": WEIGHT.astype(np.float64),
        "i8": WEIGHT.astype(np.int8),
        "f8": WEIGHT.astype(ml_dtypes.float8_e4m3fn),
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 2), np.float32),
    }
    texts = helper.make_tensor("texts", TensorProto.STRING, [1], [b"a"])
    path = save(tmp_path / "m.onnx", texts, *(numpy_helper.from_array(a, n) for n, a in arrays.items()))
    weights = open_tensors(path)
    assert {tensor.name: tensor.dtype for tensor in weights.tensors} == {
        "texts": "str",
        **{name: array.dtype.name for name, array in arrays.items()},
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.read(name).astype(np.float64), array.astype(np.float64))


def test_constants_and_subgraphs_are_there_and_no_name_hides_another(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("Identity", ["inner"], [f"{name}_out"])
        value = numpy_helper.from_array(WEIGHT * (2 if name == "else" else 1), "inner")
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out], [value])

    constant = helper.make_node("Constant", [], ["made"], value=numpy_helper.from_array(WEIGHT, "unused"))
    condition = numpy_helper.from_array(np.array(True), "condition")
    choice = helper.make_node("If", ["condition"], ["y"], then_branch=branch("then"), else_branch=branch("else"))
    weights = open_tensors(save(tmp_path / "m.onnx", condition, nodes=(constant, choice)))
    assert [tensor.name for tensor in weights.tensors] == ["condition", "made", "inner", "inner#2"]
    both = sorted(float(weights.read(name).max()) for name in ("inner", "inner#2"))
    assert both == [5.0, 10.0]


def test_operators_and_values_that_cannot_be_tuned_can_be_looked_at(tmp_path: Path) -> None:
    node = helper.make_node("Strange", ["x", "w"], ["y"], domain="somewhere.else")
    broken = np.array([1.0, np.nan, np.inf], np.float32)
    weights = open_tensors(save(tmp_path / "m.onnx", numpy_helper.from_array(broken, "w"), nodes=(node,)))
    np.testing.assert_array_equal(weights.read("w"), broken)


def external(tmp_path: Path) -> Path:
    path = save(tmp_path / "m.onnx", numpy_helper.from_array(WEIGHT, "w"))
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def test_external_data_is_read_from_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    weights = open_tensors(path)
    for _ in range(2):
        np.testing.assert_array_equal(weights.read("w"), WEIGHT)


@pytest.mark.parametrize(("keep", "said"), [(None, "w.bin, which is not in"), (8, "truncated")])
def test_external_data_that_is_not_whole_is_a_model_error(tmp_path: Path, keep: int | None, said: str) -> None:
    weights = open_tensors(external(tmp_path))
    data = tmp_path / "w.bin"
    if keep is None:
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:keep])
    with pytest.raises(ModelError, match=said):
        weights.read("w")


@pytest.mark.parametrize("content", [b"", b"a note, not a model\n"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx is not an ONNX model"):
        open_tensors(tmp_path / "m.onnx")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        open_tensors(tmp_path / "absent.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        open_tensors(tmp_path / "folder.onnx")
