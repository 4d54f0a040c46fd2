"""How a value between two neighbours of a format, or beyond its limits, is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fewbits.errors import FormatError


class Rounding(StrEnum):
    """Which neighbour is taken."""

    NEAREST_EVEN = "nearest_even"
    """The nearer one, of two equally near the one with the even code (IEEE 754 roundTiesToEven)."""
    NEAREST_AWAY = "nearest_away"
    """The nearer one, of two equally near the larger in magnitude (roundTiesToAway)."""
    TOWARD_ZERO = "toward_zero"
    """The smaller in magnitude (truncation)."""
    FLOOR = "floor"
    """The lower one (roundTowardNegative)."""
    STOCHASTIC = "stochastic"
    """The one larger in magnitude with the probability that keeps the mean; see `NoiseKey`."""


class Overflow(StrEnum):
    """What becomes of a value that, once rounded, lies beyond the limits (OCP FP8 v1.0, section 5.2)."""

    SATURATE = "saturate"
    """The limit, for infinite values too."""
    NONSATURATE = "nonsaturate"
    """Inf where the format has one, otherwise NaN; an error for a format that has neither."""


@dataclass(frozen=True, slots=True)
class NoiseKey:
    """Names the random numbers of one stochastic rounding.

    Philox4x32-10 (Salmon et al., SC 2011) with the two halves of `seed` (64 bits) as key and
    ``(c, c >> 32, tensor, step)`` as counter makes four 32-bit words; element ``i`` of the array (in C order) takes
    word ``(i >> 4) & 3`` of counter ``c = (i >> 6) * 16 + (i & 15)``. What an element gets hence depends on
    nothing but these four numbers: not on the device, the number of threads, or what was drawn before.
    `step` and `tensor` have 32 bits.
    """

    seed: int
    step: int = 0
    tensor: int = 0

    def __post_init__(self) -> None:
        for name, value, bits in (("seed", self.seed, 64), ("step", self.step, 32), ("tensor", self.tensor, 32)):
            if not 0 <= value < 1 << bits:
                raise FormatError(f"{name} of a noise key is a whole number from 0 to 2**{bits} - 1, not {value}")
