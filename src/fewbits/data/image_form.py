"""The form in which a model wants images, from its input's shape and the user's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.data.image_options import ImageOptions, Layout
from fewbits.errors import DataError
from fewbits.graph import Tensor

_CHANNELS = {Layout.NCHW: 1, Layout.NHWC: 3}
_SIDES = {Layout.NCHW: (2, 3), Layout.NHWC: (1, 2)}


@dataclass(frozen=True)
class ImageForm:
    """One image as the model reads it: `height` x `width` pixels of `channels` (1 or 3), scaled, laid out."""

    name: str
    dtype: str
    height: int
    width: int
    channels: int
    layout: Layout
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def raw(self) -> bool:
        """Whether the model reads raw pixels from 0 to 255."""
        return np.dtype(self.dtype).kind != "f"

    def arrange(self, pixels: NDArray[np.uint8]) -> Array:
        """`pixels` (height, width, channels) scaled and laid out, without the sample axis."""
        values: Array = pixels
        if not self.raw:
            scaled = pixels.astype(np.float32) / np.float32(255)
            values = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.layout is Layout.NCHW:
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values, dtype=self.dtype)


def image_form(inputs: Sequence[Tensor], options: ImageOptions) -> ImageForm:
    """What images must become for a model with these inputs.

    Raises:
        DataError: several inputs, not an image input, or options that contradict the model.
    """
    if len(inputs) != 1:
        names = ", ".join(repr(tensor.name) for tensor in inputs)
        raise DataError(f"a folder of images serves a model with one input; this one reads {names}. Give an .npz file")
    tensor = inputs[0]
    shape = tensor.shape
    if shape is None or len(shape) != 4 or tensor.dtype not in _PIXEL_TYPES:
        raise DataError(
            f"input {tensor.name!r} with shape {shape} and type {tensor.dtype} is not an image "
            "(samples, channels, height, width) or (samples, height, width, channels). Give an .npz file"
        )
    layout = options.layout or _layout(tensor, shape)
    channels = _channels(tensor, shape, layout)
    height, width = _size(tensor, shape, layout, options)
    _check_scaling(tensor, channels, options)
    return ImageForm(tensor.name, tensor.dtype, height, width, channels, layout, options.mean, options.std)


_PIXEL_TYPES = frozenset({"float16", "float32", "float64", "uint8", "int16", "int32", "int64", "uint16", "uint32"})


def _layout(tensor: Tensor, shape: tuple[int | str, ...]) -> Layout:
    for layout, axis in _CHANNELS.items():
        if shape[axis] in (1, 3):
            return layout
    raise DataError(
        f"the channels of input {tensor.name!r} cannot be told from its shape {shape}: neither axis 1 nor axis 3 is "
        "1 or 3. Say ImageOptions(layout=Layout.NCHW) or NHWC"
    )


def _channels(tensor: Tensor, shape: tuple[int | str, ...], layout: Layout) -> int:
    channels = shape[_CHANNELS[layout]]
    if isinstance(channels, str):
        return 3
    if channels not in (1, 3):
        raise DataError(
            f"input {tensor.name!r} has {channels} channels ({layout}, shape {shape}); images have 1 (grey) or 3 (RGB)"
        )
    return channels


def _size(tensor: Tensor, shape: tuple[int | str, ...], layout: Layout, options: ImageOptions) -> tuple[int, int]:
    fixed = [shape[axis] for axis in _SIDES[layout]]
    if options.size is None:
        if any(isinstance(side, str) for side in fixed):
            raise DataError(
                f"input {tensor.name!r} with shape {shape} leaves the image size open; "
                "give --image-size, in Python ImageOptions(size=(height, width))"
            )
        return int(fixed[0]), int(fixed[1])
    if min(options.size) < 1:
        raise DataError(f"the image size must be at least 1 pixel, not {options.size}")
    for side, wanted in zip(fixed, options.size, strict=True):
        if isinstance(side, int) and side != wanted:
            raise DataError(f"image size {options.size} does not fit input {tensor.name!r} with shape {shape}")
    return options.size


def _check_scaling(tensor: Tensor, channels: int, options: ImageOptions) -> None:
    for what, values in (("mean", options.mean), ("std", options.std)):
        if len(values) not in (1, channels):
            raise DataError(f"{what} has {len(values)} values; input {tensor.name!r} has {channels} channels")
        if not all(isfinite(value) for value in values):
            raise DataError(f"{what} must be finite, not {values}")
    if min(options.std) <= 0:
        raise DataError(f"std must be above 0, not {options.std}")
    scaled = any(options.mean) or any(value != 1 for value in options.std)
    if scaled and np.dtype(tensor.dtype).kind != "f":
        raise DataError(f"input {tensor.name!r} is {tensor.dtype} and reads raw pixels; leave mean and std away")
