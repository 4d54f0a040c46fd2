"""tf32: operands rounded to 10 mantissa bits by the tensor core, products summed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch

from fewbits.errors import PlanError, SchemeError
from fewbits.formats.floating import TF32
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.torch_ops.tf32_ops import tf32_conv, tf32_linear, tf32_matmul


class Tf32(LowPrecision):
    """A product or convolution of float32 tensors on CUDA, in tf32 whatever the process has set."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, call: Call, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        super().__init__(call)
        self.keep("weight", None if weight is None else weight.float())
        self.keep("bias", None if bias is None else bias.float())

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        return refusals.first(
            "" if call.scheme.weight == TF32 else "the scheme is not tf32",
            refusals.sort(call, Sort.LINEAR, Sort.CONVOLUTION, Sort.MATMUL),
            refusals.device(call, "cuda"),
            refusals.padding(call),
            refusals.result(call, torch.float32),
            refusals.fusion(call),
        )

    @classmethod
    def from_float(
        cls,
        call: Call,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        ranges: Sequence[Range] = (),
        codes: GivenCodes | None = None,
    ) -> Self:
        """See `LowPrecision`."""
        if reason := cls.supported(call):
            raise SchemeError(reason)
        if call.sort is not Sort.MATMUL:
            present(weight, call)
        return cls(call, weight, bias)

    @property
    def computes(self) -> str:
        """What is multiplied."""
        return "tf32 x tf32 -> float32"

    def forward(self, x: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """The call on `x`, and on `second` in a MATMUL."""
        x, conv, other = x.float(), self.call.convolution, self.weight
        if self.call.sort is Sort.MATMUL:
            if second is None:
                raise PlanError("a matmul has two operands, one was given")
            made: torch.Tensor = tf32_matmul(x, second.float())
        elif conv is not None:
            made = tf32_conv(x, other, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        else:
            made = tf32_linear(x, other, self.bias)
        return made
