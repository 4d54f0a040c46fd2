"""How image files become a model's input."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Layout(StrEnum):
    """Where the channels of an image are."""

    NCHW = "nchw"
    NHWC = "nhwc"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """`size` is (height, width), taken from the model where it fixes them.

    A float input gets ``(pixel / 255 - mean) / std`` with one mean and std per channel (or one for all);
    an integer input gets the raw pixels, and then `mean` and `std` must be left as they are.
    `layout` is read off the model's shape unless given.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout | None = None
