"""Layers of a module in formats that no kernel has: operands are rounded as the formats say, products are float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import fewbits
from fewbits.errors import PlanError, UsageError
from fewbits.flow import elsewhere
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.quantize import fake_quantize
from fewbits.models.protocol import TORCH_EMULATED
from fewbits.plan import Plan


def small() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(6, 64)


@pytest.mark.parametrize("format", ["mxfp4", "nvfp4", "mxfp6_e2m3", "mxint8", "fp8_e5m2/tensor"])
def test_operands_are_rounded_as_the_format_says(format: str) -> None:
    module, x = small()
    weight = format if "/" in format else f"{format}/g{16 if format == 'nvfp4' else 32}@0"
    found = fewbits.emulate(module, ["2=fp32", f"*=w:{weight} a:{format} dynamic"], [x.numpy()])(x)
    first, last = module[0], module[2]
    rounded = torch.from_numpy(fake_quantize(first.weight.detach().numpy().T.copy(), weight).T.copy())
    wanted = last(
        functional.relu(functional.linear(torch.from_numpy(fake_quantize(x.numpy(), format)), rounded, first.bias))
    )
    torch.testing.assert_close(found, wanted.detach())
    assert not torch.equal(found, module(x))


def test_ranges_of_few_bits_are_those_of_the_data() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten()).eval(), torch.randn(5, 3, 6, 6)
    found = fewbits.emulate(module, ["*=w:int8r/channel a:uint4/tensor"], [x[:2].numpy(), x[2:].numpy()])(x)
    ends = of_range(float(x.min()), float(x.max()), IntFormat(4, signed=False))
    scale, zero = float(ends.scale), int(ends.zero_point)
    codes = torch.clip((x / scale).round() + zero, 0, 15)
    weight = module[0].weight.detach()
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    wanted = functional.conv2d((codes - zero) * scale, (weight / step).round() * step)
    torch.testing.assert_close(found, wanted.flatten(1), rtol=1e-4, atol=1e-4)


class Scores(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x @ y


def test_products_of_two_activations_are_layers_too() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 64), torch.randn(2, 64, 5)
    data = [{"x": x.numpy(), "y": y.numpy()}]
    found = fewbits.emulate(Scores(), ["matmul=w:mxfp4/g32@-2 a:mxfp8_e4m3 dynamic"], data)(x, y)
    left = fake_quantize(x.numpy(), "mxfp8_e4m3")
    right = fake_quantize(np.ascontiguousarray(y.numpy()), "mxfp4/g32@-2")
    np.testing.assert_allclose(found.numpy(), left @ right, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_said() -> None:
    module, x = small()
    with pytest.raises(UsageError, match=r"no layer matches 'first=.*the layers are 0, 2"):
        fewbits.emulate(module, ["first=w:mxfp4/g32@0"], [x.numpy()])
    with pytest.raises(UsageError, match="takes a PyTorch module"):
        fewbits.emulate(b"", ["*=w:mxfp4/g32@0"], [x.numpy()])
    with pytest.raises(PlanError, match=r"the plan has 0 in .*make it dynamic"):
        fewbits.emulate(module, ["0=w:ternary/tensor a:ternary/tensor"], [x.numpy()])
    assert fewbits.emulate(module, ["*=fp32"], [x.numpy()])(x).equal(module(x))


def test_a_plan_says_that_it_only_emulates() -> None:
    assert "only emulates its rounding" in elsewhere(Plan("", {}, {}, target=TORCH_EMULATED))
