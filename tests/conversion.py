"""What tests of conversion share: a plan by simple means, the runtimes, and what they really ran."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx

from builders import Array
from fewbits.attribution import attribute
from fewbits.calibration.collect import tie
from fewbits.data.batches import Batch
from fewbits.formats.scheme import Scheme
from fewbits.grouping import group, tied
from fewbits.models import open_model
from fewbits.models.protocol import Artifact, Model
from fewbits.placement import between_codes, coded_tensors, settle
from fewbits.plan import Choice, Plan
from fewbits.smoothing import parse, text
from fewbits.targets.onnxruntime import OnnxRuntime
from fewbits.targets.openvino import OpenVino
from fewbits.targets.protocol import Target

TARGET: Target = OnnxRuntime(1)
OPENVINO: Target = OpenVino(1)


def offered(model: Model, target: Target = TARGET, scheme: Scheme | None = None) -> dict[str, Scheme]:
    """Group name → `scheme`, for the groups that `target` offers it for; by default the one with static codes."""
    found: dict[str, Scheme] = {}
    for one in group(model.graph):
        for each in target.menu(model.graph, one).schemes:
            if each.is_static if scheme is None else each == scheme:
                found.setdefault(one.name, each)
    return found


def refusal(proto: onnx.ModelProto, name: str, scheme: Scheme | None = None) -> str:
    """Why ONNX Runtime's menu refuses the group `name` that scheme, by default static codes; "" if it does not."""
    model = open_model(proto)
    (one,) = (one for one in group(model.graph) if one.name == name)
    refusals = TARGET.menu(model.graph, one).refusals
    wanted = (each for each in refusals if (each.scheme.is_static if scheme is None else each.scheme == scheme))
    return next((each.reason for each in wanted), "")


def observed_ranges(model: Model, inputs: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """The extremes of every tensor that can carry codes, equal where tensors share a scale."""
    groups = group(model.graph)
    classes = tied(model.graph, groups)
    names = coded_tensors(model.graph, [one for one in groups if one.name in offered(model)], classes)
    (values,) = model.observe([Batch(dict(inputs))], names)
    return tie({name: (float(values[name].min()), float(values[name].max())) for name in names}, classes)


def planned(
    model: Model,
    inputs: Mapping[str, Array],
    low: Collection[str] | None = None,
    *,
    target: Target = TARGET,
    scheme: Scheme | None = None,
) -> Plan:
    """`low` (by default all that can be) in `scheme` (by default static codes, with what a tuning run adds and leaves
    out), for `target`."""
    schemes, groups = offered(model, target, scheme), group(model.graph)
    kept = frozenset(schemes if low is None else set(low) & set(schemes))
    if scheme is None or scheme.is_static:
        kept = settle(model.graph, groups, kept)
        kept |= between_codes(model.graph, groups, kept) & set(schemes)
    choices = {name: Choice(str(schemes[name]), "test") for name in sorted(kept)}
    return Plan(model.sha256, choices, observed_ranges(model, inputs), target.name)


def smoothed(model: Model, plan: Plan, inputs: Mapping[str, Array]) -> Plan:
    """`plan` with factors for what groups with a smoothed scheme read: from 1/2 for the first channel to 2."""
    groups = {one.name: one for one in group(model.graph) if plan.scheme(one.name).smoothed}
    sources = sorted({one.operands[0] for one in groups.values()})
    (values,) = model.observe([Batch(dict(inputs))], sources)
    factors = {name: parse(text(np.geomspace(0.5, 2, values[name].shape[-1]))) for name in sources}
    small = {f"{name}.smoothed": values[name] / factors[name] for name in sources}
    ranges = {name: (float(value.min()), float(value.max())) for name, value in small.items()}
    texts = {name: text(factor) for name, factor in factors.items()}
    return replace(plan, ranges={**plan.ranges, **ranges}, smoothing=texts)


def converted(
    proto: onnx.ModelProto,
    inputs: Mapping[str, Array],
    low: Collection[str] | None = None,
    *,
    target: Target = TARGET,
    scheme: Scheme | None = None,
) -> tuple[Model, Plan, Artifact]:
    """`proto` opened, the plan for `low` (see `planned`), and the model under it."""
    model = open_model(proto)
    plan = planned(model, inputs, low, target=target, scheme=scheme)
    return model, plan, model.converted(plan)


def run(artifact: Artifact | onnx.ModelProto, inputs: Mapping[str, Array], target: Target = TARGET) -> dict[str, Array]:
    """Outputs by name."""
    content = artifact if isinstance(artifact, Artifact) else Artifact(artifact.SerializeToString())
    with target.open(content) as session:
        return dict(session(inputs))


def precisions(
    model: Model, artifact: Artifact, inputs: Mapping[str, Array], target: Target = TARGET
) -> dict[str, str]:
    """Group name → the precision in which its anchor ran."""
    executed = target.executed(artifact, inputs, 3)
    return {name: share.precision for name, share in attribute(model.graph, group(model.graph), executed).items()}


def kernels(artifact: Artifact, inputs: Mapping[str, Array]) -> list[str]:
    """What ran, in order, without domains."""
    return [one.kernel.rpartition(".")[2] for one in TARGET.executed(artifact, inputs, 1)]


def error(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The largest relative root-mean-square error over the outputs."""
    return max(
        float(np.sqrt(np.mean((got[name] - wanted[name]) ** 2) / max(float(np.mean(wanted[name] ** 2)), 1e-12)))
        for name in wanted
    )


def rewritten(proto: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    """A copy of `proto` that `change` was applied to."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    change(copy)
    return copy
