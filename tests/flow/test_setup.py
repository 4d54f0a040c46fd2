from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import builders
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.errors import ModelError, TargetError
from fewbits.flow.goals.effort import Effort
from fewbits.flow.setup import Opened
from fewbits.limits import Limits
from fewbits.progress import Silent
from fewbits.space import Rule
from fewbits.targets.probe import available_cores
from fewbits.verify.acceptance import Objective
from jobs import opened


def settings(**options: object) -> dict[str, str]:
    return dict(opened(demo_model(), demo_data(), **options).settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"calibration": demo_calibration()}, {"calibration data"}),
        ({"evaluate": "accuracy"}, {"metric"}),
        ({"max_loss": 0.01}, {"max loss"}),
        ({"objective": Objective.SIZE}, {"objective"}),
        ({"limits": Limits(0.005)}, {"limits"}),
        ({"limits": Limits(size=10**6)}, {"limits"}),
        ({"effort": Effort(trials=2)}, {"trials"}),
        ({"effort": Effort(seconds=60.0)}, {"time limit"}),
        ({"batch": 4}, {"batch"}),
        ({"calibration_method": "mse"}, {"calibration method"}),
        ({"sensitivity": "kl"}, {"sensitivity"}),
        ({"rules": (Rule.parse("a=fp32"),)}, {"rules"}),
        ({"seed": 1}, {"seed"}),
        ({"objective": Objective.THROUGHPUT, "streams": 3}, {"objective", "streams"}),
        ({"threads": available_cores()}, {"threads"} if available_cores() > 1 else set()),
    ],
)
def test_a_setting_changes_with_its_option_and_with_nothing_else(options: dict[str, object], changed: set[str]) -> None:
    """These are what a resumed run must share with the one that it goes on with."""
    before, after = settings(), settings(**options)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == changed


def test_the_same_request_has_the_same_settings() -> None:
    assert settings() == settings()


def test_which_way_is_better_belongs_to_the_metric() -> None:
    def score(predict: object) -> float:
        return 0.5

    directions = [settings(evaluate=score, higher_is_better=better)["metric"] for better in (None, True, False)]
    assert directions == ["score (higher is better)", "score (higher is better)", "score (lower is better)"]


def test_versions_are_readable() -> None:
    assert f"numpy {np.__version__}" in settings()["versions"]


def test_another_model_or_other_data_are_another_run() -> None:
    data = builders.images(70)
    one = opened(builders.residual(0), data).settings
    assert {name for name, value in opened(builders.residual(1), data).settings.items() if value != one[name]} == {
        "model"
    }
    data["x"][3] += 1
    assert {name for name, value in opened(builders.residual(0), data).settings.items() if value != one[name]} == {
        "data"
    }


def test_the_inputs_of_a_timed_call_are_the_first_samples_of_the_search_split() -> None:
    one = opened(demo_model(), demo_data(), batch=3)
    first = next(iter(one.splits.search.batches(3)))
    assert one.inputs["image"].shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(one.inputs["image"], first.inputs["image"])


def test_few_samples_are_repeated_for_a_larger_call() -> None:
    few = {name: array[:2] for name, array in builders.images(5).items()}
    assert opened(builders.residual(), few, batch=6).inputs["x"].shape == (6, 3, 8, 8)


def test_files_that_are_read_are_known_so_that_none_is_cleared() -> None:
    one = opened(demo_model(), str(demo_data()), calibration=demo_calibration())
    assert set(one.files) == {demo_model(), demo_data(), demo_calibration()}


# --- which runtimes could serve the model --------------------------------------------------------


class Heard(Silent):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def names(one: Opened) -> list[str]:
    return [site.name for site in one.sites]


def distances() -> onnx.ModelProto:
    """With an operator that ONNX Runtime has and OpenVINO has not."""
    net = builders.Net()
    hidden = net.linear("x", builders.FEATURES, builders.FEATURES)
    net.nodes.append(
        onnx.helper.make_node(
            "CDist", [hidden, net.small(6, builders.FEATURES)], ["y"], metric="euclidean", domain="com.microsoft"
        )
    )
    graph = onnx.helper.make_graph(
        net.nodes,
        "distances",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("batch", builders.FEATURES))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("batch", 6))],
        net.weights,
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_every_installed_runtime_is_a_site() -> None:
    heard = Heard()
    one = opened(builders.gemm(), builders.features(70), target="auto", progress=heard)
    assert names(one) == ["onnxruntime:cpu", "openvino:cpu"]
    assert one.settings["target"] == "onnxruntime:cpu, openvino:cpu"
    assert "onnxruntime " in one.settings["versions"]
    assert "openvino " in one.settings["versions"]
    assert not heard.said


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_asked_for_is_the_only_one(target: str) -> None:
    one = opened(builders.gemm(), builders.features(70), target=target)
    assert names(one) == [f"{target}:cpu"] == [one.settings["target"]]


def test_a_runtime_that_refuses_the_model_is_left_out_and_said() -> None:
    heard = Heard()
    one = opened(distances(), builders.features(70), target="auto", progress=heard)
    assert names(one) == ["onnxruntime:cpu"]
    (said,) = heard.said
    assert said.startswith("openvino:cpu is left out: OpenVINO ")
    assert "CDist" in said


def test_a_runtime_that_was_asked_for_and_refuses_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"OpenVINO .*does not load the model.*CDist"):
        opened(distances(), builders.features(70), target="openvino")


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        (lambda y: y * np.float32(1.00001), False),
        (lambda y: y * np.float32(1.1), True),
        (lambda y: np.full_like(y, np.nan), True),
        (lambda y: y[:, :3], True),
        (lambda y: y[..., None], True),
    ],
    ids=["rounding", "ten percent", "NaN", "fewer", "another axis"],
)
def test_a_runtime_that_computes_something_else_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray], left_out: bool
) -> None:
    from fewbits.targets.openvino import OpenVinoSession

    call = OpenVinoSession.__call__
    monkeypatch.setattr(
        OpenVinoSession,
        "__call__",
        lambda self, inputs: {name: change(values) for name, values in call(self, inputs).items()},
    )
    heard = Heard()
    one = opened(builders.gemm(), builders.features(70), target="auto", progress=heard)
    assert ("openvino:cpu" not in names(one)) == left_out
    assert any("its fp32 outputs differ from onnxruntime:cpu's" in said for said in heard.said) == left_out


def test_with_one_runtime_installed_it_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert names(opened(builders.gemm(), builders.features(70), target="auto")) == ["onnxruntime:cpu"]
    with pytest.raises(TargetError, match=r"needs the package openvino: pip install 'fewbits\[openvino\]'"):
        opened(builders.gemm(), builders.features(70), target="openvino")


def test_if_no_runtime_takes_the_model_the_first_one_says_why() -> None:
    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain="my.domain")
    graph = onnx.helper.make_graph(
        [node],
        "custom",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", builders.FEATURES])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", builders.FEATURES])],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("my.domain", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ModelError, match=r"ONNX Runtime .*my\.domain"):
        opened(model, builders.features(70), target="auto")


def test_a_quantised_model_is_named_as_such() -> None:
    net = builders.Net()
    zero = net.constant(np.array(0, np.uint8))
    codes = net.add("QuantizeLinear", "x", net.number(0.1), zero)
    y = net.add("DequantizeLinear", codes, net.number(0.1), zero)
    shape = ("batch", builders.FEATURES)
    model = net.model({"x": (1, shape)}, {"y": (y, shape)})
    with pytest.raises(ModelError, match=r"already quantised: \d+ nodes such as quantizelinear_"):
        opened(model, builders.features(70))
