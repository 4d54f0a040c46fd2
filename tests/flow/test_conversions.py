from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fewbits.flow.conversions import Conversions
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan

INT8 = "w:int8r/channel a:uint8/tensor"


class Model:
    """Converts to a text of the plan, and remembers how often."""

    def __init__(self) -> None:
        self.converted_plans: list[Plan] = []

    def converted(self, plan: Plan) -> Artifact:
        self.converted_plans.append(plan)
        return Artifact(repr((sorted(plan.low), sorted(plan.ranges.items()))).encode())


def plan(*low: str, high: float = 1.0, reason: str = "", target: str = "") -> Plan:
    return Plan("ab", {name: Choice(INT8, reason) for name in low}, {"x": (0.0, high)}, target=target)


def converted(plans: list[Plan]) -> tuple[Model, list[Artifact]]:
    model = Model()
    of: Callable[[Plan], Artifact] = Conversions(model).of  # type: ignore[arg-type]
    return model, [of(one) for one in plans]


def test_the_same_plan_is_converted_once_whatever_its_reasons_say() -> None:
    model, (one, other) = converted([plan("a", reason="it pays"), plan("a", reason="so says a rule")])
    assert one is other
    assert len(model.converted_plans) == 1


def test_groups_and_ranges_both_make_another_model() -> None:
    model, artifacts = converted([plan("a"), plan("a", "b"), plan("a", high=2.0)])
    assert len({artifact.content for artifact in artifacts}) == 3
    assert len(model.converted_plans) == 3


def test_whatever_changes_weights_makes_another_model() -> None:
    changes = [{}, {"codes": {"a": "1f"}}, {"means": {"x": "0.1: 3"}}]
    changes += [{"equalised": {"x": "1"}}, {"smoothing": {"x": "1"}}]
    model, _ = converted([replace(plan("a"), **change) for change in (*changes, *changes[-2:])])
    assert len(model.converted_plans) == len(changes)


def test_each_runtime_has_its_own_form() -> None:
    """The same decision is written down otherwise for another runtime (`fewbits.dialect`)."""
    plans = [plan("a", target=target) for target in ("onnxruntime:cpu", "openvino:cpu", "onnxruntime:cpu")]
    model, _ = converted(plans)
    assert [one.target for one in model.converted_plans] == ["onnxruntime:cpu", "openvino:cpu"]


def test_a_plan_comes_back_after_two_others_but_not_after_many() -> None:
    model, _ = converted([plan(name) for name in "abcabdea"])
    assert [sorted(one.low) for one in model.converted_plans] == [["a"], ["b"], ["c"], ["d"], ["e"], ["a"]]
