from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

import builders
from fewbits.demo import demo_data, demo_model
from fewbits.flow.calibrate import calibrate
from fewbits.flow.floats import Floats, time_floats
from fewbits.flow.job import Job
from fewbits.flow.looks import correction
from fewbits.flow.placing import PREDICTED, Placed, place, starts
from fewbits.formats.scheme import Scheme
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site
from timing import Timing

ONE_RUNTIME = Floats("onnxruntime:cpu")


@pytest.fixture
def digits(timed: Timing, tmp_path: Path) -> Job:
    return priced(opened(demo_model(), demo_data()), tmp_path)


@pytest.fixture
def gated(timed: Timing, tmp_path: Path) -> Job:
    """Products, a pool and a product of two activations: several placements."""
    return priced(opened(builders.squeeze_excite(), builders.images(80)), tmp_path)


def placed(one: Job, floats: Floats = ONE_RUNTIME) -> Placed:
    ranges = calibrate(one)["minmax"]
    return place(one, floats, lambda at, asked: one.plan(at, asked, ranges, "minmax"))


def schemes(one: Job, name: str) -> dict[str, str]:
    return {group: str(wish.scheme) for group, wish in starts(one, site(one))[name].items()}


@pytest.mark.parametrize("name", list(builders.CASES))
def test_every_start_is_another_model(timed: Timing, tmp_path: Path, name: str) -> None:
    """Timing two that come to the same would only cost time, and let the luckier one win."""
    case = builders.CASES[name]
    one = priced(opened(case.model(0), case.inputs(70, 0)), tmp_path)
    plans = [one.plan(site(one), asked, {}, "") for asked in starts(one, site(one)).values()]
    stays = [frozenset((group, str(plan.scheme(group))) for group in plan.low) for plan in plans]
    assert stays
    assert all(stays)
    assert len(set(stays)) == len(stays)
    assert all(plan.low <= site(one).space.free for plan in plans)


def test_attention_has_starts_with_and_without_its_products(timed: Timing, tmp_path: Path) -> None:
    timed.costs = {"codes": 2.0, "dynamic": 2.0, "stored": 2.0}
    one = priced(opened(builders.transformer(), builders.tokens(70)), tmp_path)
    found = starts(one, site(one))
    activations = {group.name for group in one.groups if group.is_product and not group.weight}
    assert len(activations) == 4
    assert not activations & set(found["weighted products"])
    assert activations <= set(found["all products"])


def test_every_scheme_without_ranges_is_tried_on_all_products(timed: Timing, tmp_path: Path) -> None:
    one = priced(opened(builders.mlp_gelu(), builders.features(70)), tmp_path)
    found = starts(one, site(one))
    products = {group.name for group in one.groups if group.is_product}
    assert set(schemes(one, "dynamic products").values()) == {"w:int8r/channel a:uint8/tensor dynamic"}
    assert set(found["dynamic products"]) == products
    assert "w:int4r/g32@0 products" in found
    assert not any("bf16" in name for name in found), "refused when it was priced"


def test_the_plan_that_the_costs_predict_is_there(timed: Timing, tmp_path: Path) -> None:
    """Where only the weight's storage pays, it is that everywhere."""
    timed.costs = {"codes": 2.0, "dynamic": 2.0, "stored": 0.5}
    one = priced(opened(builders.mlp_gelu(), builders.features(70)), tmp_path)
    assert all(Scheme.parse(found).is_weight_only for found in schemes(one, PREDICTED).values())
    assert set(schemes(one, PREDICTED)) == {group.name for group in one.groups if group.is_product}


def test_for_the_smallest_file_the_fewest_bytes_are_predicted(timed: Timing, tmp_path: Path) -> None:
    timed.costs = {"codes": 0.5, "dynamic": 2.0, "stored": 2.0}
    one = priced(opened(builders.mlp_gelu(), builders.features(70), objective=Objective.SIZE), tmp_path)
    assert "w:int4r/g32@0" in set(schemes(one, PREDICTED).values())


def test_without_a_neighbour_on_integers_there_is_no_start(timed: Timing, tmp_path: Path) -> None:
    net = builders.Net()
    added = net.add("Add", net.add("Relu", "x"), net.add("Sigmoid", "x"))
    shape = ("batch", builders.FEATURES)
    model = net.model({"x": (TensorProto.FLOAT, shape)}, {"y": (net.add("Tanh", added), shape)})
    one = priced(opened(model, builders.features(70)), tmp_path)
    assert site(one).space.free
    assert starts(one, site(one)) == {}


