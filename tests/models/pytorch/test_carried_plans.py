"""An int8 plan with all its remedies on a module and on its ONNX export: the same layers in the same schemes, factors,
means and codes, and outputs that differ by no more than the formats' own error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.calibration.collect import tie
from fewbits.codes import Codes, name_of
from fewbits.data.batches import Array, Batch
from fewbits.eligibility import module_obstacle, obstacle
from fewbits.flow import export_onnx, plan_for_module, plan_for_onnx
from fewbits.formats.granularity import Channel
from fewbits.formats.quantize import quantize
from fewbits.formats.scheme import INT8_CHANNEL, INT8_SMOOTHED, INT8_STATIC, INT8_TOKENS
from fewbits.graph import Kind
from fewbits.grouping import Group, group, tied
from fewbits.means import text as means_text
from fewbits.models.protocol import Model, Twins
from fewbits.models.pytorch.model import TorchModel
from fewbits.placement import coded_tensors
from fewbits.plan import Choice, Plan, smoothed
from fewbits.rescaling import junctions
from fewbits.smoothing import parse, text
from fewbits.targets import open_target
from torch_nets import Residual, encoder, with_own_weights


def plain() -> nn.Module:
    """Convolutions with batch norms in a row, each read by the next one alone."""
    found: list[nn.Module] = []
    for before, after in ((3, 16), (16, 16), (16, 24)):
        found += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    with torch.no_grad():
        for norm in found[1::3]:
            assert isinstance(norm, nn.BatchNorm2d)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def before_norms() -> nn.Module:
    """A transformer with its norms in front, where smoothing costs nothing."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


NETS = {
    "convolutions": (plain, "input", (16, 3, 10, 10)),
    "residual": (Residual, "x", (16, 3, 8, 8)),
    "encoder": (lambda: encoder(2, 32), "src", (16, 6, 32)),
    "encoder, norms first": (before_norms, "src", (16, 6, 32)),
}


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_own_weights(NETS[name][0]()).eval()


