"""What a library of arrays must be able to do, so that `quantize` and `fake_quantize` work on its arrays."""

from __future__ import annotations

from typing import Protocol

from fewbits.formats.numerics.scales import Scales
from fewbits.formats.qtensor import A, QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Format, ScaledFormat


class Backend(Protocol[A]):
    """Casts arrays of one library. Every implementation gives the bits of `fewbits.formats.numerics.reference`.

    `scales` ``None`` means that the array's own are taken, if the format has scales. What is passed has been
    checked by `fewbits.formats.quantize`, except for the array's type of number and its values.
    """

    def given_scales(self, x: A, format: ScaledFormat, scale: A | float, zero_point: A | int) -> Scales[A]:
        """A user's scales for `x`, broadcast and checked. Raises DataError."""
        ...

    def fake_quantize(
        self,
        x: A,
        format: Format,
        scales: Scales[A] | None,
        rounding: Rounding,
        overflow: Overflow,
        key: NoiseKey | None,
        out: A | None,
    ) -> A:
        """`x` rounded to `format`, of x's shape and type of number. Raises DataError."""
        ...

    def quantize(
        self,
        x: A,
        format: Format,
        scales: Scales[A] | None,
        rounding: Rounding,
        overflow: Overflow,
        key: NoiseKey | None,
    ) -> QTensor[A]:
        """`x` as codes of `format`. Raises DataError, also for NaN that has no code."""
        ...

    def dequantize(self, q: QTensor[A]) -> A:
        """The values that the codes stand for, of the type that was quantised."""
        ...
