"""One entry of a recipe's table: how one tensor of a layer is cast."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fewbits.errors import FormatError, RecipeError
from fewbits.formats.floating import FP32, FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.rounding import Overflow, Rounding
from fewbits.formats.scaled import REAL, Format, ScaledFormat, element_of
from fewbits.formats.text import format_text, parse

_NUMBER = re.compile(r"(delayed|hadamard|scale=)([0-9.e+-]+)\Z")


@dataclass(frozen=True, slots=True)
class Cell:
    """Format, scale rule and rounding of one tensor; text ``fp8_e4m3/tensor delayed1024``.

    The scale rule follows from the format: none (``fp8_e5m2``), current (``fp8_e4m3/tensor``, the tensor's own largest
    magnitude), row-wise (``fp8_e4m3/token``), blocks (``fp8_e4m3/g128``, ``/tile128x128``), MX, NVFP4, block floating
    point (``bfp8/tile24x24``). Granularities are meant for the matrix of a product whose last axis is summed over.

    `history`: a scale for the whole tensor from the largest magnitude of that many forward passes before (delayed
    scaling, ``delayed1024``). `fixed`: that scale whatever the tensor (``scale=1``); 0 for none. `hadamard`: rotated
    in blocks of that size along the summed axis first, with fixed random signs (``hadamard16``). `kahan`: what
    rounding drops is kept and added the next time (Kahan 1965; for masters only).
    Raises RecipeError for what cannot be combined.
    """

    format: Format = FP32
    rounding: Rounding = Rounding.NEAREST_EVEN
    overflow: Overflow = Overflow.SATURATE
    history: int = 0
    fixed: float = 0.0
    hadamard: int = 0
    kahan: bool = False

    def __post_init__(self) -> None:
        element = element_of(self.format)
        per_tensor = isinstance(self.format, ScaledFormat) and str(self.format.granularity) == "tensor"
        if self.history and not (per_tensor and isinstance(element, IntFormat | FloatFormat)):
            raise RecipeError(
                f"delayed scaling needs one scale for the tensor: {self.format_text}; write for example "
                "fp8_e4m3/tensor delayed1024"
            )
        if self.history and isinstance(self.format, ScaledFormat) and self.format.scale != REAL:
            raise RecipeError(f"delayed scaling needs real scales: {self.format_text}")
        if self.fixed and (not per_tensor or self.history):
            raise RecipeError(
                f"scale= gives one scale for the tensor: {self.format_text}; write for example binary/tensor"
            )
        if self.hadamard and (self.hadamard < 2 or self.hadamard & (self.hadamard - 1)):
            raise RecipeError(f"a Hadamard rotation has a size that is a power of two, not {self.hadamard}")
        if self.history < 0 or self.fixed < 0:
            raise RecipeError("a history has at least one entry, and a fixed scale is positive")
        if self.kahan and self.rounding is Rounding.STOCHASTIC:
            raise RecipeError(
                "kahan keeps what rounding drops, so that stochastic rounding has nothing to add: choose one"
            )

    @property
    def is_identity(self) -> bool:
        """Whether the tensor stays as it is."""
        return self.format == FP32

    @property
    def is_stochastic(self) -> bool:
        """Whether rounding takes random numbers."""
        return self.rounding is Rounding.STOCHASTIC and not self.is_identity

    @property
    def format_text(self) -> str:
        """The format alone, as text."""
        return format_text(self.format)

    def __str__(self) -> str:
        words = [self.format_text]
        words += [str(self.rounding)] * (self.rounding is not Rounding.NEAREST_EVEN)
        words += [str(self.overflow)] * (self.overflow is not Overflow.SATURATE)
        words += [f"delayed{self.history}"] * bool(self.history)
        words += [f"scale={self.fixed:g}"] * bool(self.fixed)
        words += [f"hadamard{self.hadamard}"] * bool(self.hadamard)
        words += ["kahan"] * self.kahan
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read `text`, the inverse of ``str``. Raises RecipeError."""
        head, *words = text.split() or [""]
        try:
            format = parse(head)
        except FormatError as error:
            raise RecipeError(f"in {text!r}: {error}") from error
        rounding, overflow, kahan = Rounding.NEAREST_EVEN, Overflow.SATURATE, False
        numbers = {"delayed": 0.0, "scale=": 0.0, "hadamard": 0.0}
        for word in words:
            match = _NUMBER.match(word)
            if word in set(Rounding):
                rounding = Rounding(word)
            elif word in set(Overflow):
                overflow = Overflow(word)
            elif word == "kahan":
                kahan = True
            elif match is not None:
                numbers[match[1]] = _number(match[2], text)
            else:
                raise RecipeError(
                    f"in {text!r}: {word!r} says nothing about a cast; choose {', '.join(Rounding)}, "
                    f"{', '.join(Overflow)}, delayed1024, scale=1, hadamard16, kahan"
                )
        return cls(
            format, rounding, overflow, int(numbers["delayed"]), numbers["scale="], int(numbers["hadamard"]), kahan
        )


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RecipeError(f"in {whole!r}: {text!r} is not a number") from error


KEPT = Cell()
"""The tensor stays in fp32."""