def given(name: str) -> dict[str, Array]:
    _, argument, shape = NETS[name]
    return {argument: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


@cache
def exported(name: str) -> Twins:
    """Made once for all tests: the exporter takes seconds."""
    return export_onnx(net(name), given(name))


def exact(name: str) -> Array:
    with torch.no_grad():
        return np.asarray(net(name)(*map(torch.from_numpy, given(name).values())))


def run(model: Model, plan: Plan, codes: Codes, name: str) -> Array:
    target = "torch:cpu" if isinstance(model, TorchModel) else "onnxruntime"
    with open_target(target, 1).open(model.knowing(codes).converted(plan)) as session:
        return next(iter(session(given(name)).values()))


def error(expected: Array, found: Array) -> float:
    return float(np.linalg.norm(expected - found) / np.linalg.norm(expected))


def planned(model: Model, name: str) -> tuple[Plan, Codes]:
    """All products by weights in static int8 with whatever makes that better: channels between them equalised,
    matrices smoothed, biases corrected, the classifier (or last layer) with codes of its own."""
    can = module_obstacle if isinstance(model, TorchModel) else obstacle
    groups = group(model.graph)
    products = [made for made in groups if made.is_product and made.weight and not can(model.graph, made, INT8_STATIC)]
    equalised = {
        one.tensor: text(np.geomspace(0.5, 2, _channels(model, one.tensor, one.axis, name)))
        for one in junctions(model.graph, groups)
    }
    model = model.equalised(equalised)
    last = products[-1]
    smooth = [
        made
        for made in products
        if made.kind is not Kind.CONV and made is not last and made.operands[0] not in equalised
    ]
    schemes = {made.name: INT8_SMOOTHED if made in smooth else INT8_STATIC for made in products}
    classes = tied(model.graph, groups)
    (values,) = model.observe([Batch(given(name))], coded_tensors(model.graph, products, classes))
    factors = {made.operands[0]: text(np.geomspace(0.7, 1.4, values[made.operands[0]].shape[-1])) for made in smooth}
    values = {**values, **{smoothed(tensor): values[tensor] / parse(given) for tensor, given in factors.items()}}
    ranges = {tensor: (min(0.0, float(one.min())), float(one.max())) for tensor, one in values.items()}
    read = {made: smoothed(made.operands[0]) if made in smooth else made.operands[0] for made in products}
    codes = _codes(model, last)
    plan = Plan(
        model.sha256,
        {one: Choice(str(scheme), "test") for one, scheme in schemes.items()},
        tie(ranges, classes),
        target="torch:cpu" if isinstance(model, TorchModel) else "onnxruntime:cpu",
        smoothing=factors,
        equalised=equalised,
        means={tensor: means_text(_means(made, values[tensor])) for made, tensor in read.items()},
        codes={last.name: next(iter(codes))},
    )
    return plan, codes


def _channels(model: Model, tensor: str, axis: int, name: str) -> int:
    (values,) = model.observe([Batch(given(name))], [tensor])
    return int(values[tensor].shape[axis])


def _means(made: Group, values: Array) -> Array:
    axis = 1 if made.kind is Kind.CONV else values.ndim - 1
    found: Array = values.mean(axis=tuple(other for other in range(values.ndim) if other != axis))
    return found


def _codes(model: Model, made: Group) -> Codes:
    """Codes of a somewhat smaller weight than nearest ones are of, so that they can be told apart."""
    weight = model.weight(made.weight)
    rows = weight if model.graph.node[made.name].attributes.get("transB", 0) else weight.T
    found = quantize(np.ascontiguousarray(0.99 * rows, np.float32), replace(INT8_CHANNEL, granularity=Channel(0)))
    found = replace(found, format=INT8_CHANNEL)
    return {name_of(found): found}


def schemes(plan: Plan) -> Mapping[str, str]:
    return {name: str(plan.scheme(name)) for name in plan.low}


@pytest.mark.parametrize("from_onnx", [True, False], ids=["from the export", "from the module"])
@pytest.mark.parametrize("name", NETS)
def test_a_plan_with_all_remedies_computes_the_same_on_both(name: str, *, from_onnx: bool) -> None:
    twins = exported(name)
    one, other = (twins.onnx, twins.module) if from_onnx else (twins.module, twins.onnx)
    plan, codes = planned(one, name)
    carried = (plan_for_module if from_onnx else plan_for_onnx)(plan, twins, target="")
    assert not [left for left in carried.left if left.what != "range"]
    pairs = dict((twins.same.turned if from_onnx else twins.same).groups)
    assert schemes(carried.plan) == {pairs[group]: scheme for group, scheme in schemes(plan).items()}
    for field in ("equalised", "smoothing", "means", "codes"):
        before, after = plan.__getattribute__(field), carried.plan.__getattribute__(field)
        assert sorted(before.values()) == sorted(after.values()), field
    # What runs on integers, integers of the same values: what is left are other orders of sums, which make some
    # values round to their other neighbour.
    expected, found, back = exact(name), run(other, carried.plan, codes, name), run(one, plan, codes, name)
    assert error(expected, back) < 0.03
    assert error(back, found) < 0.7 * error(expected, back)


@pytest.mark.parametrize("name", NETS)
def test_there_and_back_is_the_same_plan(name: str) -> None:
    twins = exported(name)
    plan, _ = planned(twins.module, name)
    back = plan_for_module(plan_for_onnx(plan, twins).plan, twins)
    assert not back.left
    assert schemes(back.plan) == schemes(plan)
    assert (back.plan.equalised, back.plan.codes) == (plan.equalised, plan.codes)
    # A tensor that is the same under two names has both.
    assert plan.smoothing.items() <= back.plan.smoothing.items() and plan.means.items() <= back.plan.means.items()


def test_scales_per_token_stay_with_the_module() -> None:
    """ONNX finds one range for the tensor at every call: it would compute something else."""
    twins = exported("encoder")
    layer = "layers.0.linear2"
    carried = plan_for_onnx(Plan(twins.module.sha256, {layer: Choice(str(INT8_TOKENS), "test")}, {}), twins)
    assert not carried.plan.low
    assert [(left.what, left.reason.partition(" ")[0]) for left in carried.left] == [("scheme", "ranges")]
