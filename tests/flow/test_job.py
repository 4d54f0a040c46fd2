from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import builders
from fewbits.flow.job import Job, Wish, asked
from fewbits.formats.scheme import FP32, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.limits import UNLIMITED, Limits
from fewbits.models.protocol import Artifact
from fewbits.plan import Plan
from fewbits.space import Rule
from fewbits.verify.acceptance import Objective
from jobs import job, opened, site, wishes


@pytest.fixture
def residual(tmp_path: Path) -> Job:
    return job(opened(builders.residual(), builders.images(70)), tmp_path)


@pytest.fixture
def gelu(tmp_path: Path) -> Job:
    return job(opened(builders.mlp_gelu(), builders.features(70)), tmp_path)


@pytest.mark.parametrize(
    ("objective", "limits", "times", "for_size", "slower_may_pay"),
    [
        (Objective.LATENCY, UNLIMITED, True, False, False),
        (Objective.LATENCY, Limits(size=1), True, False, True),
        (Objective.THROUGHPUT, UNLIMITED, True, False, False),
        (Objective.SIZE, Limits(0.1), False, True, True),
        (Objective.MEMORY, Limits(0.1), False, False, True),
        (Objective.ACCURACY, Limits(0.1, 1), True, False, True),
        (Objective.ACCURACY, Limits(0.1), True, False, False),
        (Objective.ACCURACY, Limits(size=1), False, True, True),
    ],
)
def test_what_the_search_makes_small(
    objective: Objective, limits: Limits, times: bool, for_size: bool, slower_may_pay: bool, residual: Job
) -> None:
    one = replace(residual, objective=objective, limits=limits)
    assert (one.times, one.for_size, one.slower_may_pay) == (times, for_size, slower_may_pay)


def test_every_group_has_a_choice_and_every_choice_a_reason(residual: Job) -> None:
    plan = residual.plan(site(residual), wishes(residual), {}, "minmax")
    assert set(plan.choices) == {group.name for group in residual.groups}
    assert all(choice.reason for choice in plan.choices.values())
    assert plan.calibration == "minmax"
    assert plan.target == "onnxruntime:cpu"
    assert plan.model_sha256 == residual.model.sha256


def test_what_is_not_asked_for_stays_and_says_so(residual: Job) -> None:
    first, *_ = site(residual).space.coded
    plan = residual.plan(site(residual), wishes(residual, [first]), {}, "")
    assert plan.low == {first}
    assert plan.choices[first].reason == "it pays"
    free = site(residual).space.free
    others = {choice.reason for name, choice in plan.choices.items() if name != first and name in free}
    assert others == {"the plan that was fastest end to end leaves it in fp32"}


def test_a_joint_between_floats_stays_float(tmp_path: Path) -> None:
    one = job(opened(builders.squeeze_excite(), builders.images(70)), tmp_path)
    joints = [group.name for group in one.groups if not group.is_product and group.name in site(one).space.coded]
    assert joints
    for joint in joints:
        plan = one.plan(site(one), wishes(one, [joint]), {}, "")
        assert plan.low == frozenset()
        assert plan.choices[joint].reason == "no neighbour left that computes on integers"


def test_a_joint_between_codes_computes_on_them_unasked(tmp_path: Path) -> None:
    """The runtime fuses it to integers anyway; a plan that says fp32 there would be untrue."""
    one = job(opened(builders.pooled_classifier(), builders.images(70)), tmp_path)
    (pool,) = (group.name for group in one.groups if not group.is_product)
    before, after = "conv_3", "gemm_7"
    plan = one.plan(site(one), wishes(one, [before, after]), {}, "")
    assert plan.low == {before, pool, after}
    assert "it reads and gives codes" in plan.choices[pool].reason
    assert one.plan(site(one), wishes(one, [before]), {}, "").low == {before}
    assert one.plan(site(one), wishes(one, [after]), {}, "").low == {after}


@pytest.mark.parametrize("scheme", [INT8_DYNAMIC, Scheme.parse("bf16"), Scheme.parse("w:int8r/g32@0"), INT8_WEIGHT])
def test_schemes_without_calibrated_codes_stand_free_of_their_neighbours(gelu: Job, scheme: Scheme) -> None:
    """They read and give floats, so nobody has to compute on codes beside them."""
    first, *others = (group.name for group in gelu.groups if group.is_product)
    plan = gelu.plan(site(gelu), {first: Wish(scheme, "it pays")}, {}, "")
    assert plan.low == {first}
    assert plan.scheme(first) == scheme
    assert others
    mixed = gelu.plan(site(gelu), wishes(gelu, others) | {first: Wish(scheme, "it pays")}, {}, "")
    assert mixed.scheme(first) == scheme
    assert {mixed.scheme(name) for name in others} == {site(gelu).space.coded[name] for name in others}


def test_a_cast_neighbour_is_no_neighbour_on_integers(tmp_path: Path) -> None:
    """A pool beside products in bf16 has nobody that would give it codes."""
    one = job(opened(builders.pooled_classifier(), builders.images(70)), tmp_path)
    (pool,) = (group.name for group in one.groups if not group.is_product)
    casts = {group.name: Wish(Scheme.parse("bf16"), "") for group in one.groups if group.is_product}
    assert one.plan(site(one), casts | wishes(one, [pool]), {}, "").low == set(casts)


def test_what_the_target_or_a_rule_refuses_keeps_their_words(tmp_path: Path) -> None:
    one = job(opened(builders.residual(), builders.images(70), rules=(Rule.parse("conv_0=fp32"),)), tmp_path)
    reason = one.plan(site(one), wishes(one), {}, "").choices["conv_0"].reason
    assert "conv_0=fp32" in reason


def test_a_wish_for_fp32_keeps_its_own_reason(residual: Job) -> None:
    name = next(iter(site(residual).space.coded))
    plan = residual.plan(site(residual), wishes(residual) | {name: Wish(FP32, "it would lose too much")}, {}, "")
    assert plan.choices[name].scheme == "fp32"
    assert plan.choices[name].reason == "it would lose too much"


def test_what_a_plan_asks_for_makes_the_same_plan(residual: Job) -> None:
    one = site(residual)
    plan = residual.plan(one, wishes(residual), {}, "")

    def again(without: dict[str, str]) -> Plan:
        return residual.plan(one, asked(plan, without), {}, "")

    assert {name: choice.scheme for name, choice in again({}).choices.items()} == {
        name: choice.scheme for name, choice in plan.choices.items()
    }
    first = next(iter(plan.low))
    assert again({first: "too slow"}).choices[first].reason == "too slow"
    assert first not in again({first: "too slow"}).low


def test_candidates_are_files_with_the_given_content(residual: Job) -> None:
    file = residual.candidate_file("a", Artifact(b"content"))
    assert file.read_bytes() == b"content"
    assert residual.candidate_file("a", Artifact(b"other")).read_bytes() == b"other"
