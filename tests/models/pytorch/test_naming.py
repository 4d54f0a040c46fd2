"""Names of groups: the paths of modules, the same at every export, for every number of samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fewbits.grouping import group
from fewbits.models.pytorch.model import TorchModel
from torch_nets import Residual, encoder


class Block(nn.Module):
    """Layers in a list and in a dict, functions on weights and on activations, one layer called twice."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2))
        self.named = nn.ModuleDict({"last": nn.Linear(width, width)})
        self.again = nn.Linear(width, width)
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        x = self.again(self.again(x))
        x = functional.linear(x, self.matrix) + functional.linear(x, self.named["last"].weight)
        return torch.cat([torch.matmul(x, x.T) @ x, x * x], -1)


def names(module: nn.Module, example: dict[str, torch.Tensor]) -> list[str]:
    return [made.name for made in group(TorchModel.of(module, example).graph)]


def test_names_are_paths_and_functions_are_numbered_within_theirs() -> None:
    module = nn.Sequential(Block(), nn.ModuleDict({"deep": nn.Linear(16, 4)})["deep"])
    assert names(module, {"input": torch.randn(3, 8)}) == [
        "0.parts.0.0",
        "0.parts.1.0",
        "0.again",
        "0.again.linear_1",
        "0.linear",
        "0.named.last",
        "0.add",
        "0.matmul",
        "0.matmul_1",
        "0.mul",
        "0.cat",
        "1",
    ]


def test_attention_of_torch_has_the_names_of_its_weights() -> None:
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert names(module, {"src": torch.randn(3, 5, 8)}) == [
        "self_attn.in_proj",
        "self_attn.scaled_dot_product_attention",
        "self_attn.out_proj",
        "add",
        "linear1",
        "linear2",
        "add_1",
    ]


def test_shared_modules_have_the_name_of_each_place() -> None:
    layer = nn.Linear(8, 8)
    assert names(nn.Sequential(layer, nn.Tanh(), layer), {"input": torch.randn(3, 8)}) == ["0", "2"]


@pytest.mark.parametrize("module", [Block(), Residual(), encoder(2)], ids=["functions", "residual", "encoder"])
def test_names_depend_on_nothing_but_the_module(module: nn.Module) -> None:
    argument, shape = {Block: ("x", (8,)), Residual: ("x", (3, 8, 8))}.get(type(module), ("src", (5, 16)))
    found = [names(module, {argument: torch.randn(samples, *shape)}) for samples in (3, 3, 1, 6)]
    assert all(one == found[0] for one in found)
    assert len(set(found[0])) == len(found[0])


def test_a_call_may_have_the_name_of_an_input_or_an_output() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            inner = self.out(self.x(x))
            return {"out": inner + x, "x": inner * x, "inner": inner}

    module, x = Clash(), torch.randn(3, 8)
    model = TorchModel.of(module, {"x": x})
    assert [made.name for made in group(model.graph)] == ["x", "out", "add", "mul"]
    assert [tensor.name for tensor in model.outputs] == ["out", "x", "inner"]
    assert len(model.graph.tensors) == len(model.described.values)
    assert model.graph.inputs == ("x",) and not set(model.graph.inputs) & set(model.graph.outputs)
