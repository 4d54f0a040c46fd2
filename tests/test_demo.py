"""The embedded demo is what its documentation says: small, accurate, with something to fold, on unseen data."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fewbits.demo import demo_calibration, demo_data, demo_model


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(demo_model())


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    with np.load(demo_data()) as data:
        return dict(data)


@pytest.fixture(scope="module")
def calibration() -> dict[str, np.ndarray]:
    with np.load(demo_calibration()) as data:
        return dict(data)


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_the_model_has_at_most_300_kilobytes() -> None:
    assert demo_model().stat().st_size <= 300_000


def test_the_model_is_valid_onnx(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [17]


def test_the_batch_is_dynamic(model: onnx.ModelProto) -> None:
    image, scores = model.graph.input[0], model.graph.output[0]
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 1, 8, 8]
    assert [d.dim_param or d.dim_value for d in scores.type.tensor_type.shape.dim] == ["batch", 10]


def test_every_convolution_has_a_batch_norm_behind_it(model: onnx.ModelProto) -> None:
    made_by = {node.output[0]: node.op_type for node in model.graph.node}
    counts = Counter(node.op_type for node in model.graph.node)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert counts["Conv"] == counts["BatchNormalization"] == 5
    assert {made_by[norm.input[0]] for norm in norms} == {"Conv"}


def test_both_blocks_are_depthwise_separable(model: onnx.ModelProto) -> None:
    channels = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer}
    groups = {
        node.name: (attribute.i, channels[node.input[1]])
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "group"
    }
    assert [name for name, (group, out) in groups.items() if group == out] == ["block1/dw/conv", "block2/dw/conv"]


def test_accuracy_on_held_out_digits_is_at_least_98_percent(held_out: dict[str, np.ndarray]) -> None:
    session = onnxruntime.InferenceSession(demo_model(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": held_out["image"]})
    assert (np.asarray(scores).argmax(1) == held_out["labels"]).mean() >= 0.98


def test_the_data_fit_the_model(held_out: dict[str, np.ndarray], calibration: dict[str, np.ndarray]) -> None:
    for data, samples in ((held_out, 899), (calibration, 256)):
        assert set(data) == {"image", "labels"}
        assert data["image"].shape == (samples, 1, 8, 8)
        assert data["image"].dtype == np.float32
        assert data["labels"].shape == (samples,)
        assert data["image"].min() == 0
        assert data["image"].max() == 1
        assert set(data["labels"]) == set(range(10))


def test_held_out_and_calibration_data_are_different_digits_of_one_set(
    held_out: dict[str, np.ndarray], calibration: dict[str, np.ndarray]
) -> None:
    assert not rows(held_out["image"]) & rows(calibration["image"])
    everything = rows((load_digits().images / 16).astype(np.float32))
    assert rows(held_out["image"]) | rows(calibration["image"]) <= everything


def test_nothing_held_out_was_trained_on(held_out: dict[str, np.ndarray]) -> None:
    """The split that examples/train_digits.py makes gives the shipped half back."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    trained, expected = train_test_split(images, test_size=0.5, stratify=digits.target, random_state=0)
    np.testing.assert_array_equal(held_out["image"], expected)
    assert not rows(trained) & rows(held_out["image"])
