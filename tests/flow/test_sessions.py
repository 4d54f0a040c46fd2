from __future__ import annotations

import numpy as np
import onnx
import pytest

import builders
from fewbits.flow.sessions import Original, call_inputs, predictor
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.targets import open_target
from fewbits.targets.protocol import Session
from jobs import opened


def fixed(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return model


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("samples", [1, 3, 4, 9])
def test_a_fixed_batch_takes_any_number_of_samples(size: int, samples: int) -> None:
    """And gives what the model with a free batch gives."""
    inputs = builders.images(samples)
    target = open_target("auto", 1)
    free, bound = open_model(builders.residual()), open_model(fixed(builders.residual(), size))
    expected = target.open(free.original())(inputs)["y"]
    predict = predictor(target.open(bound.original()), bound.inputs)
    np.testing.assert_allclose(predict(inputs)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("asked", "size"), [(1, 1), (5, 5), (200, 200)])
def test_a_timed_call_has_as_many_samples_as_asked_for(asked: int, size: int) -> None:
    one = opened(builders.residual(), builders.images(70))
    assert call_inputs(one.splits.search, one.model.inputs, asked)["x"].shape[0] == size


def test_a_fixed_batch_wins_over_the_one_asked_for() -> None:
    one = opened(fixed(builders.residual(), 4), builders.images(70))
    assert call_inputs(one.splits.search, one.model.inputs, 9)["x"].shape[0] == 4


class Counted:
    """A runtime that counts how often a model is opened."""

    def __init__(self) -> None:
        self.opened = 0

    def open(self, artifact: Artifact) -> Session:
        self.opened += 1
        return open_target("auto", 1).open(artifact)


@pytest.mark.parametrize("large", [False, True])
def test_a_large_original_makes_room_for_other_models(large: bool) -> None:
    target, model = Counted(), open_model(builders.residual())
    size = model.original().size
    original = Original(target, model, size if large else size + 1)  # type: ignore[arg-type]
    expected = original(builders.images(3))["y"]
    original(builders.images(3))
    assert target.opened == 1
    original.rest()
    assert np.array_equal(original(builders.images(3))["y"], expected)
    assert target.opened == (2 if large else 1)
