"""Products of int8 matrices in torch's own operations, which compilers and exporters know: ``torch._int_mm``."""

from __future__ import annotations

import torch
from torch.nn import functional

from fewbits.models.torch_ops.activation_codes import SHIFT


def signed(codes: torch.Tensor) -> torch.Tensor:
    """Unsigned codes minus 128, s8."""
    # By way of a type for which the compiler writes vectors: of 16 bits it does not know any.
    return (codes.to(torch.int32) - SHIFT).to(torch.int8)


def int8_sums(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`rows` (rows, depth) times `weight` (columns, depth), both s8, summed in 32 bits: (rows, columns)."""
    if rows.shape[1] == 1 and rows.device.type == "cpu":
        # What a depth of 1 gives there (torch 2.13) is memory that nobody wrote.
        rows, weight = functional.pad(rows, (0, 1)), functional.pad(weight, (0, 1))
    return torch._int_mm(rows, weight.t())
