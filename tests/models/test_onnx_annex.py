"""Models whose weights are not in one piece with them: read where they lie, written once, opened by path, and the same
numbers as if they were."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from builders import CASES, FEATURES, Array, Net, features
from conversion import OPENVINO, TARGET, kernels, planned, run
from fewbits.data.batches import Batch
from fewbits.errors import ModelError, StorageError
from fewbits.formats.scheme import BF16, INT4_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models import open_model, pack
from fewbits.models.onnx_model import OnnxModel
from fewbits.models.protocol import Artifact
from fewbits.targets.protocol import Target

LIMIT = 60_000
"""Bytes, instead of 2 GiB."""
WIDTH = 96


def layers(count: int = 3) -> onnx.ModelProto:
    """Products of 96 x 96 (37 kB of weights each), with biases and ReLUs."""
    net = Net()
    y = net.add("MatMul", "x", net.weight(FEATURES, WIDTH))
    for _ in range(count):
        y = net.add("Relu", net.add("Add", net.add("MatMul", y, net.weight(WIDTH, WIDTH)), net.small(WIDTH)))
    return net.model({"x": (TensorProto.FLOAT, ("batch", FEATURES))}, {"y": (y, ("batch", WIDTH))})


def outside(proto: onnx.ModelProto, folder: Path) -> Path:
    """`proto` with all its weights in another file."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    path = folder / "model.onnx"
    onnx.save_model(
        copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0, convert_attribute=True
    )
    return path


def saved(artifact: Artifact, folder: Path, name: str = "out.onnx") -> Path:
    packed = pack(artifact, f"{name}.data")
    path = folder / name
    path.write_bytes(packed.content)
    if packed.outside:
        (folder / f"{name}.data").write_bytes(b"".join(packed.weights()))
        assert (folder / f"{name}.data").stat().st_size == packed.outside
    return path


def weights(artifact: Artifact, folder: Path) -> dict[str, Array]:
    loaded = onnx.load(saved(artifact, folder))
    return {one.name: numpy_helper.to_array(one) for one in loaded.graph.initializer}


@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "mlp_gelu", "transformer", "concat"])
def test_a_model_is_the_same_wherever_its_weights_lie(tmp_path: Path, name: str) -> None:
    proto = CASES[name].model(0)
    one, other = open_model(proto), open_model(outside(proto, tmp_path))
    assert one.sha256 == other.sha256 == hashlib.sha256(proto.SerializeToString()).hexdigest()
    assert one.graph == other.graph
    for tensor in (name for name in one.graph.tensors if one.graph.is_constant(name)):
        assert np.array_equal(one.weight(tensor), other.weight(tensor))
    assert other.original().size == sum(one.stat().st_size for one in tmp_path.iterdir())


def test_the_hash_of_what_was_put_back_together_by_onnx_is_the_same(tmp_path: Path) -> None:
    """It leaves a mark in every tensor that was outside."""
    proto, path = layers(), outside(layers(), tmp_path)
    onnx.save(onnx.load(path), tmp_path / "whole.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() != proto.SerializeToString()
    assert open_model(tmp_path / "whole.onnx").sha256 == open_model(path).sha256 == open_model(proto).sha256
    assert open_model(layers(2)).sha256 != open_model(proto).sha256


def test_the_hash_sees_every_weight_outside(tmp_path: Path) -> None:
    path = outside(layers(), tmp_path)
    before = open_model(path).sha256
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    for place in range(100, len(content), 9_001):
        content[place] ^= 1
        (tmp_path / "weights.bin").write_bytes(content)
        assert open_model(path).sha256 != before
        content[place] ^= 1


@pytest.mark.parametrize(
    ("target", "scheme"),
    [
        (TARGET, None),
        (TARGET, INT8_DYNAMIC),
        (TARGET, INT4_BLOCKS),
        (OPENVINO, None),
        (OPENVINO, BF16),
        (OPENVINO, INT8_WEIGHT),
    ],
    ids=str,
)
def test_converting_gives_the_same_weights_and_outputs(tmp_path: Path, target: Target, scheme: Scheme | None) -> None:
    """Given outside, or too large for one piece."""
    proto, inputs = layers(), features(8)
    whole = open_model(proto)
    plan = planned(whole, inputs, target=target, scheme=scheme)
    assert plan.low
    expected = whole.converted(plan)
    for model in (open_model(outside(proto, tmp_path)), OnnxModel.from_proto(proto, LIMIT)):
        assert planned(model, inputs, target=target, scheme=scheme) == plan
        made = model.converted(plan)
        assert made.path is not None and made.outside > 0
        # Nothing but the graph and small constants is in the model's own file.
        assert len(made.content) < len(expected.content) - made.outside / 2
        found, wanted = weights(made, tmp_path), weights(expected, tmp_path)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        assert np.array_equal(run(made, inputs, target)["y"], run(expected, inputs, target)["y"])
    if target is TARGET:
        assert kernels(made, inputs) == kernels(expected, inputs)


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=["onnxruntime", "openvino"])
def test_what_is_saved_is_opened_by_runtimes_and_again(tmp_path: Path, target: Target) -> None:
    proto, inputs = layers(), features(8)
    model = open_model(outside(proto, tmp_path))
    plan = planned(model, inputs, target=target)
    made = model.converted(plan)
    path = saved(made, tmp_path)
    onnx.checker.check_model(path, full_check=True)
    again = open_model(path).original()
    assert again.path == path and again.outside == made.outside
    assert np.array_equal(run(again, inputs, target)["y"], run(made, inputs, target)["y"])


