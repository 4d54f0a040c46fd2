"""Calls, weights and inputs for tests of `fewbits.models.torch_ops`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewbits.formats.scheme import Scheme
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.models.torch_ops.operation import Call, Convolution, Sort
from fewbits.models.torch_ops.writing import write

RANGE = (-4.0, 4.0)
STATIC = "w:int8r/channel a:uint8/tensor"
SYMMETRIC = "w:int8r/channel a:int8r/tensor"
DYNAMIC = f"{STATIC} dynamic"

LINEAR_WAYS = {
    "int8 static": STATIC,
    "int8 symmetric": SYMMETRIC,
    "int8 per tensor": "w:int8r/tensor a:uint8/tensor",
    "int8 dynamic": DYNAMIC,
    "int8 symmetric dynamic": f"{SYMMETRIC} dynamic",
    "int8 per token": "w:int8r/channel a:int8r/token dynamic",
    "int8 per token, shifted": "w:int8r/channel a:uint8/token dynamic",
    "fp8 static": "w:fp8_e4m3/tensor a:fp8_e4m3/tensor",
    "fp8 dynamic": "w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic",
    "fp8 row-wise": "w:fp8_e4m3/channel a:fp8_e4m3/token dynamic",
    "weight int8": "w:int8r/channel",
    "weight int4, groups of 32": "w:int4r/g32@0",
    "weight int4, groups of 64": "w:int4r/g64@0",
    "weight int4 shifted, groups of 128": "w:uint4/g128@0",
    "bf16": "bf16",
    "fp16": "fp16",
}
"""Name → scheme that a linear layer has a kernel for on the CPU."""

ROUNDING = {"bf16": 2.0**-7, "fp16": 2.0**-10}
"""Largest difference from products in float32, over the largest result, of what gives small floats."""
EXACT = 1e-6


@dataclass(frozen=True)
class Layer:
    """A call in float, with an input."""

    call: Call
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    inputs: tuple[torch.Tensor, ...]

    def written(self, *, emulate: bool = False) -> LowPrecision:
        return write(self.call, self.weight, self.bias, [RANGE, RANGE], emulate=emulate)


def linear(
    scheme: str, depth: int = 70, columns: int = 45, shape: tuple[int, ...] = (6,), *, bias: bool = True, seed: int = 0
) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(columns, depth, generator=generator) / depth**0.5
    offset = torch.randn(columns, generator=generator) if bias else None
    call = Call(Sort.LINEAR, Scheme.parse(scheme), (columns, depth))
    return Layer(call, weight, offset, (drawn(*shape, depth, generator=generator),))


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Convolution]] = {
    "2 axes": ((16, 8, 3, 3), (2, 8, 9, 9), Convolution.of((3, 3), padding=1)),
    "odd channels, stride": ((7, 5, 3, 3), (2, 5, 10, 9), Convolution.of((3, 3), stride=2, padding=(1, 0))),
    "groups": ((8, 2, 3, 3), (2, 8, 9, 9), Convolution.of((3, 3), padding="same", groups=4)),
    "depthwise": ((6, 1, 3, 3), (2, 6, 9, 9), Convolution.of((3, 3), padding=1, groups=6)),
    "dilation": ((4, 3, 3, 3), (1, 3, 12, 12), Convolution.of((3, 3), padding=2, dilation=2)),
    "1 axis": ((5, 6, 3), (2, 6, 15), Convolution.of((3,), stride=2, padding=1)),
    "3 axes": ((4, 3, 2, 2, 2), (1, 3, 5, 5, 5), Convolution.of((2, 2, 2))),
    "empty batch": ((4, 3, 3, 3), (0, 3, 8, 8), Convolution.of((3, 3))),
    "1 x 1": ((9, 5, 1, 1), (2, 5, 4, 4), Convolution.of((1, 1))),
}
"""Name → shape of the weight, shape of the input, attributes."""


def convolution(scheme: str, name: str = "2 axes") -> Layer:
    shape, given, conv = CONVOLUTIONS[name]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) / 5
    bias = torch.randn(shape[0], generator=generator)
    call = Call(Sort.CONVOLUTION, Scheme.parse(scheme), shape, convolution=conv)
    return Layer(call, weight, bias, (drawn(*given, generator=generator),))


def matmul(scheme: str) -> Layer:
    generator = torch.Generator().manual_seed(0)
    first, second = (drawn(2, 3, *shape, generator=generator) for shape in ((5, 7), (7, 4)))
    return Layer(Call(Sort.MATMUL, Scheme.parse(scheme)), None, None, (first, second))


def embedding(scheme: str, width: int = 7) -> Layer:
    generator = torch.Generator().manual_seed(0)
    call = Call(Sort.EMBEDDING, Scheme.parse(scheme), (11, width))
    rows = torch.randint(0, 11, (3, 4), generator=generator)
    return Layer(call, torch.randn(11, width, generator=generator), None, (rows,))


def drawn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Values inside of `RANGE`."""
    return torch.randn(shape, generator=generator).clamp(*RANGE)


def away(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, over the largest value."""
    assert found.shape == wanted.shape
    if not found.numel():
        return 0.0
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())
