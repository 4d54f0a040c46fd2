"""Cross-layer equalisation leaves the function as it is, whatever the factors, and reaches the codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import builders
from builders import CASES, Array, Net
from conversion import OPENVINO, TARGET, error, offered, planned, run
from fewbits.data.batches import Batch
from fewbits.errors import PlanError
from fewbits.formats.scheme import BF16
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import Model
from fewbits.plan import Choice, Plan
from fewbits.rescaling import junctions
from fewbits.smoothing import parse, text
from fewbits.targets.protocol import Target
from random_models import inputs_of, models

FLOAT = 1e-5


def factors(model: Model, inputs: dict[str, Array], seed: int = 0, *, most: float = 8.0) -> dict[str, str]:
    """Random factors for every tensor that may be scaled; no more than 1, so that no clip cuts more than it did, and
    none behind a clip where a channel could be stretched beyond it."""
    rng = np.random.default_rng(seed)
    found = {}
    for one in junctions(model.graph, group(model.graph)):
        if one.clip:
            continue
        (values,) = model.observe([Batch(inputs)], [one.tensor])
        channels = values[one.tensor].shape[one.axis]
        found[one.tensor] = text(rng.uniform(1 / most, most, channels))
    return found


def outputs(model: Model, inputs: dict[str, Array]) -> dict[str, Array]:
    (values,) = model.observe([Batch(inputs)], [tensor.name for tensor in model.outputs])
    return dict(values)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("depthwise_separable",)])
def test_the_function_stays(name: str) -> None:
    case = CASES[name]
    model, inputs = open_model(case.model(0)), case.inputs(4, 0)
    found = factors(model, inputs)
    assert error(outputs(model.equalised(found), inputs), outputs(model, inputs)) < FLOAT


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(models(), st.integers(0, 5))
def test_the_function_of_random_models_stays(proto: onnx.ModelProto, seed: int) -> None:
    model, inputs = open_model(proto), dict(inputs_of(proto))
    found = factors(model, inputs, seed)
    assert error(outputs(model.equalised(found), inputs), outputs(model, inputs)) < 1e-4


def test_the_tensor_itself_is_divided() -> None:
    case = CASES["conv_bn_relu"]
    model, inputs = open_model(case.model(0)), case.inputs(4, 0)
    ((tensor, given_text),) = factors(model, inputs).items()
    (before,) = model.observe([Batch(inputs)], [tensor])
    (after,) = model.equalised({tensor: given_text}).observe([Batch(inputs)], [tensor])
    assert np.allclose(after[tensor] * parse(given_text)[:, None, None], before[tensor], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depthwise", [True, False])
def test_grouped_convolutions_and_weights_that_others_share(depthwise: bool) -> None:
    net = Net()
    weight = net.weight(builders.CHANNELS, builders.CHANNELS // (8 if depthwise else 2), 3, 3, fan_in=72)
    groups = 8 if depthwise else 2
    first = net.add("Relu", net.conv("x", 3, builders.CHANNELS, bias=True))
    pads = {"pads": [1, 1, 1, 1], "group": groups}
    second = net.add("Relu", net.add("Conv", first, weight, **pads))
    proto = builders._image_model(net, net.add("Conv", second, weight, **pads))
    model, inputs = open_model(proto), builders.images(3)
    found = factors(model, inputs)
    assert len(found) == 2
    assert error(outputs(model.equalised(found), inputs), outputs(model, inputs)) < FLOAT


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
def test_a_plan_reaches_the_same_model_from_the_original_as_from_the_equalised_one(target: Target) -> None:
    case = CASES["conv_bn_relu"]
    model, inputs = open_model(case.model(0)), case.inputs(16, 0)
    found = factors(model, inputs, most=1.5)
    equalised = model.equalised(found)
    plan = replace(planned(equalised, inputs, target=target), equalised=found)
    assert plan.low
    content = equalised.converted(plan).content
    assert model.converted(plan).content == content
    assert equalised.equalised({}).converted(plan).content == content
    assert Plan.from_json(plan.to_json()) == plan
    assert error(run(model.converted(plan), inputs, target), run(case.model(0), inputs)) < 0.05


def test_channels_of_very_different_size_need_it() -> None:
    """Krishnamoorthi, arXiv 1806.08342, section 3: one range for all channels leaves the small ones a few codes."""
    net = Net()
    spread = np.geomspace(1, 1000, builders.CHANNELS).astype(np.float32)
    weight = net.constant(net._random.standard_normal((8, 3, 3, 3)).astype(np.float32) * spread[:, None, None, None])
    x = net.add("Relu", net.add("Conv", "x", weight, pads=[1, 1, 1, 1]))
    second = net._random.standard_normal((8, 8, 3, 3)).astype(np.float32) / spread[None, :, None, None]
    proto = builders._image_model(net, net.add("Relu", net.add("Conv", x, net.constant(second), pads=[1, 1, 1, 1])))
    model, inputs = open_model(proto), builders.images(16)
    exact = run(proto, inputs)
    plain = error(run(model.converted(planned(model, inputs)), inputs), exact)
    (one,) = junctions(model.graph, group(model.graph))
    equalised = model.equalised({one.tensor: text(spread)})
    plan = replace(planned(equalised, inputs), equalised={one.tensor: text(spread)})
    assert error(run(model.converted(plan), inputs), exact) < 0.02
    assert plain > 0.1


def test_a_plan_that_leaves_all_in_fp32_gives_the_original_bit_for_bit() -> None:
    proto = builders.conv_bn_relu()
    model = open_model(proto)
    found = factors(model, builders.images(2))
    assert (
        model.equalised(found).converted(Plan(model.sha256, {}, {}, equalised=found)).content
        == model.original().content
    )


def test_casts_too() -> None:
    case = CASES["conv_bn_relu"]
    model, inputs = open_model(case.model(0)), case.inputs(4, 0)
    found = factors(model, inputs)
    choices = {one: Choice(str(BF16), "") for one in offered(model, OPENVINO, BF16)}
    plan = Plan(model.sha256, choices, {}, OPENVINO.name, equalised=found)
    assert error(run(model.converted(plan), inputs, OPENVINO), run(case.model(0), inputs)) < 0.02


def test_factors_of_another_model_are_refused() -> None:
    model = open_model(builders.conv_bn_relu())
    (one,) = junctions(model.graph, group(model.graph))
    with pytest.raises(PlanError, match="not between products"):
        model.equalised({"y": text(np.ones(8))})
    with pytest.raises(PlanError, match=r"3 factors for the channels of .* which has 8"):
        model.equalised({one.tensor: text(np.ones(3))})
