"""PyTorch modules of the kinds that users have, small."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fewbits.eligibility import module_obstacle
from fewbits.formats.scheme import Scheme
from fewbits.grouping import group
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan


class Residual(nn.Module):
    """Convolutions with batch norms, an addition in place, a pooled classifier."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(channels)
        self.active = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(channels, 10)
        with torch.no_grad():
            for norm in (self.stem_norm, self.inner_norm):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.active(self.stem_norm(self.stem(x)))
        y = self.inner_norm(self.inner(x))
        y += x
        return self.classifier(self.active(y).mean((2, 3)))


class Sums(nn.Module):
    """Sums behind convolutions: read by convolutions, by the next sum, too, and the last one by a mean. With `short`
    blocks of one convolution the one that reads a sum takes the next one along."""

    def __init__(self, *, short: bool = False) -> None:
        super().__init__()
        self.short = short
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
        self.second = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(3)])
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for first, second in zip(self.first, self.second, strict=True):
            y = first(x)
            x = torch.relu(x + (y if self.short else self.norm(second(torch.relu(y)))))
        return x.mean((2, 3))


class Mobile(nn.Module):
    """Inverted residual blocks with depthwise convolutions, ReLU6 and squeeze-and-excite, as in MobileNets."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        wide = 4 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.Hardswish()
        )
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, wide, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        return self.classifier(x + self.project(y * self.squeeze(y)))


def with_own_weights(module: nn.Module) -> nn.Module:
    """`module` without two layers that are alike: a stack begins as copies of one layer."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def encoder(layers: int = 12, width: int = 16) -> nn.Module:
    """A stack of torch's own encoder layers."""
    layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def plan_of(model: TorchModel, scheme: Scheme, without: Mapping[str, str] | None = None) -> Plan:
    """Every group of `model` that can have `scheme` in it, but those of `without`."""
    chosen = {
        made.name: Choice(str(scheme), "all")
        for made in group(model.graph)
        if made.name not in (without or {}) and not module_obstacle(model.graph, made, scheme)
    }
    return Plan(model.sha256, chosen, {})
