from __future__ import annotations

from pathlib import Path

import pytest

import builders
import fewbits
from fewbits.flow.calibrate import calibrate
from fewbits.space import Rule
from jobs import job, opened, site, wishes


def test_without_data_every_group_has_its_menu_or_a_reason() -> None:
    found = fewbits.inspect(builders.conv_bn_relu())
    assert {group.name for group in found.groups} == set(found.space.schemes)
    for group in found.groups:
        assert group.name in found.space.free or found.space.refusals[group.name]


def test_rules_are_applied_and_unused_ones_reported() -> None:
    rules = [Rule.parse("*=fp32"), Rule.parse("absent=fp32")]
    found = fewbits.inspect(builders.residual(), rules=rules)
    assert not found.space.free
    assert found.space.unused_rules == ("absent=fp32",)


def test_a_plan_or_its_file_give_the_same_model(tmp_path: Path) -> None:
    model = builders.gemm()
    one = job(opened(model, builders.features(70)), tmp_path)
    plan = one.plan(site(one), wishes(one), calibrate(one)["minmax"], "minmax")
    (tmp_path / "plan.json").write_text(plan.to_json())
    contents = {
        fewbits.convert(model, given).content for given in (plan, tmp_path / "plan.json", str(tmp_path / "plan.json"))
    }
    assert contents == {one.model.converted(plan).content}


def test_a_plan_of_another_model(tmp_path: Path) -> None:
    one = job(opened(builders.gemm(0), builders.features(70)), tmp_path)
    plan = one.plan(site(one), wishes(one), calibrate(one)["minmax"], "minmax")
    with pytest.raises(fewbits.PlanError, match="made for another model"):
        fewbits.convert(builders.gemm(1), plan)
