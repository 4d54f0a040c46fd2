"""SmoothQuant and AWQ in modules: the function stays, and what codes lose with uneven channels is won back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import fx, nn

from fewbits.attribution import attribute
from fewbits.data.batches import Batch
from fewbits.errors import PlanError
from fewbits.formats.scheme import (
    BF16,
    INT4_BLOCKS,
    INT8_SMOOTHED,
    INT8_STATIC,
    INT8_TOKENS,
    INT8_TOKENS_SMOOTHED,
    Scheme,
)
from fewbits.grouping import group
from fewbits.models.pytorch.converted import artifact, opened
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.plan import Choice, Plan, smoothed
from fewbits.smoothing import text
from fewbits.targets import open_target

FEATURES = 32
LARGE = (3, 17)
FACTORS = np.where(np.isin(np.arange(FEATURES), LARGE), 16.0, 0.5).astype(np.float32)
FINER = np.where(np.isin(np.arange(FEATURES), LARGE), 4.0, 1.0).astype(np.float32)
"""For weights of four bits, which have no steps to spare for the others."""
INT4_SMOOTHED = replace(INT4_BLOCKS, smoothed=True)


def uneven(rows: int = 64) -> torch.Tensor:
    """Rows with two channels that are a hundred times as large as the others."""
    x = np.random.default_rng(1).standard_normal((rows, FEATURES)).astype(np.float32)
    x[:, LARGE] *= 100
    return torch.from_numpy(x)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Matrix(nn.Module):
    """A weight with its inputs first, and a bias that is a call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, 8) / 8)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Addmm(Matrix):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight)


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(FEATURES, 8), nn.Linear(FEATURES, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) + self.other(x)


class BehindNorm(nn.Module):
    """Large channels come from the gain of the norm, as they do in transformers."""

    def __init__(self, *, residual: bool = False) -> None:
        super().__init__()
        self.norm, self.layer, self.residual = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, FEATURES), residual
        with torch.no_grad():
            self.norm.weight.copy_(torch.from_numpy(np.where(FACTORS > 1, 100.0, 1.0)))
            self.norm.bias.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        return self.layer(normed) - normed if self.residual else self.layer(normed)


MODULES = {
    "plain": Plain,
    "matrix": Matrix,
    "addmm": Addmm,
    "two readers": TwoReaders,
    "behind a norm": BehindNorm,
    "norm with a residual": lambda: BehindNorm(residual=True),
}


def module(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name]().eval()


def opened_model(name: str) -> TorchModel:
    return TorchModel.of(module(name), {"x": uneven()})


def planned(model: TorchModel, scheme: Scheme) -> Plan:
    """All products in `scheme`, with ranges of what they read, smoothed or not."""
    products = [made for made in group(model.graph) if made.is_product]
    read = sorted({made.operands[0] for made in products})
    (values,) = model.observe([Batch({"x": uneven().numpy()})], read)
    small = {smoothed(name): value / FACTORS for name, value in values.items()}
    ranges = {name: (float(value.min()), float(value.max())) for name, value in {**values, **small}.items()}
    factors = {name: text(FINER if scheme.is_weight_only else FACTORS) for name in read}
    choices = {made.name: Choice(str(scheme), "test") for made in products}
    return Plan(
        model.sha256,
        choices,
        ranges if scheme.is_static else {},
        smoothing={} if scheme.is_weight_only else factors,
        scaling=factors if scheme.is_weight_only else {},
    )


def loss(name: str, scheme: Scheme) -> float:
    model = opened_model(name)
    with torch.no_grad():
        expected = module(name)(uneven())
        found = model.module(planned(model, scheme))(uneven())
    assert isinstance(found, torch.Tensor)
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ["plain", "matrix", "addmm", "two readers"])
def test_smoothing_wins_back_what_large_channels_cost(name: str) -> None:
    """The small channels get finer steps; eight bits of the large ones are enough for both operands."""
    assert loss(name, INT8_SMOOTHED) < 0.5 * loss(name, INT8_STATIC)
    # Tokens have scales of their own, so that there is less to win.
    assert loss(name, INT8_TOKENS_SMOOTHED) < 0.7 * loss(name, INT8_TOKENS)


@pytest.mark.parametrize("scheme", [INT8_SMOOTHED, INT8_TOKENS_SMOOTHED])
@pytest.mark.parametrize("name", MODULES)
def test_the_function_stays(name: str, scheme: Scheme) -> None:
    assert loss(name, scheme) < 0.05