def test_what_was_given_outside_stays_where_it_is(tmp_path: Path) -> None:
    path = outside(layers(), tmp_path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    model = open_model(path)
    artifact = model.original()
    assert artifact.path == path and artifact.content == before["model.onnx"]
    assert model.converted(planned(model, features(4))).path.parent != tmp_path  # type: ignore[union-attr]
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_read_only_folder_is_enough(tmp_path: Path) -> None:
    path = outside(layers(), tmp_path)
    path.chmod(0o400)
    (tmp_path / "weights.bin").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        model = open_model(path)
        assert run(model.converted(planned(model, features(4))), features(4))
    finally:
        tmp_path.chmod(0o700)


def test_weights_that_a_plan_leaves_alone_are_written_once(tmp_path: Path) -> None:
    model = OnnxModel.load(outside(layers(), tmp_path))
    plan = planned(model, features(4))
    some = planned(model, features(4), sorted(plan.low)[:2])
    first = model.converted(some)
    assert first.path is not None
    data = first.path.parent / "weights.data"
    size = data.stat().st_size
    names = {one.path for one in (model.converted(some), model.converted(some))}
    assert names == {first.path} and data.stat().st_size == size
    (*_, last) = model.observe([Batch(features(4))], [model.graph.nodes[3].outputs[0]])
    assert last
    # What observing read besides is in the file now, too, and only once.
    assert data.stat().st_size <= size + sum(model.weight(name).nbytes + 64 for name in constants(model))
    both = data.stat().st_size
    assert model.converted(plan).path != first.path
    assert data.stat().st_size - both < 30_000


def constants(model: OnnxModel) -> Sequence[str]:
    return [name for name in model.graph.tensors if model.graph.is_constant(name)]


def test_the_folder_is_gone_with_the_last_that_needs_it(tmp_path: Path) -> None:
    model = open_model(outside(layers(), tmp_path))
    made = model.converted(planned(model, features(4)))
    assert made.path is not None
    folder = made.path.parent
    del model
    gc.collect()
    assert run(made, features(4))
    del made
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("way", ["file", "proto"])
def test_inner_tensors_are_observed_alike(tmp_path: Path, way: str) -> None:
    proto = layers()
    model = open_model(outside(proto, tmp_path)) if way == "file" else OnnxModel.from_proto(proto, LIMIT)
    names = [node.outputs[0] for node in model.graph.nodes]
    (found,) = model.observe([Batch(features(4))], names)
    (expected,) = open_model(proto).observe([Batch(features(4))], names)
    assert all(np.array_equal(found[name], expected[name]) for name in names)


def test_regions_are_cut_alike(tmp_path: Path) -> None:
    proto = layers()
    model, whole = open_model(outside(proto, tmp_path)), open_model(proto)
    groups = group(model.graph)[1:3]
    shapes = {name: (1, WIDTH) for one in groups for name in one.operands}
    cut, expected = model.regions(groups, shapes), whole.regions(groups, shapes)
    assert cut.inputs == expected.inputs
    assert cut.model.graph == expected.model.graph
    assert cut.model.sha256 == expected.model.sha256
    given = {name: np.ones((1, WIDTH), np.float32) for name in cut.inputs}
    assert cut.model.original().path is not None
    for target in (TARGET, OPENVINO):
        found, wanted = run(cut.model.original(), given, target), run(expected.model.original(), given, target)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_proto_that_is_too_large_is_left_as_it_was() -> None:
    proto = layers()
    before = proto.SerializeToString()
    model = OnnxModel.from_proto(proto, LIMIT)
    assert proto.SerializeToString() == before
    assert model.sha256 == open_model(proto).sha256
    assert model.original().path is not None
    assert np.array_equal(run(model.original(), features(4))["y"], run(proto, features(4))["y"])


def test_below_the_limit_everything_is_in_one_piece() -> None:
    model = OnnxModel.from_proto(layers(), 1 << 20)
    assert model.original().path is None
    assert model.converted(planned(model, features(4))).path is None


def test_a_model_that_grows_beyond_the_limit_is_written_in_two_files(tmp_path: Path) -> None:
    """A weight that is stored once and read in two forms is stored twice when both become codes."""
    net = Net()
    weight = net.weight(WIDTH, WIDTH)
    first = net.add("MatMul", "x", weight)
    y = net.add("Add", first, net.add("MatMul", "x", net.add("Transpose", weight, perm=[1, 0])))
    proto = net.model({"x": (TensorProto.FLOAT, ("batch", WIDTH))}, {"y": (y, ("batch", WIDTH))})
    inputs = {"x": np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)}
    size = len(proto.SerializeToString())
    model = OnnxModel.from_proto(proto, size * 66 // 64)
    assert model.original().path is None
    plan = planned(model, inputs, ["matmul_0"], scheme=INT8_DYNAMIC)
    made = model.converted(plan)
    assert made.path is not None
    assert np.array_equal(run(made, inputs)["y"], run(open_model(proto).converted(plan), inputs)["y"])


# --- what can be wrong -----------------------------------------------------------------------------


def moved(proto: onnx.ModelProto, folder: Path, **place: object) -> Path:
    """`proto` whose first large weight says of its place what `place` says."""
    path = outside(proto, folder)
    model = onnx.load(path, load_external_data=False)
    tensor = max(model.graph.initializer, key=lambda one: int(one.external_data[2].value))
    for entry in tensor.external_data:
        entry.value = str(place.get(entry.key, entry.value))
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        open_model(path)
    return str(error.value)


def test_a_path_that_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(100_000))
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "a/../../secret.bin"):
        said = refused(moved(layers(), tmp_path / "inner", location=location))
        assert location in said and "not in the model's folder" in said


