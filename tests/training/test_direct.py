"""Layers that ask the lists themselves give what the mode that looks up every operation gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fewbits import training
from fewbits.training import direct
from fewbits.training.policy import RULES

SHAPES = {1: (4, 8, 16), 2: (4, 8, 6, 6), 3: (4, 8, 4, 4, 4)}
ARGUMENTS: dict[type[nn.Module], tuple[Any, ...]] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), (8,)),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), (2,)),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), (2,)),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), (8, 8, 3)),
    nn.Embedding: (10, 4),
    nn.Linear: (6, 5),
    nn.LayerNorm: (6,),
    nn.GroupNorm: (2, 8),
}


class Seen(TorchFunctionMode):
    """Notes what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Callable[..., Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Gain(nn.Module):
    """Something to train, whatever stands before."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


def layer(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind(*ARGUMENTS.get(kind, ()))


def given(kind: type[nn.Module]) -> torch.Tensor:
    if kind is nn.Embedding:
        return torch.arange(8).reshape(2, 4)
    last = kind.__name__[-2:]
    return torch.randn(SHAPES[int(last[0]) if last in ("1d", "2d", "3d") else 2])


@pytest.mark.parametrize("kind", direct.QUIET)
def test_quiet_layers_call_nothing_that_the_lists_know(kind: type[nn.Module]) -> None:
    for training_mode in (True, False):
        with Seen() as seen:
            layer(kind).train(training_mode)(given(kind))
        assert not [function for function in seen.functions if function in RULES]


@pytest.mark.parametrize("recipe", ["amp_bf16", "amp_fp16", "bf16_pure"])
@pytest.mark.parametrize("kind", [*direct.QUIET, *direct.ONE])
def test_results_and_gradients_are_those_of_the_mode(kind: type[nn.Module], recipe: str) -> None:
    """Under another mode, which must see every operation, layers take the long way."""
    found = []
    for watched in (False, True):
        model = nn.Sequential(layer(kind), nn.Tanh(), Gain())
        low = training.lower(model, training.recipe(recipe))
        assert isinstance(low[0], direct.Direct) and isinstance(low[0], kind)
        torch.manual_seed(1)
        x = given(kind)
        if x.is_floating_point():
            x.requires_grad_()
        if watched:
            with Seen() as seen:
                out = low(x)
            assert torch.tanh in seen.functions
        else:
            out = low(x)
        if out.requires_grad:
            out.float().square().sum().backward()
        found.append([out, x.grad, *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or (one.dtype is other.dtype and torch.equal(one, other))


def test_a_layer_that_is_called_by_itself_stays_in_float() -> None:
    low = training.lower(nn.Sequential(nn.Linear(4, 4)), training.recipe("amp_bf16"))
    x = torch.randn(3, 4)
    assert torch.equal(low[0](x), nn.functional.linear(x, low[0].weight, low[0].bias))


def test_subclasses_and_padding_of_another_kind_go_the_long_way() -> None:
    class Own(nn.Linear):
        pass

    assert not direct.takes(Own(2, 2))
    assert not direct.takes(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
