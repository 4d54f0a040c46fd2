"""What a menu offers of PyTorch modules has a kernel: what has none is refused without being asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewbits.formats.scheme import BF16, FP16, TF32, Scheme
from fewbits.graph import Kind
from fewbits.grouping import JOINTS, Group, group
from fewbits.models.pytorch.anchors import convolution, sort_of, weight_and_bias
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.operation import Call, Sort
from fewbits.models.torch_ops.writing import choose
from fewbits.targets.pytorch import Torch

X = torch.randn(2, 4, 8, 32)
SHAPE = (4, 32, 32)


class Products(nn.Module):
    """Every sort of product, each with the forms that kernels of codes are known to lack."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lopsided = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 4, (2, 3), padding="same")
        self.back = nn.ConvTranspose2d(4, 4, 3)
        self.linear, self.table = nn.Linear(32, 32), nn.Embedding(16, 32)
        self.matrix, self.batch, self.left = (nn.Parameter(torch.randn(shape)) for shape in ((32, 32), SHAPE, (8, 8)))

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> list[torch.Tensor]:
        flat = x.reshape(-1, 32)
        return [
            self.conv(x),
            self.lopsided(x),
            self.back(x),
            self.linear(x),
            self.table(rows),
            x @ self.matrix,
            x @ self.batch,
            self.left @ x,
            x @ x.transpose(2, 3),
            torch.addmm(self.linear.bias, flat, self.matrix),
            torch.addmm(self.linear.bias, flat, self.matrix, alpha=0.5),
            nn.functional.scaled_dot_product_attention(x, x, x),
        ]


@pytest.fixture(scope="module")
def model() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel.of(Products().eval(), {"x": X, "rows": torch.arange(6)})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_offered_has_a_kernel(model: TorchModel, device: str) -> None:
    target = Torch(1, device=device)
    products = [made for made in group(model.graph) if made.kind not in JOINTS]
    assert len(products) == 12
    for made in products:
        offered = target.menu(model.graph, made).schemes[1:]
        assert {BF16, FP16} <= {*offered}
        for scheme in offered:
            # Other casts are the framework's own calls.
            if not scheme.is_cast or scheme == TF32:
                found = choose(called(model, made, scheme, device))
                assert isinstance(found, type), (made.name, str(scheme), found)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_of_two_activations_are_refused_codes(model: TorchModel, device: str) -> None:
    made = next(one for one in group(model.graph) if one.kind is Kind.MATMUL and len(one.operands) == 2)
    menu = Torch(1, device=device).menu(model.graph, made)
    assert all(scheme.is_fp32 or scheme.is_cast for scheme in menu.schemes)
    coded = [refusal for refusal in menu.refusals if not refusal.scheme.is_cast]
    assert coded and all("no kernel of codes" in refusal.reason for refusal in coded)


def called(model: TorchModel, made: Group, scheme: Scheme, device: str) -> Call:
    """What a module for `made` is asked for."""
    node = model.described.calls[made.name]
    weight, _ = weight_and_bias(model.program, node, made)
    shape = () if weight is None else tuple(weight.shape)
    sort = sort_of(made, weight)
    conv = convolution(node, shape) if sort is Sort.CONVOLUTION else None
    return Call(sort, scheme, shape, device, conv)