def test_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = outside(layers(), tmp_path / "inner")
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "inner" / "weights.bin").symlink_to(tmp_path / "real.bin")
    assert "real.bin" in refused(path)


def test_a_link_to_the_model_is_followed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = outside(layers(), tmp_path / "inner")
    (tmp_path / "link.onnx").symlink_to(path)
    for target in (TARGET, OPENVINO):
        assert run(open_model(tmp_path / "link.onnx").original(), features(2), target)


def test_a_length_that_the_shape_denies(tmp_path: Path) -> None:
    said = refused(moved(layers(), tmp_path, length=100))
    assert "has 100 bytes" in said and "[96, 96]" in said and "36864" in said


@pytest.mark.parametrize("how", ["gone", "shorter"])
def test_weights_that_change_while_the_model_is_in_use(tmp_path: Path, how: str) -> None:
    path = outside(layers(), tmp_path)
    model = open_model(path)
    plan = planned(open_model(layers()), features(4))
    data = tmp_path / "weights.bin"
    data.unlink() if how == "gone" else data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match=rf"weights\.bin holds weights of the model and is {how} since"):
        model.converted(plan)
    with pytest.raises(ModelError, match=r"weights\.bin"):
        list(pack(model.original(), "x.data").weights())
    with pytest.raises(ModelError, match=r"does not load|weights\.bin"):
        run(model.original(), features(2))


def test_no_place_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    model = open_model(outside(layers(), tmp_path))
    with pytest.raises(StorageError, match=r"temporary folder.*TMPDIR"):
        model.converted(planned(open_model(layers()), features(4)))


def test_a_constant_of_a_node_may_lie_outside_too(tmp_path: Path) -> None:
    net = Net()
    y = net.add("MatMul", "x", net.weight(FEATURES, WIDTH))
    y = net.add("MatMul", net.add("Relu", y), net.weight(WIDTH, WIDTH))
    proto = net.model({"x": (TensorProto.FLOAT, ("batch", FEATURES))}, {"y": (y, ("batch", WIDTH))})
    weight = proto.graph.initializer.pop()
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=weight))
    whole = open_model(proto)
    path = outside(proto, tmp_path)
    (tensor,) = [one.attribute[0].t for one in onnx.load(path, load_external_data=False).graph.node[:1]]
    assert tensor.data_location == TensorProto.EXTERNAL
    model = open_model(path)
    assert model.sha256 == whole.sha256
    plan = planned(whole, features(4))
    assert np.array_equal(run(model.converted(plan), features(4))["y"], run(whole.converted(plan), features(4))["y"])
