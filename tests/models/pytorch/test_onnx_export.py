"""A module and its ONNX export: the same function, and which groups of the one are which of the other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.data.batches import Batch
from fewbits.errors import ModelError, PlanError
from fewbits.flow import convert, export_onnx, plan_for_module, plan_for_onnx
from fewbits.formats.scheme import BF16, FP16, FP32, Scheme
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models import open_module
from fewbits.models.protocol import Artifact, Twins
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from fewbits.targets import open_target
from torch_nets import Mobile, Residual, encoder, plan_of, with_own_weights

NETS = ("residual", "encoder", "mobile")
INPUTS = {"residual": ("x", (3, 3, 8, 8)), "encoder": ("src", (3, 5, 16)), "mobile": ("x", (3, 3, 16, 16))}


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = {"residual": Residual, "encoder": lambda: encoder(2), "mobile": Mobile}[name]()
    return with_own_weights(made).eval()


def given(name: str) -> dict[str, np.ndarray]:
    argument, shape = INPUTS[name]
    return {argument: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


@cache
def exported(name: str) -> Twins:
    """Made once for all tests: the exporter takes seconds."""
    return export_onnx(net(name), given(name))


@pytest.fixture(params=NETS)
def one(request: pytest.FixtureRequest) -> tuple[str, Twins]:
    name = str(request.param)
    return name, exported(name)


def of_onnx(artifact: Artifact, name: str) -> np.ndarray:
    with open_target("onnxruntime", 1).open(artifact) as session:
        return next(iter(session(given(name)).values()))


def of_module(module: nn.Module, name: str) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(module(*map(torch.from_numpy, given(name).values())))


def error(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.linalg.norm(expected - found) / np.linalg.norm(expected))


def test_the_export_computes_what_the_module_does(one: tuple[str, Twins]) -> None:
    name, twins = one
    assert error(of_module(net(name), name), of_onnx(twins.onnx.original(), name)) < 1e-5
    assert [tensor.name for tensor in twins.onnx.inputs] == [tensor.name for tensor in twins.module.inputs]
    assert [tensor.name for tensor in twins.onnx.outputs] == [tensor.name for tensor in twins.module.outputs]


def test_every_product_has_its_counterpart(one: tuple[str, Twins]) -> None:
    _, twins = one
    paired = {first for first, _ in twins.same.groups}, {second for _, second in twins.same.groups}
    for graph, names in zip((twins.module.graph, twins.onnx.graph), paired, strict=True):
        assert {made.name for made in group(graph) if made.is_product} <= names


def test_groups_that_belong_together_have_the_same_weight(one: tuple[str, Twins]) -> None:
    """An oracle that pairing does not look at: the numbers themselves, up to a transpose and folded batch norms."""
    name, twins = one
    here = {made.name: made for made in group(twins.module.graph)}
    there = {made.name: made for made in group(twins.onnx.graph)}
    seen = 0
    for first, second in twins.same.groups:
        if not here[first].weight:
            assert not there[second].weight
            continue
        own, other = twins.module.weight(here[first].weight), twins.onnx.weight(there[second].weight)
        if own.ndim > 2:
            # A folded norm scales every output channel by one factor.
            own, other = own.reshape(len(own), -1), other.reshape(len(other), -1)
            own, other = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (own, other))
            own, other = np.abs(own), np.abs(other)
        candidates = [own, own.T] if own.ndim == 2 else [own]
        assert any(w.shape == other.shape and np.allclose(w, other, atol=1e-5) for w in candidates), (name, first)
        seen += 1
    assert seen >= 3


def test_tensors_that_belong_together_hold_the_same_values(one: tuple[str, Twins]) -> None:
    name, twins = one
    batch = Batch(given(name))
    firsts = [first for first, second in twins.same.tensors if not _is_constant(twins, first, second)]
    seconds = [second for first, second in twins.same.tensors if not _is_constant(twins, first, second)]
    (here,) = twins.module.observe([batch], list(dict.fromkeys(firsts)))
    (there,) = twins.onnx.observe([batch], list(dict.fromkeys(seconds)))
    assert len(firsts) >= 6
    for first, second in zip(firsts, seconds, strict=True):
        assert here[first].size == there[second].size
        assert np.allclose(here[first].reshape(-1), there[second].reshape(-1), atol=1e-4), (first, second)


def _is_constant(twins: Twins, first: str, second: str) -> bool:
    return twins.module.graph.is_constant(first) or twins.onnx.graph.is_constant(second)


@pytest.mark.parametrize("scheme", [BF16, FP16])
def test_a_plan_of_the_module_applies_to_the_export(one: tuple[str, Twins], scheme: Scheme) -> None:
    name, twins = one
    assert isinstance(twins.module, TorchModel)
    plan = plan_of(twins.module, scheme)
    carried = plan_for_onnx(plan, twins, target="openvino:cpu")
    assert {first for first, second in twins.same.groups if carried.plan.scheme(second) == scheme} == plan.low - {
        left.name for left in carried.left if left.what == "scheme"
    }
    found = of_onnx_on("openvino", twins.onnx.converted(carried.plan), name)
    bound = 0.03 if scheme == BF16 else 0.005
    assert error(of_module(twins.module.module(plan), name), found) < bound


def of_onnx_on(target: str, artifact: Artifact, name: str) -> np.ndarray:
    with open_target(target, 1).open(artifact) as session:
        return next(iter(session(given(name)).values()))


def test_a_plan_of_the_export_applies_to_the_module(one: tuple[str, Twins]) -> None:
    name, twins = one
    products = [made.name for made in group(twins.onnx.graph) if made.is_product]
    plan = Plan(twins.onnx.sha256, {product: Choice("bf16", "test") for product in products}, {}, "openvino:cpu")
    carried = plan_for_module(plan, twins)
    assert not carried.left
    pairs = dict(twins.same.turned.groups)
    assert carried.plan.low == {pairs[product] for product in products}
    module = open_module(convert(net(name), carried.plan, data=given(name)))
    assert "bf16" in repr(module)
    found = of_onnx_on("openvino", twins.onnx.converted(plan), name)
    assert error(of_module(module, name), found) < 0.03


def test_there_and_back_is_the_same_plan(one: tuple[str, Twins]) -> None:
    _, twins = one
    assert isinstance(twins.module, TorchModel)
    whole = plan_of(twins.module, BF16)
    there = plan_for_onnx(whole, twins)
    lost = {left.name for left in there.left}
    back = plan_for_module(there.plan, twins)
    assert not back.left
    assert back.plan.low == whole.low - lost


def test_ranges_and_codes_go_along() -> None:
    twins = exported("residual")
    int8 = "w:int8r/channel a:uint8/tensor"
    anchors = [made for made in group(twins.onnx.graph) if made.is_product]
    ranges = {name: (0.0, 1.0) for made in anchors for name in (*made.operands, made.inner)}
    plan = Plan(
        twins.onnx.sha256,
        {made.name: Choice(int8, "test") for made in anchors},
        ranges,
        codes={anchors[-1].name: "0123456789abcdef"},
    )
    there = plan_for_module(plan, twins)
    assert not there.left
    assert len(there.plan.ranges) == len(ranges)
    assert set(there.plan.codes.values()) == set(plan.codes.values())
    back = plan_for_onnx(there.plan, twins)
    assert not back.left
    assert (back.plan.choices, back.plan.ranges, back.plan.codes) == (plan.choices, plan.ranges, plan.codes)


def test_attention_that_is_one_call_goes_to_both_products_and_back_only_if_they_agree() -> None:
    twins = exported("encoder")
    attention = next(made.name for made in group(twins.module.graph) if made.kind is Kind.ATTENTION)
    there = plan_for_onnx(Plan(twins.module.sha256, {attention: Choice("bf16", "test")}, {}), twins)
    both = sorted(there.plan.low)
    assert len(both) == 2 and not there.left
    half = Plan(twins.onnx.sha256, {both[0]: Choice("bf16", "test")}, {})
    back = plan_for_module(half, twins)
    assert back.plan.scheme(attention) == FP32
    assert [(left.what, left.name) for left in back.left] == [("scheme", both[0])]


def test_what_has_no_counterpart_is_listed() -> None:
    twins = exported("residual")
    product = [made for made in group(twins.onnx.graph) if made.is_product][1]
    (read,) = product.operands
    plan = Plan(
        twins.onnx.sha256,
        {product.name: Choice("w:int8r/channel a:uint8/tensor", "test"), "nobody": Choice("bf16", "test")},
        {read: (0.0, 1.0), product.inner: (0.0, 1.0), "nothing": (0.0, 1.0)},
        equalised={read: "1 2"},
    )
    carried = plan_for_module(plan, twins)
    left = {(left.what, left.name) for left in carried.left}
    assert {("scheme", "nobody"), ("range", "nothing"), ("factors", read)} <= left
    # Its range is of what scaling leaves, so there is none for the module, and no codes either.
    assert not carried.plan.low


def test_a_plan_of_another_model_is_refused() -> None:
    twins = exported("residual")
    with pytest.raises(PlanError, match="another model"):
        plan_for_onnx(Plan(twins.onnx.sha256, {}, {}), twins)


def test_exporting_again_gives_the_same_bytes() -> None:
    """So a plan for the export is good another day."""
    assert export_onnx(net("mobile"), given("mobile")).onnx.sha256 == exported("mobile").onnx.sha256


def test_what_has_no_form_in_onnx_is_told() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ModelError, match="cannot be exported to ONNX"):
        export_onnx(Odd(), {"x": np.ones((3, 4), np.float32)})


def test_only_a_module_has_an_export() -> None:
    twins = exported("mobile")
    with pytest.raises(ModelError, match="only a PyTorch module"):
        export_onnx(twins.onnx.original().content)
