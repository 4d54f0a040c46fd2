"""Printed characters, turned and noisy, 32 x 32: a network like MobileNetV2 (Sandler et al. 2018) with ReLU6.

The batch norms before depthwise convolutions begin with gains from 1/6 to 2, each its own: large networks end up with
channels of such different size after long trainings, which is what makes them hard to quantise (Krishnamoorthi 2018,
section 3); a short one keeps what it began with.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from se_depthwise import CLASSES, characters, noisy
from training import Batch, Labelled, Trained, fit, shuffled

TRAINING, EVALUATION, CALIBRATION, HELD_OUT = 24000, 3000, 384, 128
STEPS, BATCH = 1000, 96
SEED = 5
GAINS = (-2.5, 1.0)
# expansion, output channels, repeats, first stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 3, 2), (6, 96, 2, 1))
STEM, LAST = 24, 384


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch norm."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]


class Inverted(nn.Module):
    """Expand, depthwise convolution, project; added to the input where shapes allow."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.added = stride == 1 and channels_in == channels_out
        expanding = [*conv(channels_in, wide, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expanding, *conv(wide, wide, 3, stride, wide), nn.ReLU6(), *conv(wide, channels_out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, output channels, height / stride, width / stride)."""
        found: Tensor = self.layers(x)
        return x + found if self.added else found


class DepthwiseGlyphs(nn.Module):
    """The network: stem, stages, a wide layer, the mean, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*conv(1, STEM, 3), nn.ReLU6()]
        channels = STEM
        for expansion, channels_out, repeats, stride in STAGES:
            for number in range(repeats):
                layers.append(Inverted(channels, channels_out, expansion, stride if number == 0 else 1))
                channels = channels_out
        layers += [*conv(channels, LAST, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(LAST, len(CLASSES)))
        spread_gains(self)

    def forward(self, image: Tensor) -> Tensor:
        """Images (batch, 1, 32, 32) to logits (batch, classes)."""
        logits: Tensor = self.layers(image)
        return logits


def spread_gains(module: nn.Module) -> None:
    """Give every batch norm before a depthwise convolution gains of its own for each channel."""
    rng = np.random.default_rng(SEED)
    for block in module.modules():
        if isinstance(block, Inverted) and len(block.layers) > 5:
            norm = block.layers[1]
            assert isinstance(norm, nn.BatchNorm2d)
            gains = 2.0 ** rng.uniform(*GAINS, norm.num_features)
            norm.weight.data.copy_(torch.from_numpy(gains.astype(np.float32)))


def halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(count, 64, 64) to (count, 32, 32), by means of four."""
    count, height, width = images.shape
    parts = images.reshape(count, height // 2, 2, width // 2, 2)
    return parts.mean(axis=(2, 4)).astype(np.uint8)


def build() -> Trained:
    """Train it."""
    rng = np.random.default_rng(SEED)
    images, labels = characters(TRAINING, rng)
    clean = shuffled(Labelled({"image": halved(images)}, labels), BATCH, rng)

    def batch() -> Batch:
        (some,), classes = clean()
        image = torch.from_numpy(noisy(some.numpy(), rng)).contiguous(memory_format=torch.channels_last)
        return (image,), classes

    module = DepthwiseGlyphs().to(memory_format=torch.channels_last)
    fit(module, batch, steps=STEPS, rate=4e-3, tiles=False)
    module.to(memory_format=torch.contiguous_format)
    images, labels = characters(EVALUATION + CALIBRATION + HELD_OUT, rng)
    rest = Labelled({"image": noisy(halved(images), rng)}, labels)
    middle = EVALUATION + CALIBRATION
    return Trained(module, rest.part(0, EVALUATION), rest.part(EVALUATION, middle), rest.part(middle, len(rest)))
