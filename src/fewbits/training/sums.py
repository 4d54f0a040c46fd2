"""Matrix products with the sums of `Accumulation`: what the hardware does to a long dot product.

The model of MMA-Sim (Microsoft), for operands that are FP8 values: see `fewbits.training.accumulation`.
"""

from __future__ import annotations

import torch

from fewbits.formats.quantize import fake_quantize
from fewbits.training.accumulation import HOPPER_BITS, HOPPER_CHUNK, Accumulation

_TRUNCATED = f"e8m{HOPPER_BITS}"
_ROOM = 1 << 22  # products held at a time


def product(a: torch.Tensor, b: torch.Tensor, sums: Accumulation) -> torch.Tensor:
    """``a @ b`` for matrices (rows, depth) and (depth, columns), float32, summed as `sums` says."""
    if sums.is_exact:
        return a @ b
    depth = a.shape[1]
    step = sums.promote or depth
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float32, device=a.device)
    for first in range(0, depth, step):
        left, right = a[:, first : first + step], b[first : first + step]
        part = _hopper(left, right) if sums.hopper else _truncated(left @ right)
        total = total + part if sums.promote else part
    return total


def _hopper(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The sum of an accumulator of 13 fractional bits that takes 32 products at a time."""
    rows = max(_ROOM // (HOPPER_CHUNK * b.shape[1]), 1)
    parts = [_hopper_rows(a[first : first + rows], b) for first in range(0, a.shape[0], rows)]
    return torch.cat(parts)


def _hopper_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float64, device=a.device)
    exponents_a, exponents_b = _exponents(a), _exponents(b)
    for first in range(0, a.shape[1], HOPPER_CHUNK):
        chunk = slice(first, first + HOPPER_CHUNK)
        products = a[:, chunk, None].double() * b[None, chunk].double()
        exponents = exponents_a[:, chunk, None] + exponents_b[None, chunk]
        # An operand that is zero aligns nothing.
        exponents = torch.where(products == 0, torch.full_like(exponents, -(1 << 20)), exponents)
        largest = torch.maximum(exponents.amax(1), _exponents(total))
        unit = torch.ldexp(torch.ones_like(total), (largest - HOPPER_BITS).clamp(-1000))
        aligned = torch.trunc(products / unit[:, None]).sum(1) + torch.trunc(total / unit)
        total = _truncated((aligned * unit).float()).double()
    return total.float()


def _exponents(x: torch.Tensor) -> torch.Tensor:
    """Exponents of powers of two below the magnitudes; those of zeros are very small."""
    _, exponent = torch.frexp(x)
    return torch.where(x == 0, torch.full_like(exponent, -(1 << 20)), exponent - 1)


def _truncated(x: torch.Tensor) -> torch.Tensor:
    return fake_quantize(x.detach().contiguous(), _TRUNCATED, rounding="toward_zero")
