"""Printed characters, turned and noisy: a network like MobileNetV3 (Howard et al. 2019) for gray images of 64 x 64.

Depthwise-separable blocks with squeeze-and-excite and HardSwish. The 47 classes are those of EMNIST Balanced
(Cohen et al. 2017): digits and letters, small letters joined with the capital that they look like. The fonts are the
ones that matplotlib brings along.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from training import Batch, Labelled, Trained, fit, shuffled

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmtt10",
)
SIZE = 64
POINTS = (22, 28, 34, 40)
TURN = 30.0
NOISE = (0.1, 0.5)
TRAINING, EVALUATION, CALIBRATION, HELD_OUT = 24000, 3000, 384, 128
STEPS, BATCH = 800, 96
SEED = 2
# kernel, expanded channels, output channels, squeeze-and-excite, HardSwish, stride
BLOCKS = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 1),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 64, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 480, 96, True, True, 1),
    (5, 480, 96, True, True, 1),
)
STEM, LAST, WIDE = 16, 480, 512


def conv(channels_in: int, channels_out: int, kernel: int, stride: int, groups: int, act: nn.Module) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        act,
    )


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in [0, 1] that all channels' means decide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 4
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), the shape kept."""
        scaled: Tensor = x * self.gate(x)
        return scaled


class Block(nn.Module):
    """Expand, depthwise convolution, squeeze-and-excite, project; added to the input where shapes allow."""

    def __init__(
        self, channels_in: int, kernel: int, expanded: int, channels_out: int, gated: bool, hard: bool, stride: int
    ) -> None:
        super().__init__()
        self.added = stride == 1 and channels_in == channels_out
        act = nn.Hardswish() if hard else nn.ReLU()
        self.layers = nn.Sequential(
            conv(channels_in, expanded, 1, 1, 1, act),
            conv(expanded, expanded, kernel, stride, expanded, act),
            SqueezeExcite(expanded) if gated else nn.Identity(),
            conv(expanded, channels_out, 1, 1, 1, nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, output channels, height / stride, width / stride)."""
        found: Tensor = self.layers(x)
        return x + found if self.added else found


class SeDepthwise(nn.Module):
    """The network: stem, blocks, pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(1, STEM, 3, 2, 1, nn.Hardswish())]
        channels = STEM
        for kernel, expanded, channels_out, gated, hard, stride in BLOCKS:
            layers.append(Block(channels, kernel, expanded, channels_out, gated, hard, stride))
            channels = channels_out
        layers += [conv(channels, LAST, 1, 1, 1, nn.Hardswish()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Linear(LAST, WIDE), nn.Hardswish(), nn.Linear(WIDE, len(CLASSES))]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Images (batch, 1, 64, 64) to logits (batch, classes)."""
        logits: Tensor = self.layers(image)
        return logits


def fonts() -> list[ImageFont.FreeTypeFont]:
    """Every font in every size."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [ImageFont.truetype(folder / f"{name}.ttf", points) for name in FONTS for points in POINTS]


def draw(character: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`character`, turned by at most 30 degrees about a point near the middle, shape (64, 64)."""
    image = Image.new("L", (SIZE, SIZE))
    middle = tuple(SIZE / 2 + rng.uniform(-5, 5, 2))
    ImageDraw.Draw(image).text(middle, character, fill=255, font=font, anchor="mm")
    turned = image.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR, center=middle)
    return np.asarray(turned)


def characters(count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Clean images (count, 64, 64) and their classes."""
    faces = fonts()
    labels = rng.integers(len(CLASSES), size=count)
    images = [draw(CLASSES[label], faces[rng.integers(len(faces))], rng) for label in labels]
    return np.stack(images), labels


def noisy(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Images (n, 1, 64, 64) of mean about 0: each with its own contrast, brightness and amount of noise."""
    count = len(images)
    clean = images[:, None].astype(np.float32) / 255
    contrast, brightness, noise = (
        rng.uniform(*limits, (count, 1, 1, 1)).astype(np.float32) for limits in ((0.7, 1.5), (-0.3, 0.1), NOISE)
    )
    return clean * contrast + brightness + noise * rng.standard_normal(clean.shape, np.float32)


def build() -> Trained:
    """Train it."""
    rng = np.random.default_rng(SEED)
    images, labels = characters(TRAINING, rng)
    clean = shuffled(Labelled({"image": images}, labels), BATCH, rng)

    def batch() -> Batch:
        (some,), classes = clean()
        image = torch.from_numpy(noisy(some.numpy(), rng)).contiguous(memory_format=torch.channels_last)
        return (image,), classes

    module = SeDepthwise().to(memory_format=torch.channels_last)
    fit(module, batch, steps=STEPS, rate=4e-3, tiles=False)
    module.to(memory_format=torch.contiguous_format)
    images, labels = characters(EVALUATION + CALIBRATION + HELD_OUT, rng)
    rest = Labelled({"image": noisy(images, rng)}, labels)
    middle = EVALUATION + CALIBRATION
    return Trained(module, rest.part(0, EVALUATION), rest.part(EVALUATION, middle), rest.part(middle, len(rest)))
