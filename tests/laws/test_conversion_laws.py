"""Laws of conversion over random models and random plans, on the runtimes themselves."""

from __future__ import annotations

import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversion import OPENVINO, TARGET, error, observed_ranges, run, smoothed
from fewbits.formats.scheme import Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import Model
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target
from random_models import inputs_of, models

SLOW = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def menus(model: Model, target: Target) -> dict[str, list[Scheme]]:
    """What can be asked of `target` for each group; bf16 is written for ONNX Runtime, too, but not loaded by it."""
    offered = {one.name: target.menu(model.graph, one).schemes for one in group(model.graph)}
    return {
        name: [one for one in schemes if target is OPENVINO or not one.is_cast] for name, schemes in offered.items()
    }


def described(proto: onnx.ModelProto) -> list[tuple[str, bytes]]:
    values = (*proto.graph.input, *proto.graph.output)
    return [(value.name, value.type.SerializeToString(deterministic=True)) for value in values]


def check(target: Target, proto: onnx.ModelProto, data: st.DataObject) -> None:
    model, inputs = open_model(proto), inputs_of(proto)
    choices = {
        # Mostly low: a net of which little is converted shows little.
        name: Choice(str(data.draw(st.sampled_from(schemes[1:] * 3 + schemes[:1]))), "drawn")
        for name, schemes in menus(model, target).items()
    }
    plan = Plan(model.sha256, choices, observed_ranges(model, inputs), target.name)
    artifact = model.converted(smoothed(model, plan, inputs))
    if not plan.low:
        assert artifact.content == proto.SerializeToString()
        return
    result = onnx.load_model_from_string(artifact.content)
    onnx.checker.check_model(result, full_check=True)
    assert described(result) == described(proto)
    got, wanted = run(artifact, inputs, target), run(proto, inputs, target)
    assert {name: array.shape for name, array in got.items()} == {name: array.shape for name, array in wanted.items()}
    assert error(got, wanted) < 0.3
    few = {name: array[:2] for name, array in inputs.items()}
    assert error(run(artifact, few, target), run(proto, few, target)) < 0.4


@settings(max_examples=80, **SLOW)  # type: ignore[arg-type]
@given(models(), st.data())
def test_any_plan_for_onnx_runtime(proto: onnx.ModelProto, data: st.DataObject) -> None:
    check(TARGET, proto, data)


@settings(max_examples=15, **SLOW)  # type: ignore[arg-type]
@given(models(), st.data())
def test_any_plan_for_openvino(proto: onnx.ModelProto, data: st.DataObject) -> None:
    check(OPENVINO, proto, data)


@settings(max_examples=30, **SLOW)  # type: ignore[arg-type]
@given(models())
def test_a_plan_of_fp32_changes_no_bit(proto: onnx.ModelProto) -> None:
    model = open_model(proto)
    plan = Plan(model.sha256, {one.name: Choice("fp32", "") for one in group(model.graph)}, {})
    assert model.converted(plan).content == proto.SerializeToString()
