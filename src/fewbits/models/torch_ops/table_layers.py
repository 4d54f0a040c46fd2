"""Rows of an embedding in 8 or 4 bits, one scale per row; only the rows that are looked up are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch

from fewbits.errors import SchemeError
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.weight_codes import channel_codes, given_channel_codes

_RESULTS = (torch.float32, torch.bfloat16, torch.float16)
_NIBBLE = 4


class StoredTable(LowPrecision):
    """``codes[rows] * scale[rows]``, on any device. Codes of 4 bits or fewer lie two in a byte, the first low."""

    anywhere = True
    codes: torch.Tensor
    row_scale: torch.Tensor

    def __init__(self, call: Call, codes: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(call)
        assert isinstance(call.scheme.weight, ScaledFormat)
        self.width, self.result = call.shape[1], call.result
        self.halves = call.scheme.weight.bits <= _NIBBLE
        if self.halves:
            even = torch.nn.functional.pad(codes, (0, self.width % 2))
            low, high = even[:, 0::2].view(torch.uint8), even[:, 1::2].view(torch.uint8)
            codes = (low & 15) | (high << 4)
        self.keep("codes", codes)
        self.keep("row_scale", scale.reshape(-1, 1))

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        return refusals.first(
            refusals.sort(call, Sort.EMBEDDING),
            "" if call.scheme.is_weight_only else "an embedding reads row numbers, which have no format: name w: only",
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
        values, format = present(weight, call), call.scheme.weight
        assert isinstance(format, ScaledFormat) and isinstance(format.element, IntFormat)
        made = channel_codes(values, format, None, 1.0) if codes is None else given_channel_codes(codes, call.shape)
        return cls(call, torch.from_numpy(made.codes), torch.from_numpy(np.ascontiguousarray(made.scale)))

    @property
    def computes(self) -> str:
        """What is stored."""
        return f"s{4 if self.halves else 8} rows -> {str(self.call.result).removeprefix('torch.')}"

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers (integers of any shape): a new axis behind."""
        found = torch.nn.functional.embedding(rows, self.codes)
        if self.halves:
            # Shifted up and down again, a code of 4 bits keeps its sign.
            both = torch.stack([found << 4, found & 240], dim=-1).view(torch.int8) >> 4
            found = both.reshape(*rows.shape, -1)[..., : self.width]
        scale = torch.nn.functional.embedding(rows, self.row_scale)
        return (found.float() * scale).to(self.result)
