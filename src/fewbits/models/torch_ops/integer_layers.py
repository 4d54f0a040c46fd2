"""int8 products by ``torch._int_mm``: s8 x s8 summed in 32 bits, then scaled in float32.

One scale for the activation per tensor or per token, found at every call or static; unsigned codes are shifted by 128,
which the sums of the weight's columns make up for, exactly. On CUDA the product wants at least 17 rows, and depth and
columns in multiples of 8: zeros fill them up to the next 16. It is the way of CUDA, and on the CPU that of scales
per token, which oneDNN's int8 product does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import torch
from torch.nn import functional

from fewbits.errors import SchemeError
from fewbits.formats.granularity import Tensor, Token
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import integer
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.activation_codes import SHIFT, Ends, dynamic_scale, encode
from fewbits.models.torch_ops.integer_ops import int8_sums
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present, range_at
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.weight_codes import ChannelCodes, channel_codes, given_channel_codes, rounded_bias

_ROWS: Final = 17
_MULTIPLE: Final = 16
_RESULTS = (torch.float32, torch.bfloat16, torch.float16)


class IntegerLinear(LowPrecision):
    """Product of int8 codes by a constant matrix of int8 codes."""

    codes: torch.Tensor
    sums: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, call: Call, weight: ChannelCodes, bias: torch.Tensor | None, scale: float, zero: int) -> None:
        super().__init__(call)
        operand = call.scheme.activation
        element = integer(operand)
        self.dynamic, self.signed, self.ends = call.scheme.dynamic, element.signed, Ends.of(element)
        self.shift = 0 if element.signed else -SHIFT
        self.moved, self.result = self.ends.moved(self.shift), call.result
        self.per_row = isinstance(operand, ScaledFormat) and isinstance(operand.granularity, Token)
        self.columns, self.depth = call.shape
        on_cuda = call.device == "cuda"
        self.fewest = _ROWS if on_cuda else 0
        self.missing = -self.depth % _MULTIPLE if on_cuda else 0
        more = -self.columns % _MULTIPLE if on_cuda else 0
        self.keep("codes", functional.pad(torch.from_numpy(weight.codes), (0, self.missing, 0, more)))
        self.keep("sums", torch.from_numpy(weight.codes.sum(axis=1, dtype=np.int32)))
        self.keep("weight_scale", torch.from_numpy(weight.scale))
        self.keep("bias", bias)
        self.keep("scale", torch.tensor(scale, dtype=torch.float32))
        self.keep("zero", torch.tensor(zero, dtype=torch.float32))

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        activation = call.scheme.activation
        per_row = isinstance(activation, ScaledFormat) and isinstance(activation.granularity, Token)
        static = "a static activation has one scale: one per token is found at every call (dynamic)"
        return refusals.first(
            refusals.sort(call, Sort.LINEAR),
            refusals.device(call, "cpu", "cuda"),
            refusals.symmetric_weight(call.scheme.weight),
            refusals.byte_activation(activation, Tensor, Token),
            static if per_row and not call.scheme.dynamic else "",
            refusals.result(call, *_RESULTS),
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
        values = present(weight, call)
        assert isinstance(call.scheme.weight, ScaledFormat)
        offset = None if bias is None else bias.detach().float().cpu().numpy()
        scale, zero, static = 1.0, 0, None
        if not call.scheme.dynamic:
            found = of_range(*range_at(ranges, 0, call), integer(call.scheme.activation))
            scale, zero, static = float(found.scale), int(found.zero_point), offset
        if codes is None:
            made = channel_codes(values, call.scheme.weight, static, scale)
        else:
            made = given_channel_codes(codes, call.shape)
        if offset is not None and static is not None:
            offset = rounded_bias(offset, made.scale, np.float32(scale))
        return cls(call, made, None if offset is None else torch.from_numpy(offset.copy()), scale, zero)

    @property
    def computes(self) -> str:
        """What is multiplied."""
        return f"{'s8' if self.signed else 'u8'} x s8 -> {str(self.call.result).removeprefix('torch.')}, int_mm"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the weight; `x` has any number of axes, the last one is the depth."""
        if self.dynamic:
            scale, zero = dynamic_scale(x, self.ends, per_row=self.per_row)
        else:
            scale, zero = self.scale, self.zero
        zero = zero + self.shift
        rows = encode(x, scale, zero, self.moved, torch.int8).reshape(-1, self.depth).contiguous()
        acc = self._products(rows)
        if not self.signed:
            # acc is of codes - 128, wanted is that of codes - zero.
            acc = acc - zero.to(torch.int32).reshape(-1, 1) * self.sums
        made = acc.float() * (scale.reshape(-1, 1) * self.weight_scale)
        if self.bias is not None:
            made = made + self.bias
        return made.to(self.result).reshape(*x.shape[:-1], self.columns)

    def _products(self, rows: torch.Tensor) -> torch.Tensor:
        count = rows.shape[0]
        more = _at_least(self.fewest - count) if self.fewest else 0
        # What compiles is the same for any number of rows; otherwise a copy is spared.
        if self.missing or (self.fewest and (torch.compiler.is_compiling() or more > 0)):
            rows = functional.pad(rows, (0, self.missing, 0, more))
        return int8_sums(rows, self.codes)[:count, : self.columns]


def _at_least(missing: int) -> int:
    """`missing`, at least 0; also of a size that is not known yet. Of a known one torch's own maximum ends the graph
    of a compiler (torch 2.11)."""
    return max(missing, 0) if isinstance(missing, int) else torch.sym_max(missing, 0)
