"""Operators `fewbits::tf32_linear`, `tf32_matmul` and `tf32_conv`: float32 on tensor cores, for one call at a time.

PyTorch has no argument for it, only switches of the process. So each call sets the switch, launches, and puts back what
was there, under a lock that all of them share; only the launch needs it, the GPU computes later. As operators they do
so in compiled graphs, too, where the compiler would read the switch once, when it compiles. A product that another
thread launches by itself within those microseconds may run in tf32; nothing else of the process sees a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Final

import torch
from torch.nn import functional

from fewbits.models.torch_ops.operators import define

_TF32: Final = "tf32"
_SWITCH: Final = Lock()


@contextmanager
def tf32() -> Iterator[None]:
    """Products and convolutions that are launched inside run in tf32; what was set before comes back."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    with _SWITCH:
        before = matmul.fp32_precision, conv.fp32_precision
        matmul.fp32_precision = conv.fp32_precision = _TF32
        try:
            yield
        finally:
            matmul.fp32_precision, conv.fp32_precision = before


def _switched(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def launch(*operands: object) -> torch.Tensor:
        with tf32():
            return function(*operands)

    return launch


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return functional.linear(x, weight, bias).contiguous()


def _matmul(x: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.matmul(x, second).contiguous()


def _conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(stride)]
    return convolve(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups).contiguous()


define("tf32_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _linear, cuda=_switched(_linear))
define("tf32_matmul(Tensor x, Tensor second) -> Tensor", _matmul, cuda=_switched(_matmul))
define(
    "tf32_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) "
    "-> Tensor",
    _conv,
    cuda=_switched(_conv),
)

tf32_linear = torch.ops.fewbits.tf32_linear.default
tf32_matmul = torch.ops.fewbits.tf32_matmul.default
tf32_conv = torch.ops.fewbits.tf32_conv.default
