"""What rounding needs to know of an element format: one description for integers and floats alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of a format as a grid whose step doubles with every power of two from `min_exponent` on.

    For ``2**e <= |v| < 2**(e + 1)`` the step is ``2**(max(e, min_exponent) - mantissa_bits)``. An
    integer format is a grid that lies below ``2**min_exponent`` altogether, so that its step is the same
    everywhere; a float format has its subnormals there. Limits are values, not codes.
    """

    mantissa_bits: int
    min_exponent: int
    low: float
    high: float
    flush: bool = False  # results below 2**min_exponent become zero
    zero: bool = True
    infinity: bool = False
    nan: bool = False
    negative_zero: bool = False

    @property
    def smallest_step(self) -> float:
        """Distance of neighbouring values below ``2**min_exponent``."""
        return 2.0 ** (self.min_exponent - self.mantissa_bits)

    @property
    def min_normal(self) -> float:
        """``2**min_exponent``."""
        return 2.0**self.min_exponent
