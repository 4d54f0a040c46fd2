from __future__ import annotations

from pathlib import Path

import pytest

import builders
from fewbits.flow.job import Job
from fewbits.space import Rule
from jobs import job, opened


@pytest.fixture
def residual(tmp_path: Path) -> Job:
    return job(opened(builders.residual(), builders.images(70)), tmp_path)


def test_every_group_has_a_choice_and_every_choice_a_reason(residual: Job) -> None:
    plan = residual.plan(dict.fromkeys(residual.space.low, "it pays"), {}, "minmax")
    assert set(plan.choices) == {group.name for group in residual.groups}
    assert all(choice.reason for choice in plan.choices.values())
    assert plan.calibration == "minmax"
    assert plan.target == "onnxruntime:cpu"
    assert plan.model_sha256 == residual.model.sha256


def test_what_is_not_asked_for_stays_and_says_so(residual: Job) -> None:
    first, *_ = residual.space.low
    plan = residual.plan({first: "it pays"}, {}, "")
    assert plan.low == {first}
    assert plan.choices[first].reason == "it pays"
    others = {choice.reason for name, choice in plan.choices.items() if name != first and name in residual.space.low}
    assert others == {"the placement that was fastest end to end leaves it in fp32"}


def test_a_joint_between_floats_stays_float(tmp_path: Path) -> None:
    one = job(opened(builders.squeeze_excite(), builders.images(70)), tmp_path)
    joints = [group.name for group in one.groups if not group.is_product and group.name in one.space.low]
    assert joints
    for joint in joints:
        plan = one.plan({joint: "it pays"}, {}, "")
        assert plan.low == frozenset()
        assert plan.choices[joint].reason == "no neighbour left that computes on integers"


def test_what_the_target_or_a_rule_refuses_keeps_their_words(tmp_path: Path) -> None:
    one = job(opened(builders.residual(), builders.images(70), rules=(Rule.parse("conv_0=fp32"),)), tmp_path)
    reason = one.plan(dict.fromkeys(one.space.low, ""), {}, "").choices["conv_0"].reason
    assert "conv_0=fp32" in reason


def test_candidates_are_files_with_the_given_content(residual: Job) -> None:
    file = residual.candidate_file("a", b"content")
    assert file.read_bytes() == b"content"
    assert residual.candidate_file("a", b"other").read_bytes() == b"other"
