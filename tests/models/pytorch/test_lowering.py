"""Groups in codes: a module each, the same function within the formats' error, integers where the plan says so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.data.batches import Batch
from fewbits.errors import PlanError
from fewbits.formats.scheme import BF16, INT4_BLOCKS, INT8_DYNAMIC, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models.pytorch.converted import artifact, opened
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.plan import Choice, Plan
from fewbits.smoothing import text
from torch_nets import Residual, encoder, plan_of


def error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).detach().norm() / expected.detach().norm())


def calibrated(model: TorchModel, inputs: dict[str, torch.Tensor], plan: Plan) -> Plan:
    """`plan` with the ranges that its operands take on `inputs`."""
    operands = {name for made in group(model.graph) for name in made.operands}
    (values,) = model.observe([Batch({name: value.numpy() for name, value in inputs.items()})], sorted(operands))
    ranges = {name: (min(0.0, float(array.min())), max(0.0, float(array.max()))) for name, array in values.items()}
    return Plan(plan.model_sha256, plan.choices, ranges)


@pytest.mark.parametrize("scheme", [INT8_STATIC, INT8_DYNAMIC, INT8_WEIGHT, INT4_BLOCKS], ids=str)
def test_products_of_an_encoder_compute_in_codes(scheme: Scheme) -> None:
    torch.manual_seed(0)
    module, x = encoder(2, 64), torch.randn(3, 5, 64)
    model = TorchModel.of(module, {"src": x})
    plan = calibrated(model, {"src": x}, plan_of(model, scheme))
    converted = model.module(plan)
    modules = [one for one in converted.modules() if isinstance(one, LowPrecision)]
    assert len(modules) == len(plan.low) and all(one.call.scheme == scheme for one in modules)
    expected = copy.deepcopy(module).eval()(x)
    assert error(expected, converted(x)) < (0.1 if scheme == INT4_BLOCKS else 0.02)
    assert torch.equal(opened(artifact(converted).content)(x), converted(x))


def test_convolutions_take_their_batch_norm_and_relu_along() -> None:
    torch.manual_seed(0)
    module, x = Residual(), torch.randn(4, 3, 8, 8)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(calibrated(model, {"x": x}, plan_of(model, INT8_STATIC)))
    assert error(copy.deepcopy(module).eval()(x), converted(x)) < 0.02
    names = [str(node.target) for node in converted.graph.nodes if node.op == "call_function"]
    assert not any("batch_norm" in name for name in names)
    # The sum and the activation behind it are the second convolution's.
    assert not any("relu" in name or "add" in name for name in names)


def test_codes_between_small_floats_read_and_give_them() -> None:
    torch.manual_seed(0)
    module, x = encoder(2, 64), torch.randn(3, 5, 64)
    model = TorchModel.of(module, {"src": x})
    low = plan_of(model, BF16)
    inner = {name: Choice(str(INT8_DYNAMIC), "") for name in low.choices if name.endswith(("linear1", "linear2"))}
    converted = model.module(Plan(model.sha256, {**low.choices, **inner}, {}))
    results = {one.call.result for one in converted.modules() if isinstance(one, LowPrecision)}
    assert results == {torch.bfloat16}
    assert error(copy.deepcopy(module).eval()(x), converted(x)) < 0.03


def test_a_range_that_is_missing_is_named() -> None:
    model = TorchModel.of(encoder(1, 64), {"src": torch.randn(3, 5, 64)})
    with pytest.raises(PlanError, match="no range for the tensor"):
        model.module(plan_of(model, INT8_STATIC))


def test_equalised_channels_leave_the_function_as_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(5, 8)
    model = TorchModel.of(module, {"input": x})
    factors = text(np.exp2(np.linspace(-2, 2, 16)))
    tensor = next(made.output for made in group(model.graph) if made.name == "0")
    scaled = model.equalised({tensor: factors})
    assert not np.array_equal(scaled.weight("0.weight"), model.weight("0.weight"))
    (plain,) = model.observe([Batch({"input": x.numpy()})], ["output"])
    (other,) = scaled.observe([Batch({"input": x.numpy()})], ["output"])
    np.testing.assert_allclose(other["output"], plain["output"], rtol=1e-4, atol=1e-5)
    assert scaled.original() == model.original()


def test_a_product_that_scales_itself_is_no_product_of_codes() -> None:
    """Kernels of codes know no alpha and beta: they would compute something else."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x, self.weight, beta=2.0, alpha=0.5)

    torch.manual_seed(0)
    module, x = Scaled(), torch.randn(9, 16)
    model = TorchModel.of(module, {"x": x})
    with pytest.raises(PlanError, match="alpha, beta"):
        model.module(Plan(model.sha256, {"addmm": Choice(str(INT8_DYNAMIC), "")}, {}))
    cast = model.module(Plan(model.sha256, {"addmm": Choice(str(BF16), "")}, {}))
    assert error(module(x), cast(x)) < 0.02
