"""Weights of 8 or 4 bits, activations as they are: what is read from memory shrinks, products stay in floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import torch
from torch.nn import functional

from fewbits.errors import PlanError, SchemeError
from fewbits.formats.granularity import Group
from fewbits.formats.integer import IntFormat
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import REAL, ScaledFormat
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.int4_ops import CPU_COLUMNS, CUDA_COLUMNS, GROUPS, int4_linear
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.weight_codes import ChannelCodes, channel_codes, check_shape, given_channel_codes

_RESULTS = (torch.float32, torch.bfloat16, torch.float16)
_DEPTH: Final = 16
"""The bf16 kernel of the CPU reads whole vectors of so many codes: what lies behind the last row may not be ours."""
_MIDDLE: Final = 8


class StoredInt8Linear(LowPrecision):
    """int8 weights with one scale per output channel; products in the type of the result.

    On the CPU a kernel decodes as it multiplies (``aten._weight_int8pack_mm``). On CUDA it is a cast and a product,
    which `torch.compile` makes one kernel of; in eager mode the decoded weight is written to memory first.
    """

    codes: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, call: Call, weight: ChannelCodes, bias: torch.Tensor | None) -> None:
        super().__init__(call)
        self.columns, self.depth = call.shape
        self.result = call.result
        self.fused = call.device == "cpu"
        self.missing = -self.depth % _DEPTH if self.fused else 0
        self.keep("codes", functional.pad(torch.from_numpy(weight.codes), (0, self.missing)))
        self.keep("weight_scale", torch.from_numpy(weight.scale).to(call.result))
        self.keep("bias", None if bias is None else bias.to(call.result))

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        return refusals.first(
            refusals.sort(call, Sort.LINEAR),
            refusals.device(call, "cpu", "cuda"),
            "" if call.scheme.is_weight_only else "the activation is in codes, too",
            refusals.symmetric_weight(call.scheme.weight),
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
        if codes is None:
            return cls(call, channel_codes(values, call.scheme.weight, None, 1.0), bias)
        return cls(call, given_channel_codes(codes, call.shape), bias)

    @property
    def computes(self) -> str:
        """What is multiplied."""
        name = str(self.call.result).removeprefix("torch.")
        return f"{name} x s8 -> {name}, {'int8pack_mm' if self.fused else 'decoded'}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the weight; `x` has any number of axes, the last one is the depth."""
        rows = x.reshape(-1, self.depth).to(self.result)
        if self.fused:
            rows = functional.pad(rows, (0, self.missing)) if self.missing else rows.contiguous()
            made = torch.ops.aten._weight_int8pack_mm.default(rows, self.codes, self.weight_scale)
        elif rows.dtype == torch.float16:
            # Sums of codes may be beyond what fp16 reaches.
            made = functional.linear(rows, self.codes.to(rows.dtype) * self.weight_scale.reshape(-1, 1))
        else:
            made = functional.linear(rows, self.codes.to(rows.dtype)) * self.weight_scale
        made = made if self.bias is None else made + self.bias
        found: torch.Tensor = made.reshape(*x.shape[:-1], self.columns)
        return found


class StoredInt4Linear(LowPrecision):
    """4-bit weights with one scale, and a zero point if the format has one, for each group along the depth.

    CPU: products in the type of the result. CUDA (tensor cores, compute capability 8.0 and later): activations,
    scales and zero points in bf16, sums in float32.
    """

    codes: torch.Tensor
    scale_and_zero: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, call: Call, codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        """`codes` 0 to 15 (columns, depth), `scale` and `zero` (columns, groups), ``(code - 8) * scale + zero``."""
        super().__init__(call)
        assert isinstance(call.scheme.weight, ScaledFormat) and isinstance(call.scheme.weight.granularity, Group)
        self.columns, self.depth = call.shape
        self.result = call.result
        self.group = call.scheme.weight.granularity.size
        self.compute = torch.bfloat16 if call.device == "cuda" else call.result
        more = -self.columns % (CUDA_COLUMNS if call.device == "cuda" else CPU_COLUMNS)
        self.missing = -self.depth % self.group
        full = functional.pad(codes, (0, self.missing, 0, more), value=_MIDDLE)
        self.keep("codes", full[:, 0::2] | (full[:, 1::2] << 4))
        both = torch.stack([functional.pad(scale, (0, 0, 0, more)), functional.pad(zero, (0, 0, 0, more))], dim=-1)
        self.keep("scale_and_zero", both.transpose(0, 1).contiguous().to(self.compute))
        self.keep("bias", None if bias is None else bias.to(call.result))

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        weight = call.scheme.weight
        if not isinstance(weight, ScaledFormat) or not isinstance(weight.element, IntFormat):
            return "the weight is not in integer codes with scales"
        sharing = weight.granularity
        groups = ", ".join(map(str, GROUPS))
        return refusals.first(
            refusals.sort(call, Sort.LINEAR),
            refusals.device(call, "cpu", "cuda"),
            "" if call.scheme.is_weight_only else "the activation is in codes, too",
            "" if weight.element.bits == 4 and not weight.element.fraction else f"codes have 4 bits, not {weight}",
            "" if weight.scale == REAL else "scales are real numbers",
            ""
            if isinstance(sharing, Group) and sharing.axis == 0 and sharing.size in GROUPS
            else f"the kernel takes one scale for {groups} neighbours along the depth (g32@0), not per {sharing}",
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
        values, format = present(weight, call), call.scheme.weight
        assert isinstance(format, ScaledFormat) and isinstance(format.element, IntFormat)
        made = quantize(np.ascontiguousarray(values.T), format) if codes is None else codes
        check_shape(made.codes.T.shape, call.shape)
        if made.tile != format.granularity.tile(made.shape):
            raise PlanError(
                f"the plan's codes have scales for tiles of {made.tile}, {call.scheme} has {format.granularity}; "
                "tune the model again"
            )
        up = _MIDDLE if format.element.signed else 0
        whole = torch.from_numpy((made.codes.T.astype(np.int16) + up).astype(np.uint8))
        scale = torch.from_numpy(np.ascontiguousarray(made.scale.T))
        point = torch.from_numpy(np.ascontiguousarray(made.zero_point.T)) + up
        return cls(call, whole, scale, (_MIDDLE - point) * scale, bias)

    @property
    def computes(self) -> str:
        """What is multiplied."""
        name = str(self.compute).removeprefix("torch.")
        return f"{name} x int4 -> {name}, int4pack_mm"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the weight; `x` has any number of axes, the last one is the depth."""
        rows = x.reshape(-1, self.depth).to(self.compute)
        rows = functional.pad(rows, (0, self.missing)) if self.missing else rows.contiguous()
        made = int4_linear(rows, self.codes, self.scale_and_zero, self.group)[:, : self.columns]
        made = made.to(self.result)
        made = made if self.bias is None else made + self.bias
        found: torch.Tensor = made.reshape(*x.shape[:-1], self.columns)
        return found
