from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

import builders
from fewbits.demo import demo_data, demo_model
from fewbits.flow.calibrate import calibrate
from fewbits.flow.job import Job
from fewbits.flow.placing import Placed, place_variants, variants
from jobs import job, opened
from timing import Timing


@pytest.fixture
def digits(tmp_path: Path) -> Job:
    return job(opened(demo_model(), demo_data()), tmp_path)


@pytest.fixture
def gated(tmp_path: Path) -> Job:
    """Products, a pool and a product of two activations: several placements."""
    return job(opened(builders.squeeze_excite(), builders.images(80)), tmp_path)


def place(one: Job) -> Placed:
    ranges = calibrate(one)["minmax"]
    return place_variants(one, lambda low: one.plan(low, ranges, "minmax"))


@pytest.mark.parametrize("name", list(builders.CASES))
def test_every_variant_is_another_model(tmp_path: Path, name: str) -> None:
    """Timing two that come to the same would only cost time, and let the luckier one win."""
    case = builders.CASES[name]
    one = job(opened(case.model(0), case.inputs(70, 0)), tmp_path)
    stays = [one.plan(dict.fromkeys(low, ""), {}, "").low for low in variants(one).values()]
    assert stays
    assert all(stays)
    assert len(set(stays)) == len(stays)
    assert all(low <= set(one.space.low) for low in stays)


def test_attention_has_variants_with_and_without_its_products(tmp_path: Path) -> None:
    one = job(opened(builders.transformer(), builders.tokens(70)), tmp_path)
    found = variants(one)
    activations = {group.name for group in one.groups if group.is_product and not group.weight}
    assert len(activations) == 4
    assert not activations & set(found["weighted products"])
    assert activations <= set(found["all products"])


def test_without_a_neighbour_on_integers_there_is_no_variant(tmp_path: Path) -> None:
    net = builders.Net()
    added = net.add("Add", net.add("Relu", "x"), net.add("Sigmoid", "x"))
    shape = ("batch", builders.FEATURES)
    model = net.model({"x": (TensorProto.FLOAT, shape)}, {"y": (net.add("Tanh", added), shape)})
    one = job(opened(model, builders.features(70)), tmp_path)
    assert one.space.low
    assert variants(one) == {}


def test_the_fastest_variant_wins(timed: Timing, gated: Job) -> None:
    names = list(variants(gated))
    assert len(names) > 1
    timed.speeds = dict.fromkeys(names, 1.5) | {names[-1]: 3.0}
    placed = place(gated)
    assert placed.name == names[-1]
    assert timed.asked == [("original", *names)]
    assert set(placed.low) == set(gated.plan(dict.fromkeys(variants(gated)[names[-1]], ""), {}, "").low)
    assert placed.comparison.speedups[placed.name].value == 3.0


def test_what_was_placed_is_not_measured_again(timed: Timing, gated: Job) -> None:
    assert place(gated) == place(gated)
    assert len(timed.asked) == 1


def test_each_candidate_is_the_model_that_it_says(timed: Timing, digits: Job) -> None:
    place(digits)
    files = sorted(digits.scratch.glob("*.onnx"))
    assert (digits.scratch / "original.onnx").read_bytes() == demo_model().read_bytes()
    assert len(files) == 1 + len(variants(digits))
    for file in files:
        quantisers = sum(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)
        assert (quantisers > 0) == (file.stem != "original")
