"""A stored module is read as it was written, calls that read no tensor among it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fewbits.formats.scheme import BF16
from fewbits.models.pytorch.converted import artifact, opened
from fewbits.models.pytorch.model import TorchModel
from torch_nets import plan_of


class Made(nn.Module):
    """Tensors of sizes that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = x.shape[0]
        start = torch.zeros(count, 4) + torch.arange(count)[:, None]
        found: torch.Tensor = self.linear(x + start) + torch.full((count, 1), 0.5)
        return found


def test_tensors_that_are_made_of_sizes_alone_are_made_again() -> None:
    x, longer = torch.randn(3, 4), torch.randn(6, 4)
    module = Made()
    model = TorchModel.of(module, {"x": x})
    for converted in (opened(model.original().content), model.module(plan_of(model, BF16))):
        for again in (opened(artifact(converted).content), opened(artifact(copy.deepcopy(converted)).content)):
            assert again.labels == converted.labels
            assert len(again.graph.nodes) == len(converted.graph.nodes)
            for one in (x, longer):
                assert torch.equal(again(one), converted(one))
    assert torch.equal(opened(model.original().content)(longer), module(longer))
