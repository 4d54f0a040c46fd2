"""A layer as a weight and a bias, and its weight and inputs as matrices: linear layers and convolutions alike.

In the form of matrices a weight has shape (groups, outputs, features), its inputs have (groups, samples, features), and
the product of the two is the layer without its bias. A linear layer is one group whose features are its inputs; a
convolution has ``inputs / groups * kernel`` features; a depthwise convolution has a group for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fewbits.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A linear layer or a convolution: `weight` (outputs, inputs / groups, *kernel), `bias` (outputs,).

    A layer without a bias has one of zeros. Raises DataError if the shapes do not go together.
    """

    weight: Array
    bias: Array
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim < 2 or self.bias.shape != self.weight.shape[:1]:
            raise DataError(
                "a layer has a weight of shape (outputs, inputs, ...) and a bias of shape (outputs,), not of "
                f"{self.weight.shape} and {self.bias.shape}"
            )
        as_matrices(self.weight, self.groups)

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def by_input(self) -> Array:
        """The weight as (groups, outputs / groups, inputs / groups, kernel): a view where memory allows it."""
        return self.weight.reshape(self.groups, self.outputs // self.groups, self.weight.shape[1], -1)


def as_matrices(weight: Array, groups: int = 1) -> Array:
    """`weight` (outputs, inputs / groups, *kernel) as (groups, outputs / groups, features). Raises DataError."""
    outputs = weight.shape[0]
    if groups < 1 or outputs % groups:
        raise DataError(f"{outputs} output channels cannot be parted into {groups} groups; they must divide evenly")
    return weight.reshape(groups, outputs // groups, prod(weight.shape[1:]))


def linear_inputs(x: Array) -> Array:
    """The inputs (..., features) of a linear layer as (1, samples, features)."""
    return x.reshape(1, -1, x.shape[-1])


def patches(
    x: Array,
    kernel: Sequence[int],
    *,
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    groups: int = 1,
) -> Array:
    """The inputs (batch, channels, *space) of a convolution as (groups, samples, features): one sample per place.

    `kernel` and the rest are written as in ONNX: `pads` begins and then ends, of zeros; what is left out is 1, and no
    padding. Raises DataError if the channels cannot be parted, or the kernel is larger than what it goes over.
    """
    space = x.ndim - 2
    strides, dilations, pads = strides or (1,) * space, dilations or (1,) * space, pads or (0,) * (2 * space)
    if not len(kernel) == len(strides) == len(dilations) == len(pads) / 2 == space:
        raise DataError(
            f"a convolution over {space} axes takes that many sizes, strides and dilations, and twice as many pads"
        )
    batch, channels = x.shape[:2]
    if channels % groups:
        raise DataError(f"{channels} input channels cannot be parted into {groups} groups; they must divide evenly")
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:space], pads[space:], strict=True)])
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    if any(size < span for size, span in zip(padded.shape[2:], reach, strict=True)):
        raise DataError(f"a kernel that reaches over {reach} does not fit into padded inputs of {padded.shape[2:]}")
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, step) for step in (*strides, *dilations))
    windows = windows[(slice(None), slice(None), *steps)]
    places = windows.shape[2 : 2 + space]
    apart = windows.reshape(batch, groups, channels // groups, prod(places), prod(kernel))
    return np.ascontiguousarray(apart.transpose(1, 0, 3, 2, 4)).reshape(groups, batch * prod(places), -1)
