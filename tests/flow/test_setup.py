from __future__ import annotations

import numpy as np
import pytest

import builders
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.errors import ModelError
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
        ({"batch": 4}, {"batch"}),
        ({"calibration_method": "mse"}, {"calibration method"}),
        ({"rules": (Rule.parse("a=fp32"),)}, {"rules"}),
        ({"seed": 1}, {"seed"}),
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


def test_a_quantised_model_is_named_as_such() -> None:
    net = builders.Net()
    zero = net.constant(np.array(0, np.uint8))
    codes = net.add("QuantizeLinear", "x", net.number(0.1), zero)
    y = net.add("DequantizeLinear", codes, net.number(0.1), zero)
    shape = ("batch", builders.FEATURES)
    model = net.model({"x": (1, shape)}, {"y": (y, shape)})
    with pytest.raises(ModelError, match=r"already quantised: \d+ nodes such as quantizelinear_"):
        opened(model, builders.features(70))
