"""Small nets and data that several tests of training share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def convolutional() -> nn.Sequential:
    """Convolutions, batch norm, dropout and linear layers; inputs (batch, 1, 8, 8), ten classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(144, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def transformer() -> nn.Sequential:
    """A layer of attention and a head; inputs (batch, length, 16), ten classes per place."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(16, 16), layer, nn.Linear(16, 10))


def images(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and a class that can be learnt from it."""
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, x.flatten(1)[:, :10].argmax(1)


def losses(model: nn.Module, step: Callable[[torch.Tensor], object], steps: int, first: int = 0) -> list[float]:
    """The losses of a training on `images`, batch by batch from step `first` on."""
    x, y = images()
    found = []
    for index in range(first, steps):
        batch = slice(index % 4 * 16, index % 4 * 16 + 16)
        loss = nn.functional.cross_entropy(model(x[batch]).float(), y[batch])
        step(loss)
        found.append(float(loss.detach()))
    return found
