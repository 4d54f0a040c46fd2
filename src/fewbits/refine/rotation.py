"""Hadamard rotations: orthogonal, so that a product keeps its value, and outliers are spread over all channels.

For a rotation R, ``W x = (W R^T)(R x)``: the weight is rotated once, the inputs at run time or in the layer before.
Behind an RMS norm whose gain was moved into the next weight, and along a residual stream, one rotation of the whole
stream costs nothing at run time.

Sources: Ashkboos et al., QuaRot, arXiv 2404.00456, sections 3 and 4 (randomised Hadamard matrices, folding); Tseng et
al., QuIP#, arXiv 2402.04396, section 3 (fast transform of sizes that are no power of two); Paley, J. Math. Phys. 12
(1933) 311 (both constructions).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import isqrt, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError

Array = NDArray[Any]
Int8 = NDArray[np.int8]

_LARGEST_FACTOR = 64
"""Factors that one product of matrices does; larger ones do more arithmetic, smaller ones more passes."""
_LARGEST_BASE = 256
"""With a larger base a transform would hardly be faster than the product with the matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """The orthogonal matrix ``R = B diag(signs)``, B with Hadamard matrices of size `block` along its diagonal.

    `signs` (size,) are -1 and 1. Raises DataError if `block` does not divide the size, or has no Hadamard matrix here.
    """

    signs: Int8
    block: int

    def __post_init__(self) -> None:
        if self.block < 1 or self.signs.size % self.block:
            raise DataError(f"blocks of {self.block} do not divide a rotation of size {self.signs.size} evenly")
        _base(self.block)

    @classmethod
    def random(cls, size: int, seed: int, block: int | None = None) -> Rotation:
        """A rotation of `size` with signs drawn by `seed`; one block unless said otherwise. Raises DataError."""
        signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), size)
        return cls(signs, size if block is None else block)

    @property
    def size(self) -> int:
        """Number of channels that are rotated."""
        return self.signs.size

    def apply(self, x: Array, axis: int = -1) -> Array:
        """``R x`` along `axis`, of the type of `x`: of inputs, of what a weight reads, or of a weight's outputs.

        Raises DataError if the axis is not of the rotation's size.
        """
        last = self._last(x, axis)
        return np.moveaxis(self._blocks(last * self.signs.astype(x.dtype)), -1, axis)

    def undo(self, x: Array, axis: int = -1) -> Array:
        """``R^T x`` along `axis`, the inverse of `apply`."""
        last = self._last(x, axis)
        # A Hadamard matrix of Paley's is not symmetric: the inverse goes through its transpose.
        return np.moveaxis(self._blocks(last, transposed=True) * self.signs.astype(x.dtype), -1, axis)

    def _last(self, x: Array, axis: int) -> Array:
        if x.shape[axis] != self.size:
            raise DataError(f"a rotation of size {self.size} was asked of an axis of {x.shape[axis]}")
        return np.moveaxis(x, axis, -1)

    def _blocks(self, x: Array, *, transposed: bool = False) -> Array:
        parts = x.reshape(*x.shape[:-1], -1, self.block)
        return hadamard_transform(parts, transposed=transposed).reshape(x.shape)


def hadamard_transform(x: Array, *, transposed: bool = False) -> Array:
    """``H x / sqrt(n)`` along the last axis of `x`, n its size: the fast Walsh-Hadamard transform, float32 or float64.

    H is the Kronecker product of Hadamard matrices of at most 64 and of a base of Paley's (12, 20, 28 ...), which costs
    ``n * (sum of their sizes)`` operations instead of n squared. Raises DataError as `hadamard` does.
    """
    size = x.shape[-1]
    factors = _factors(size)
    parts = x.reshape(-1, *(len(factor) for factor in factors))
    for factor in factors:
        matrix = (factor.T if transposed else factor).astype(x.dtype)
        # The axis in front is taken away and comes back as the last: after all of them the order is as before.
        parts = np.tensordot(parts, matrix, axes=(1, 1))
    return np.asarray(parts.reshape(x.shape) / x.dtype.type(sqrt(size)))


def hadamard(size: int) -> Int8:
    """The Hadamard matrix of `size` that `hadamard_transform` multiplies by: -1 and 1, ``H H^T = size I``.

    Raises DataError if there is none here: the size is ``2**k`` times 1 or a size of Paley's, ``p + 1`` for a prime
    p = 3 (mod 4) or ``2 (p + 1)`` for a prime p = 1 (mod 4), up to 256.
    """
    return reduce(np.kron, _factors(size))


def largest_block(size: int) -> int:
    """The largest divisor of `size` that has a Hadamard matrix here; for sizes that have none themselves."""
    return next(block for block in range(size, 0, -1) if size % block == 0 and _has_base(block))


def _factors(size: int) -> list[Int8]:
    """Hadamard matrices whose Kronecker product is the one of `size`."""
    base = _base(size)
    factors = [_paley(base)] if base > 1 else []
    rest = size // base
    while rest > 1:
        factors.append(_sylvester(min(rest, _LARGEST_FACTOR)))
        rest //= len(factors[-1])
    return factors or [np.ones((1, 1), np.int8)]


def _sylvester(size: int) -> Int8:
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(size: int) -> Int8:
    """A Hadamard matrix of `size` by quadratic residues modulo a prime, of the first or the second construction."""
    prime = size - 1 if _is_prime(size - 1) else size // 2 - 1
    squares = np.unique(np.arange(1, prime, dtype=np.int64) ** 2 % prime)
    character = np.full(prime, -1, np.int8)
    character[squares] = 1
    character[0] = 0
    jacobsthal = character[(np.arange(prime)[:, None] - np.arange(prime)) % prime]
    one = np.ones((1, prime), np.int8)
    if prime == size - 1:
        skew = np.block([[np.zeros((1, 1), np.int8), one], [-one.T, jacobsthal]])
        return np.asarray(skew + np.eye(size, dtype=np.int8))
    conference = np.block([[np.zeros((1, 1), np.int8), one], [one.T, jacobsthal]])
    plus, minus = np.array([[1, 1], [1, -1]], np.int8), np.array([[1, -1], [-1, -1]], np.int8)
    return np.asarray(np.kron(conference, plus) + np.kron(np.eye(prime + 1, dtype=np.int8), minus))


def _base(size: int) -> int:
    """The smallest base whose product with a power of two is `size`. Raises DataError."""
    odd, twos = _odd_part(size)
    for _ in range(twos + 1):
        if odd == 1 or _is_paley(odd):
            return odd
        odd *= 2
    raise DataError(
        f"no Hadamard matrix of size {size} is known here; sizes are 2**k times 1, 12, 20, 28 and so on. Rotate in "
        f"blocks, for example of {largest_block(size)}"
    )


def _has_base(size: int) -> bool:
    odd, twos = _odd_part(size)
    return odd == 1 or any(_is_paley(odd << k) for k in range(twos + 1))


def _odd_part(size: int) -> tuple[int, int]:
    if size < 1:
        raise DataError(f"a rotation has at least one channel, not {size}")
    twos = (size & -size).bit_length() - 1
    return size >> twos, twos


def _is_paley(size: int) -> bool:
    if size % 4 or size > _LARGEST_BASE:
        return False
    first, second = size - 1, size // 2 - 1
    return _is_prime(first) or (_is_prime(second) and second % 4 == 1)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