def test_weights_alone_are_scaled_by_factors_of_their_own() -> None:
    """Where blocks of inputs share a scale, those that meet large inputs get finer steps (Lin et al. 2023, 3.2)."""
    for name in ("plain", "norm with a residual"):
        assert loss(name, INT4_SMOOTHED) < 0.7 * loss(name, INT4_BLOCKS)


def divisions(converted: fx.GraphModule) -> int:
    return sum("aten.mul" in str(node.target) for node in converted.graph.nodes)


@pytest.mark.parametrize(
    ("name", "count"),
    [("plain", 1), ("two readers", 1), ("behind a norm", 0), ("norm with a residual", 1)],
)
def test_a_norm_that_nobody_else_reads_does_the_division(name: str, count: int) -> None:
    model = opened_model(name)
    assert divisions(model.module(planned(model, INT8_SMOOTHED)).graph_module) == count


def test_the_model_is_left_as_it_was() -> None:
    model, own = opened_model("behind a norm"), module("behind a norm")
    model.module(planned(model, INT8_SMOOTHED))
    assert np.array_equal(model.weight("norm.weight"), own.norm.weight.detach())
    assert np.array_equal(model.weight("layer.weight"), own.layer.weight.detach())


def test_a_product_that_is_not_smoothed_reads_the_tensor_as_it_is() -> None:
    model = opened_model("two readers")
    plan = planned(model, INT8_SMOOTHED)
    mixed = replace(plan, choices={**plan.choices, "other": Choice("fp32", "test")})
    with torch.no_grad():
        expected, found = module("two readers")(uneven()), model.module(mixed)(uneven())
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_a_tensor_may_be_smoothed_in_two_ways() -> None:
    """Static codes and a weight alone have factors of their own."""
    model = opened_model("two readers")
    plan = planned(model, INT8_SMOOTHED)
    both = replace(
        plan,
        choices={**plan.choices, "other": Choice(str(INT4_SMOOTHED), "test")},
        scaling={"x": text(FINER)},
    )
    converted = model.module(both)
    assert divisions(converted.graph_module) == 2
    with torch.no_grad():
        expected, found = module("two readers")(uneven()), converted(uneven())
    assert float((found - expected).norm() / expected.norm()) < 0.1


def test_it_stands_in_a_region_of_a_small_float() -> None:
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.GELU(), nn.Linear(FEATURES, 8)).eval()
    model = TorchModel.of(stack, {"input": uneven()})
    read = next(made.operands[0] for made in group(model.graph) if made.name == "2")
    plan = Plan(
        model.sha256,
        {"0": Choice(str(BF16), "test"), "2": Choice(str(INT4_SMOOTHED), "test")},
        {},
        scaling={read: text(np.geomspace(0.5, 2, FEATURES))},
    )
    converted = model.module(plan)
    (low,) = (one for one in converted.modules() if isinstance(one, LowPrecision))
    assert low.call.result == torch.bfloat16
    with torch.no_grad():
        expected, found = stack(uneven()), converted(uneven())
    assert float((found - expected).norm() / expected.norm()) < 0.15


def test_a_division_counts_for_the_group_that_it_is_for() -> None:
    """So that its price is that of the scheme."""
    model, target = opened_model("plain"), open_target("torch:cpu", 1)
    for scheme in (INT8_SMOOTHED, INT4_SMOOTHED):
        made = artifact(model.module(planned(model, scheme)))
        executed = target.executed(made, {"x": uneven().numpy()}, 2)
        ran = attribute(model.graph, group(model.graph), executed)
        assert ran["layer"].seconds == pytest.approx(sum(one.seconds for one in executed))
        assert ran["layer"].precision == ("int8" if scheme == INT8_SMOOTHED else "fp32")


def test_it_is_stored_and_opened_again() -> None:
    model = opened_model("norm with a residual")
    converted = model.module(planned(model, INT8_SMOOTHED))
    assert "smoothed" in repr(converted)
    with torch.no_grad():
        assert torch.equal(opened(artifact(converted).content)(uneven()), converted(uneven()))


def test_factors_that_are_missing_or_of_another_model_are_refused() -> None:
    model = opened_model("plain")
    plan = planned(model, INT8_SMOOTHED)
    with pytest.raises(PlanError, match="no factors to smooth the tensor x"):
        model.module(replace(plan, smoothing={}))
    with pytest.raises(PlanError, match=r"2 factors .* which has 32 channels"):
        model.module(replace(plan, smoothing={"x": "1 2"}))
