"""Rotations that spread outliers over a block, as NVFP4 training does before the gradient of a weight is formed.

Source: Transformer Engine, NVFP4BlockScaling (a Hadamard matrix of size 16 with random signs, on both operands of the
product that gives the gradient of the weight; the product itself does not change).
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import torch


def rotated(x: torch.Tensor, size: int, axis: int, seed: int) -> torch.Tensor:
    """`x` times an orthogonal matrix of that `size` in blocks along `axis`; an incomplete last block is left as it is.

    Both operands of a product that sums over `axis` must be rotated with one `seed`: then it stays the same.
    """
    x = x.movedim(axis, -1)
    length = x.shape[-1] // size * size
    if not length:
        return x.movedim(-1, axis)
    head = x[..., :length].reshape(*x.shape[:-1], length // size, size) @ _matrix(size, seed).to(x.device)
    whole = torch.cat([head.flatten(-2), x[..., length:]], -1)
    return whole.movedim(-1, axis)


@lru_cache(16)
def _matrix(size: int, seed: int) -> torch.Tensor:
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed & 0xFFFFFFFF)) * 2 - 1
    return signs[:, None] * matrix / sqrt(size)
