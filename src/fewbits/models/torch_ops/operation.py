"""What a module takes the place of: one call of a graph, and the scheme that it is to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from fewbits.errors import ModelError
from fewbits.formats.scheme import Scheme

Shape = tuple[int, ...]
Range = tuple[float, float]
"""Least and largest real value of a tensor."""


class Sort(StrEnum):
    """Which call."""

    LINEAR = "linear"
    """``aten.linear``; the weight is (columns, depth)."""
    CONVOLUTION = "convolution"
    """``aten.conv1d``, ``conv2d``, ``conv3d``; the weight is (out, in / groups, *kernel)."""
    MATMUL = "matmul"
    """``aten.matmul`` of two activations. By a constant matrix it is a LINEAR of the transposed matrix."""
    EMBEDDING = "embedding"
    """``aten.embedding``; the weight is (rows, width)."""
    RECURRENT = "recurrent layer"
    """``aten.lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu``; the weight is the first matrix, (gates * hidden, inputs)."""


class Activation(StrEnum):
    """What may be fused behind a product."""

    NONE = "none"
    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    HARDSWISH = "hardswish"
    RELU6 = "relu6"


class Added(StrEnum):
    """What may be added to a product, before the activation: another tensor of the result's shape."""

    NOTHING = "nothing"
    FLOATS = "floats"
    CODES = "codes"
    """Unsigned codes of 8 bits with a range of their own; the result is codes, too."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """Attributes of a convolution, one number for each spatial axis. `end` is the padding behind, as large as
    `padding`, which is in front, unless the padding is asymmetric."""

    stride: Shape
    padding: Shape
    dilation: Shape
    end: Shape
    groups: int = 1

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Convolution:
        """As ``torch.nn.functional.conv2d`` takes them, for a kernel of the sizes `kernel`; `padding` may be ``same``
        or ``valid``. Raises ModelError if the numbers do not go with the kernel."""
        size = tuple(kernel)
        strides, dilations = _each(stride, size, "stride"), _each(dilation, size, "dilation")
        if padding == "same":
            total = tuple(step * (one - 1) for step, one in zip(dilations, size, strict=True))
            before = tuple(one // 2 for one in total)
            after = tuple(one - half for one, half in zip(total, before, strict=True))
        elif isinstance(padding, str):
            if padding != "valid":
                raise ModelError(f"the padding of a convolution is numbers, same or valid, not {padding!r}")
            before = after = (0,) * len(size)
        else:
            before = after = _each(padding, size, "padding")
        return cls(strides, before, dilations, after, groups)

    @property
    def is_symmetric(self) -> bool:
        """Whether as much is padded behind as in front."""
        return self.padding == self.end

    def output(self, shape: Shape, weight: Shape) -> Shape:
        """Shape of the result for an input of `shape` (batch, channels, *spatial)."""
        sizes = (
            (size + before + after - step * (kernel - 1) - 1) // stride + 1
            for size, before, after, step, kernel, stride in zip(
                shape[2:], self.padding, self.end, self.dilation, weight[2:], self.stride, strict=True
            )
        )
        return (shape[0], weight[0], *sizes)


@dataclass(frozen=True, slots=True)
class Call:
    """One call, and how it is to compute.

    `shape` is that of the weight, ``()`` for a MATMUL. `result` is the type of what the module gives; `torch.uint8`
    means codes, of the range that the module is given for its output. `activation` is fused behind, after another
    tensor of the result's shape is added if there is one.
    """

    sort: Sort
    scheme: Scheme
    shape: Shape = ()
    device: str = "cpu"
    convolution: Convolution | None = None
    result: torch.dtype = torch.float32
    activation: Activation = Activation.NONE
    added: Added = Added.NOTHING

    def __post_init__(self) -> None:
        if (self.convolution is None) == (self.sort is Sort.CONVOLUTION):
            raise ModelError("a convolution has attributes (Convolution.of), and nothing else has")
        axes = {Sort.LINEAR: 2, Sort.MATMUL: 0, Sort.EMBEDDING: 2, Sort.RECURRENT: 2}.get(self.sort)
        if axes is None and self.convolution is not None:
            axes = len(self.convolution.stride) + 2
        if len(self.shape) != axes:
            raise ModelError(f"the weight of a {self.sort} has {axes} axes, not shape {self.shape}")

    @property
    def adds(self) -> bool:
        """Whether another tensor is added."""
        return self.added is not Added.NOTHING

    @property
    def gives_codes(self) -> bool:
        """Whether the result is codes."""
        return self.result == torch.uint8

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.shape[0]


def _each(value: int | Sequence[int], size: Shape, what: str) -> Shape:
    numbers = (value,) if isinstance(value, int) else tuple(value)
    numbers = numbers * len(size) if len(numbers) == 1 else numbers
    if len(numbers) != len(size):
        raise ModelError(f"the {what} of a convolution over {len(size)} axes is {numbers}: one number for each axis")
    return numbers
