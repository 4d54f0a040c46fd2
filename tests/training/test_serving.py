"""From training to inference, curvature, and the public names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from fewbits import training
from fewbits.errors import DataError, PlanError
from fewbits.plan import Plan
from training_nets import convolutional


@pytest.mark.parametrize(
    ("recipe", "scheme"),
    [
        ("fp8_hybrid_current", "w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic"),
        ("mxfp8_rceil", "w:mxfp8_e4m3-rceil a:mxfp8_e4m3-rceil dynamic"),
        ("amp_bf16", "bf16"),
        ("moq", "w:int16r/channel"),
    ],
)
def test_a_recipe_becomes_a_plan(recipe: str, scheme: str) -> None:
    low = training.lower(convolutional(), training.recipe(recipe))
    plan = training.plan_of(low, {"3": "conv_2"})
    assert Plan.from_json(plan.to_json()) == plan
    assert str(plan.scheme("conv_2")) == scheme
    # MoQ keeps first and last.
    assert ("0" in plan.choices) == (recipe != "moq")
    assert training.Recipe.parse(plan.notes[0]) == training.recipe(recipe)


def test_formats_that_inference_does_not_have() -> None:
    low = training.lower(convolutional(), training.recipe("fp8_mellempudi"))
    with pytest.raises(PlanError, match="fp8_e5m2 and fp8_e5m2"):
        training.plan_of(low)


def test_moq_s_plan_has_the_bits_of_its_step() -> None:
    low = training.lower(convolutional(), training.recipe("recipe: q; weight forward: int16r/channel; schedule: moq"))
    assert str(training.plan_of(low, step=10**6).scheme("3")) == "w:int8r/channel"


class TestCurvature:
    def test_of_a_quadratic(self) -> None:
        """The Hessian of mean (x w)^2 in w is 2 E[x x']: its eigenvalues are those of the data."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 1, bias=False))
        other = nn.Linear(6, 1, bias=False)
        x = torch.randn(200, 6) * torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        both = nn.ModuleDict({"a": model[0], "b": other})
        found = training.curvatures(
            both, lambda: model(x).square().mean() + 0.5 * other(x).square().mean(), tolerance=1e-5
        )
        assert found["a"] == 1
        assert found["b"] == pytest.approx(0.5, abs=1e-3)

    def test_a_lowered_model_has_none(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4))
        low = training.lower(model, training.recipe("recipe: a; weight forward: bf16"))
        with pytest.raises((DataError, RuntimeError)):
            training.curvatures(low, lambda: low(torch.ones(2, 4)).square().sum())


def test_moq_warns_if_it_cannot_finish() -> None:
    with pytest.warns(UserWarning, match="do not reach 8 bits in 100 steps"):
        training.lower(convolutional(), training.recipe("moq"), planned=100)


def test_the_public_names() -> None:
    assert training.__all__ == sorted(set(training.__all__))
    names = [name for names in training._HOMES.values() for name in names]
    assert sorted(names) == training.__all__
    for name in training.__all__:
        found: Callable[..., object] = getattr(training, name)
        assert inspect.getdoc(found)
    assert all(a < b for a, b in pairwise(training.__all__))


def test_recipes_are_read_without_torch() -> None:
    code = "import sys; from fewbits import training; print(training.recipe('nvfp4')); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.startswith("recipe: nvfp4")
    assert out.endswith("False\n")
