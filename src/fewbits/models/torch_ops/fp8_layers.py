"""fp8_e4m3 products by ``torch._scaled_mm``: one scale for each operand, or one per token and output channel.

Products are summed in float32 (`use_fast_accum` stays off: the tensor core's own 14-bit sums are promoted) and scaled
there. On CUDA (compute capability 8.9 and later) depth and columns are filled up to multiples of 16, and row-wise
products come as bf16, which is then the precision of the result whatever its type, as products for a bf16 result do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import torch
from torch.nn import functional

from fewbits.errors import PlanError, SchemeError
from fewbits.formats.floating import E4M3
from fewbits.formats.granularity import Channel, Tensor, Token
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present, range_at
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.weight_codes import check_shape

_MULTIPLE: Final = 16
_TINY: Final = torch.finfo(torch.float32).tiny
_RESULTS = (torch.float32, torch.bfloat16, torch.float16)


class Fp8Linear(LowPrecision):
    """Product of fp8 values by a constant matrix of fp8 values."""

    codes: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor

    def __init__(
        self, call: Call, codes: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None, scale: float
    ) -> None:
        super().__init__(call)
        self.columns, self.depth = call.shape
        self.per_row, self.dynamic, self.result = _is_per_row(call), call.scheme.dynamic, call.result
        self.padded = call.device == "cuda"
        multiple = _MULTIPLE if self.padded else 1
        missing = (0, -self.depth % multiple, 0, -self.columns % multiple)
        # Bytes, because few operations know the type.
        filled = functional.pad(codes.view(torch.uint8), missing)
        self.keep("codes", filled.view(torch.float8_e4m3fn))
        if self.per_row:
            weight_scale = functional.pad(weight_scale.reshape(1, -1), missing[2:], value=1.0)
        self.keep("weight_scale", weight_scale)
        self.keep("bias", bias)
        self.keep("scale", torch.tensor(scale, dtype=torch.float32))
        narrow = self.padded and (self.per_row or call.result == torch.bfloat16)
        self.product_type = torch.bfloat16 if narrow else torch.float32

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        scheme = call.scheme
        pair = "one scale for both operands each (tensor), or one per token and output channel (token, channel)"
        granularities = tuple(
            type(operand.granularity)
            for operand in (scheme.activation, scheme.weight)
            if isinstance(operand, ScaledFormat)
        )
        return refusals.first(
            refusals.sort(call, Sort.LINEAR),
            refusals.device(call, "cpu", "cuda"),
            refusals.fp8(scheme.weight, Tensor, Channel),
            refusals.fp8(scheme.activation, Tensor, Token),
            "" if granularities in ((Tensor, Tensor), (Token, Channel)) else f"the kernel takes {pair}",
            "a scale per token is found at every call (dynamic)" if _is_per_row(call) and not scheme.dynamic else "",
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
        sharing = Channel(0) if _is_per_row(call) else Tensor()
        if codes is None:
            made = quantize(present(weight, call), ScaledFormat(E4M3, sharing))
            bits, scale = made.codes, made.scale.reshape(-1)
        else:
            bits, scale = codes.codes.T, codes.scale.reshape(-1)
            check_shape(bits.shape, call.shape)
            if scale.size not in {1, call.channels if _is_per_row(call) else 1}:
                raise PlanError(
                    f"the plan's codes have {scale.size} scales, {call.scheme} has {sharing}; tune the model again"
                )
            scale = np.broadcast_to(scale, (call.channels,) if _is_per_row(call) else (1,))
        step = 1.0
        if not call.scheme.dynamic:
            largest = max(map(abs, range_at(ranges, 0, call)))
            step = float(np.float32(largest) / np.float32(E4M3.max))
            step = step if step >= _TINY else 1.0
        values = torch.from_numpy(np.ascontiguousarray(bits)).view(torch.float8_e4m3fn)
        scales = torch.from_numpy(np.array(scale, np.float32))
        offset = None if bias is None else bias.detach().float()
        return cls(call, values, scales if _is_per_row(call) else scales.reshape(()), offset, step)

    @property
    def computes(self) -> str:
        """What is multiplied."""
        return f"fp8 x fp8 -> {str(self.product_type).removeprefix('torch.')}, scaled_mm"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the weight; `x` has any number of axes, the last one is the depth."""
        if x.numel() == 0:
            return x.new_empty((*x.shape[:-1], self.columns), dtype=self.result)
        # A quotient has the strides of its operands, and the kernel reads rows.
        rows = x.reshape(-1, self.depth).contiguous().float()
        scale = self._scale(rows)
        # A value between the largest and infinity becomes NaN by a cast alone.
        small = (rows / scale).clamp(-E4M3.max, E4M3.max).to(torch.float8_e4m3fn)
        if self.padded and self.codes.shape[1] > self.depth:
            filled = functional.pad(small.view(torch.uint8), (0, self.codes.shape[1] - self.depth))
            small = filled.view(torch.float8_e4m3fn)
        made = torch._scaled_mm(small, self.codes.t(), scale, self.weight_scale, out_dtype=self.product_type)
        made = made[:, : self.columns]
        if self.bias is not None:
            made = made.float() + self.bias
        return made.to(self.result).reshape(*x.shape[:-1], self.columns)

    def _scale(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.dynamic:
            return self.scale
        largest = rows.abs().amax(dim=-1, keepdim=True) if self.per_row else rows.abs().amax()
        scale = largest / E4M3.max
        return torch.where(scale < _TINY, 1.0, scale)


def _is_per_row(call: Call) -> bool:
    operand = call.scheme.activation
    return isinstance(operand, ScaledFormat) and isinstance(operand.granularity, Token)
