"""Tasks that the papers on low-precision training are replayed on: small enough for a laptop, hard enough to fail."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import mean

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from fewbits import training
from fewbits.errors import DivergenceError

HELD_OUT = 397
EVERY = 10
"""Steps per point of a curve."""


class Residual(nn.Module):
    """Two residual blocks of convolutions with batch norm behind a stem, as in ResNet, for 8x8 images."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.first = self.block(width, width)
        self.down = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)
        self.second = self.block(width, 2 * width, 2)
        self.head = nn.Linear(2 * width, 10)

    @staticmethod
    def block(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(ins, outs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outs),
            nn.ReLU(),
            nn.Conv2d(outs, outs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.first(x))
        x = functional.relu(self.down(x) + self.second(x))
        return self.head(x.mean((2, 3)))


class Deep(nn.Module):
    """Narrow linear layers without norms: errors shrink from layer to layer."""

    def __init__(self, layers: int = 8, width: int = 48, gain: float = 1.0) -> None:
        super().__init__()
        sizes = [64, *[width] * layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)
            with torch.no_grad():
                layer.weight.mul_(gain)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = functional.relu(layer(x))
        return self.head(x)


@dataclass(frozen=True)
class Run:
    """How a training ended: `accuracy` on held-out images, `loss` of the last epoch, steps that were skipped.

    `scales` are those of the layers, `scale` that of the loss; `squares` is the sum of the squares of the weights of
    products, which a penalty on them holds down. The curves are of training, a point for every ten steps.
    """

    accuracy: float
    loss: float
    skipped: int
    diverged: bool
    scales: tuple[float, ...] = ()
    scale: float = 1.0
    squares: float = 0.0
    loss_curve: tuple[float, ...] = ()
    scale_curve: tuple[float, ...] = ()


@lru_cache(1)
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and classes to train with, and to test with."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(found.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    y = torch.tensor(found.target)[order]
    return x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:]


def train(
    model: nn.Module,
    recipe: str | training.Recipe,
    *,
    seed: int = 0,
    epochs: int = 6,
    rate: float = 0.1,
    batch: int = 64,
    loss_factor: float = 1.0,
    penalty: float = 0.0,
) -> Run:
    """Train `model` on the digits by SGD with momentum; the rate falls linearly.

    `loss_factor` multiplies the loss and divides the rate: nothing changes but the range of the errors. `penalty` on
    the squares of the weights (L2 regularisation).
    """
    x, y, test_x, test_y = digits()
    per_epoch = len(x) // batch
    optimizer = torch.optim.SGD(model.parameters(), rate / loss_factor, 0.9, weight_decay=penalty * loss_factor)
    low, step = training.prepare(model, optimizer, recipe, seed=seed, planned=epochs * per_epoch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, epochs * per_epoch)
    random = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    scales: list[float] = []
    skipped, diverged = 0, False
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=random)
        for index in range(per_epoch):
            chosen = order[index * batch : (index + 1) * batch]
            loss = functional.cross_entropy(low(x[chosen]), y[chosen])
            losses.append(float(loss.detach()))
            scales.append(step.scale)
            try:
                status = step(loss * loss_factor)
            except DivergenceError:
                diverged = True
                break
            skipped += not status.stepped
            if status.stepped:
                schedule.step()
        if diverged:
            break
    low.eval()
    with torch.no_grad():
        accuracy = (low(test_x).argmax(1) == test_y).float().mean().item()
    last = sum(losses[-per_epoch:]) / per_epoch
    return Run(
        accuracy,
        last,
        skipped,
        diverged,
        tuple(step.layer_scales.values()),
        step.scale,
        sum(float(parameter.detach().square().sum()) for parameter in model.parameters() if parameter.ndim > 1),
        tuple(mean(losses[index : index + EVERY]) for index in range(0, len(losses), EVERY)),
        tuple(scales[::EVERY]),
    )


def seeded(kind: type[nn.Module], seed: int = 0, **options: float) -> nn.Module:
    """A net of that kind, the same for the same seed."""
    torch.manual_seed(seed)
    return kind(**options)
