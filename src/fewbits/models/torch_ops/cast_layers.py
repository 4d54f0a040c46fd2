"""bf16 and fp16: operands rounded to the type, sums in float32, the weight stored in the type.

An input that has the type already is taken as it is, and a result of the type is given as it is, so that between the
layers of a region nothing is cast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Self

import torch
from torch.nn import functional

from fewbits.errors import PlanError, SchemeError
from fewbits.formats.floating import BF16, FP16
from fewbits.formats.scaled import Format
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present
from fewbits.models.torch_ops.operation import Call, Range, Sort

_TYPES: Final[Mapping[Format | None, torch.dtype]] = {BF16: torch.bfloat16, FP16: torch.float16}


class Cast(LowPrecision):
    """Any of the calls, in the type of the scheme."""

    anywhere = True
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, call: Call, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        super().__init__(call)
        self.small = _TYPES[call.scheme.weight]
        self.keep("weight", None if weight is None else _stored(weight, self.small, call))
        self.keep("bias", None if bias is None else _stored(bias, self.small, call))

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        return refusals.first(
            "" if call.scheme.weight in _TYPES else "not a type that is cast to: bf16 and fp16 are",
            refusals.padding(call),
            refusals.result(call, torch.float32, *_TYPES.values()),
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
        """See `LowPrecision`. Raises PlanError if a weight or bias is beyond what the type reaches."""
        if reason := cls.supported(call):
            raise SchemeError(reason)
        if call.sort is not Sort.MATMUL:
            present(weight, call)
        return cls(call, weight, bias)

    @property
    def computes(self) -> str:
        """What is multiplied."""
        small, result = (str(one).removeprefix("torch.") for one in (self.small, self.call.result))
        return f"{small} x {small} -> {result}"

    def forward(self, x: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """The call on `x`, and on `second` in a MATMUL."""
        return apply(self.call, self._cast(x), self.weight, self.bias, self._cast(second)).to(self.call.result)

    def _cast(self, x: torch.Tensor | None) -> torch.Tensor | None:
        return x.to(self.small) if x is not None and x.is_floating_point() else x


def apply(
    call: Call,
    x: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    second: torch.Tensor | None = None,
) -> torch.Tensor:
    """`call` on operands of any one type. Raises PlanError if an operand is missing."""
    other = second if call.sort is Sort.MATMUL else weight
    if x is None or other is None:
        raise PlanError(f"a {call.sort} has two operands, one was given")
    if call.sort is Sort.LINEAR:
        return functional.linear(x, other, bias)
    if call.sort is Sort.MATMUL:
        return torch.matmul(x, other)
    if call.sort is Sort.EMBEDDING:
        return functional.embedding(x, other)
    conv = call.convolution
    assert conv is not None
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(conv.stride)]
    return convolve(x, other, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _stored(values: torch.Tensor, type: torch.dtype, call: Call) -> torch.Tensor:
    small = values.detach().to(type)
    if bool((torch.isinf(small) & torch.isfinite(values)).any()):
        raise PlanError(
            f"a {call.sort} has a weight or bias of magnitude {float(values.abs().max()):g}, beyond what "
            f"{call.scheme} reaches; set it to fp32 or bf16"
        )
    return small
