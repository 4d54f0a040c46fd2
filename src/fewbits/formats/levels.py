"""Formats that are a short list of levels: binary, ternary, codebooks.

Sources: Courbariaux et al., BinaryConnect, arXiv 1511.00363; Li et al., Ternary Weight Networks, arXiv
1605.04711; Mellempudi et al., arXiv 1705.01462 and 1701.08978; Han et al., Deep Compression, arXiv 1510.00149
(k-means); Dettmers et al., QLoRA, arXiv 2305.14314 (NF4).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import isfinite
from struct import pack, unpack

from fewbits.errors import FormatError

_FLOAT32_END = 2.0**128 - 2.0**103  # the least number that rounds to an infinite float32


@dataclass(frozen=True, slots=True)
class BinaryFormat:
    """-1 and +1, with ``mean |x|`` as scale (the least squared error); 0 becomes +1. Text ``binary``."""

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return 1

    def __str__(self) -> str:
        return "binary"


class TernaryRule(StrEnum):
    """How threshold and scale of a ternary format are found."""

    OPTIMAL = "optimal"
    """The support and scale ``mean |x|`` of least squared error, exactly (arXiv 1705.01462)."""
    THRESHOLD = "twn"
    """Support ``|x| > 0.7 mean |x|`` and its mean as scale (arXiv 1605.04711)."""
    RMS = "rms"
    """Scale ``sqrt(mean x**2)`` over the support of least squared error with such a scale (arXiv 1701.08978)."""


@dataclass(frozen=True, slots=True)
class TernaryFormat:
    """-1, 0 and +1; text ``ternary``, ``ternary-twn``, ``ternary-rms``."""

    rule: TernaryRule = TernaryRule.OPTIMAL

    @property
    def bits(self) -> int:
        """Bits of one code, as it is stored."""
        return 2

    def __str__(self) -> str:
        return "ternary" if self.rule is TernaryRule.OPTIMAL else f"ternary-{self.rule}"


@dataclass(frozen=True, slots=True)
class CodebookFormat:
    """A fixed list of values in rising order; a code is a place in it. Text ``nf4`` or ``codebook(-1,0,0.5)``."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) <= 1 << 16:
            raise FormatError(f"a codebook has 2 to 65536 values, not {len(self.values)}")
        if not all(isfinite(value) and abs(float(value)) < _FLOAT32_END for value in self.values):
            raise FormatError("the values of a codebook are finite float32 numbers")
        stored = unpack(layout := f"{len(self.values)}f", pack(layout, *self.values))
        if not all(low < high for low, high in pairwise(stored)):
            raise FormatError("the values of a codebook stand in rising order, and differ as float32 numbers")

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return (len(self.values) - 1).bit_length()

    @property
    def max(self) -> float:
        """Largest magnitude."""
        return max(abs(self.values[0]), abs(self.values[-1]))

    def __str__(self) -> str:
        return "nf4" if self == NF4 else f"codebook({','.join(repr(float(value)) for value in self.values)})"


@dataclass(frozen=True, slots=True)
class KMeansFormat:
    """A codebook of ``2**bits`` values that is fitted to the data by k-means; text ``kmeans4``."""

    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise FormatError(f"a k-means codebook has codes of 1 to 8 bits, not {self.bits}")

    def __str__(self) -> str:
        return f"kmeans{self.bits}"


NF4 = CodebookFormat(
    (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    )
)
"""NormalFloat4: quantiles of the normal distribution, as published with QLoRA (float32 values)."""
