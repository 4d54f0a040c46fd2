"""Copies that change nothing are left out of a module's graph; those that keep something apart stay."""

from __future__ import annotations

import torch
from torch import nn

from fewbits.grouping import group
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Plan
from fewbits.rescaling import junctions


def copies(model: TorchModel) -> int:
    return sum(node.op == "clone" for node in model.graph.nodes)


def test_dropout_between_two_layers_is_no_call() -> None:
    """So channels between them can be scaled."""
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2), nn.Dropout(0.5))
    model = TorchModel.of(module, {"input": torch.randn(3, 4)})
    # What is given back may be a copy that the user asked for.
    assert copies(model) <= 1
    assert len(junctions(model.graph, group(model.graph))) == 1


class Copies(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inner = torch.relu(x).clone()
        spread = y.expand(3, 4).clone().view(12)
        return x.clone(), (inner + 1).clone(), inner * 2, spread + 1


def test_copies_of_inputs_of_views_and_of_what_is_given_back_stay() -> None:
    module, x, y = Copies(), torch.randn(3, 4), torch.randn(1, 4)
    model = TorchModel.of(module, {"x": x, "y": y})
    assert copies(model) == 3
    found, expected = model.module(Plan(model.sha256, {}, {}))(x, y), module(x, y)
    assert isinstance(found, tuple)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert found[0].data_ptr() != x.data_ptr()
