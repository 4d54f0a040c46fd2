"""Inner tensors are observed as they are: one pass, nothing kept, a clear error for what cannot be observed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from builders import CASES, Array, conv_bn_relu, images, pooled_classifier
from conversion import rewritten, run
from fewbits.data.batches import Batch
from fewbits.errors import DataError, ModelError
from fewbits.models import open_model
from fewbits.models.protocol import Model


def values(model: Model, inputs: dict[str, Array], *names: str) -> dict[str, Array]:
    (found,) = model.observe([Batch(inputs)], names)
    return dict(found)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_can_be_observed(name: str) -> None:
    proto, inputs = CASES[name].model(0), CASES[name].inputs(3, 0)
    model = open_model(proto)
    names = [*model.graph.inputs, *model.graph.producer]
    found = values(model, inputs, *names)
    assert list(found) == [*model.graph.inputs, *(name for name in names if name not in model.graph.inputs)]
    for key, array in run(proto, inputs).items():
        assert np.allclose(found[key], array, atol=1e-6)


def test_inner_values_are_those_of_the_original() -> None:
    model = open_model(conv_bn_relu())
    found = values(model, images(2), "batchnormalization_1_out", "relu_2_out")
    assert found["batchnormalization_1_out"].min() < 0
    assert np.array_equal(found["relu_2_out"], np.maximum(found["batchnormalization_1_out"], 0))


def test_observing_leaves_the_model_alone() -> None:
    model = open_model(conv_bn_relu())
    values(model, images(1), "relu_2_out")
    assert [one.name for one in model.outputs] == ["y"]
    assert open_model(conv_bn_relu()).graph == model.graph


def test_one_pass_and_nothing_is_kept() -> None:
    made: list[weakref.ref[Array]] = []

    def batches() -> Iterator[Batch]:
        for seed in range(4):
            batch = Batch(images(2, seed))
            gc.collect()
            assert all(one() is None for one in made)
            made.append(weakref.ref(batch.inputs["x"]))
            yield batch
            del batch

    model = open_model(conv_bn_relu())
    seen: list[weakref.ref[Array]] = []
    for found in model.observe(batches(), ["relu_2_out"]):
        assert all(one() is None for one in seen)
        seen.append(weakref.ref(found["relu_2_out"]))
        del found
    assert len(seen) == 4


def test_a_fixed_batch() -> None:
    def fix(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    model = open_model(rewritten(conv_bn_relu(), fix))
    assert values(model, images(2), "relu_2_out")["relu_2_out"].shape == (2, 8, 8, 8)
    with pytest.raises(DataError, match=r"does not run on x float32\[3, 3, 8, 8\]"):
        values(model, images(3), "relu_2_out")


def test_what_cannot_be_observed() -> None:
    model = open_model(pooled_classifier())
    with pytest.raises(ModelError, match="constant_0 is a constant"):
        model.observe([], ["relu_1_out", "constant_0"])
    with pytest.raises(ModelError, match="no tensor nowhere"):
        model.observe([], ["nowhere"])


def test_names_that_are_asked_for_twice() -> None:
    model = open_model(conv_bn_relu())
    assert list(values(model, images(1), "x", "relu_2_out", "relu_2_out", "y", "x")) == ["x", "relu_2_out", "y"]
