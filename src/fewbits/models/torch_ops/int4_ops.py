"""The operator `fewbits::int4_linear`: PyTorch's 4-bit products of plain, unpacked weights.

The kernels' own layouts differ between instruction sets and devices, so that a file of packed weights would be bound to
the machine that wrote it. What is stored are two codes in a byte, the first in the low half.
"""

from __future__ import annotations

from typing import Final

import torch

from fewbits.models.torch_ops.operators import define
from fewbits.models.torch_ops.packed import Packing

CPU_COLUMNS: Final = 16
CUDA_COLUMNS: Final = 8
"""What the number of columns must be a multiple of."""
GROUPS: Final = (32, 64, 128, 256)
_INNER: Final = ((8, 128), (4, 64), (2, 32))
"""How many tiles of 16 along the depth lie together, and what the depth must be a multiple of."""


def _packed_cpu(codes: torch.Tensor) -> torch.Tensor:
    both = torch.stack([codes & 15, codes >> 4], dim=-1).reshape(codes.shape[0], -1)
    made: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu.default(both.to(torch.int32), 1)
    return made


def _packed_cuda(codes: torch.Tensor) -> torch.Tensor:
    depth = 2 * codes.shape[1]
    inner = next(tiles for tiles, multiple in _INNER if depth % multiple == 0)
    # This kernel has the first code of two in the high half.
    swapped = ((codes & 15) << 4) | (codes >> 4)
    made: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack.default(swapped.contiguous(), inner)
    return made


_cpu_packing = Packing(_packed_cpu)
_cuda_packing = Packing(_packed_cuda)


def _on_cpu(x: torch.Tensor, codes: torch.Tensor, scale_and_zero: torch.Tensor, group: int) -> torch.Tensor:
    made: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu.default(
        x, _cpu_packing(codes), group, scale_and_zero
    )
    return made


def _on_cuda(x: torch.Tensor, codes: torch.Tensor, scale_and_zero: torch.Tensor, group: int) -> torch.Tensor:
    if not x.shape[0]:
        return x.new_empty((0, codes.shape[0]))
    made: torch.Tensor = torch.ops.aten._weight_int4pack_mm.default(x, _cuda_packing(codes), group, scale_and_zero)
    return made


def _meta(x: torch.Tensor, codes: torch.Tensor, scale_and_zero: torch.Tensor, group: int) -> torch.Tensor:
    return x.new_empty((x.shape[0], codes.shape[0]))


define(
    "int4_linear(Tensor x, Tensor codes, Tensor scale_and_zero, int group) -> Tensor", _meta, cpu=_on_cpu, cuda=_on_cuda
)

int4_linear = torch.ops.fewbits.int4_linear.default
"""Rows `x` (bf16 on CUDA; float32, bf16 or fp16 on the CPU) times `codes` (columns, depth / 2), whose value is
``(code - 8) * scale + zero`` with (depth / group, columns, 2) of `scale_and_zero` in the type of `x`."""