def test_the_fastest_start_wins(timed: Timing, gated: Job) -> None:
    names = list(starts(gated, site(gated)))
    assert len(names) > 1
    timed.speeds = dict.fromkeys(names, 1.5) | {names[-1]: 3.0}
    found = placed(gated)
    assert found.name == names[-1]
    assert found.target == "onnxruntime:cpu"
    quick, careful = timed.asked
    assert quick == ("original", *names)
    assert careful[:2] == ("original", names[-1])
    assert found.schemes == schemes(gated, names[-1])
    assert {group: str(wish.scheme) for group, wish in found.asked.items()} == found.schemes
    assert found.comparison.speedups[found.name].value == 3.0


def test_no_more_than_four_are_timed_carefully(timed: Timing, tmp_path: Path) -> None:
    one = priced(opened(builders.transformer(), builders.tokens(70)), tmp_path)
    names = list(starts(one, site(one)))
    assert len(names) > 4
    timed.speeds = {name: 1.0 + number / 10 for number, name in enumerate(names)}
    placed(one)
    assert timed.asked[-1] == ("original", *reversed(names[-4:]))


def test_what_was_placed_is_not_measured_again(timed: Timing, gated: Job) -> None:
    assert placed(gated) == placed(gated)
    assert len(timed.asked) == 2


def test_a_quick_look_takes_as_many_as_memory_holds(timed: Timing, gated: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate is a process with the whole model in it."""
    size = gated.model.original().size
    monkeypatch.setattr("fewbits.flow.looks._MEMORY", 8 * size)
    names = list(starts(gated, site(gated)))
    found = placed(gated)
    quick = timed.asked[:-1]
    assert [one for looks in quick for one in looks[1:]] == names
    assert all(looks[0] == "original" and len(looks) <= 3 for looks in quick)
    assert set(found.looks) == {"original", *names}


def test_each_candidate_is_the_model_that_it_says(timed: Timing, digits: Job) -> None:
    placed(digits)
    files = sorted(digits.scratch.glob("*.onnx"))
    assert (digits.scratch / "original.onnx").read_bytes() == demo_model().read_bytes()
    assert len(files) == 1 + len(starts(digits, site(digits)))
    for file in files:
        operators = {node.op_type for node in onnx.load(file).graph.node}
        coded = operators & {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"}
        assert bool(coded) == (file.stem != "original")


def test_the_smallest_file_wins_where_only_size_counts(timed: Timing, tmp_path: Path) -> None:
    timed.speed = 0.5
    one = priced(opened(builders.mlp_gelu(), builders.features(70), objective=Objective.SIZE), tmp_path)
    found = placed(one)
    sizes = {file.stem: file.stat().st_size for file in one.scratch.glob("start_*.onnx")}
    (smallest,) = (name for name, size in sizes.items() if size == min(sizes.values()))
    assert list(starts(one, site(one)))[int(smallest.removeprefix("start_"))] == found.name


# --- two runtimes --------------------------------------------------------------------------------


@pytest.fixture
def both(timed: Timing, tmp_path: Path) -> Job:
    one = priced(opened(demo_model(), demo_data(), target="auto"), tmp_path)
    assert [found.name for found in one.sites] == ["onnxruntime:cpu", "openvino:cpu"]
    return one


def test_plans_of_all_runtimes_race_against_the_fastest_original(timed: Timing, both: Job) -> None:
    timed.speeds = {"openvino:cpu": 1.5, "original*": 0.7, "*openvino:cpu": 3.0}
    floats = time_floats(both)
    assert floats.fastest == "openvino:cpu"
    found = placed(both, floats)
    assert found.target == "openvino:cpu"
    assert found.name.endswith(" on openvino:cpu")
    assert found.comparison.baseline == "original"
    _, quick, _ = timed.asked
    assert "original on onnxruntime:cpu" in quick, "so that both cost tables can be corrected"
    assert {look.target for look in found.looks.values()} == {"onnxruntime:cpu", "openvino:cpu"}
    at = both.site("openvino:cpu")
    corrected = correction(both, at, tuple(found.looks.values()))
    assert corrected.plans == sum(look.target == at.name for look in found.looks.values())


def test_both_forms_of_one_plan_are_different_files(timed: Timing, both: Job) -> None:
    """ONNX Runtime and OpenVINO want the same decision written down in different ways."""
    found = placed(both, time_floats(both))
    same = [look.schemes for look in found.looks.values() if look.schemes]
    assert any(same.count(schemes) > 1 for schemes in same)
    written = [file.read_bytes() for file in both.scratch.glob("start_*.onnx")]
    assert len(set(written)) == len(written) == len(same)
