"""Formats that change on the way: bits that fall (MoQ), and a last stretch at more bits (accuracy boosters).

Sources: DeepSpeed, Mixture-of-Quantization (``quantize_training``: the period doubles at every bit and grows with the
curvature of the layer); Harma et al., Accuracy Boosters, arXiv 2211.10737 (4 bits, 6 bits in the last epoch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import floor

from fewbits.errors import FormatError, RecipeError
from fewbits.formats.scaled import Format
from fewbits.formats.text import format_text, parse


@dataclass(frozen=True, slots=True)
class Moq:
    """Weights of `start` bits that lose one bit at a time until they have `target`; text ``moq start=16 target=8``.

    The first bit falls `offset` + `period` steps in; every period is twice the one before. A layer of curvature c (its
    largest Hessian eigenvalue as a share of the largest of all layers, 0 to 1) has its periods multiplied by
    ``1 + floor(4 c)``.
    """

    start: int = 16
    target: int = 8
    period: int = 100
    offset: int = 100

    def __post_init__(self) -> None:
        if not 2 <= self.target <= self.start <= 16:
            raise RecipeError(
                f"moq goes from at most 16 bits down to at least 2, not from {self.start} to {self.target}"
            )
        if self.period < 1 or self.offset < 0:
            raise RecipeError("moq has a period of at least 1 step and an offset of 0 or more")

    def bits(self, step: int, curvature: float = 0.0) -> int:
        """Bits of a weight at `step`, counted from 0. `curvature` from 0 to 1."""
        fallen, wait, at = 0, self.period * (1 + floor(4 * curvature)), self.offset
        while self.start - fallen > self.target and step >= at + wait:
            at, wait, fallen = at + wait, 2 * wait, fallen + 1
        return self.start - fallen

    def finished(self, curvature: float = 0.0) -> int:
        """The step from which on a weight has `target` bits."""
        doublings: int = (1 << (self.start - self.target)) - 1
        return self.offset + self.period * (1 + floor(4 * curvature)) * doublings

    def __str__(self) -> str:
        defaults = {field.name: field.default for field in fields(self)}
        return " ".join(["moq", *(f"{key}={value}" for key, value in asdict(self).items() if value != defaults[key])])


@dataclass(frozen=True, slots=True)
class Boost:
    """Another format for all products in the last `share` of the training; text ``boost share=0.01 format=bfp6``.

    `format` takes the place of the element and its bits; the granularity stays each cell's own.
    """

    format: Format
    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise RecipeError(f"a boost covers a share of the training between 0 and 1, not {self.share}")

    def starts(self, planned: int) -> int:
        """The first step of the boost in a training of `planned` steps; at least the last step is boosted."""
        return min(planned - 1, floor(planned * (1 - self.share)))

    def __str__(self) -> str:
        return f"boost share={self.share!r} format={format_text(self.format)}"


def parse_schedule(text: str) -> Moq | Boost:
    """Read the text form of a schedule, the inverse of ``str``. Raises RecipeError."""
    name, *words = text.split() or [""]
    values: Mapping[str, str] = dict(word.partition("=")[::2] for word in words)
    try:
        if name == "moq" and set(values) <= {field.name for field in fields(Moq)}:
            return replace(Moq(), **{key: int(value) for key, value in values.items()})
        if name == "boost" and set(values) == {"share", "format"}:
            return Boost(parse(values["format"]), float(values["share"]))
    except (ValueError, FormatError) as error:
        raise RecipeError(f"in {text!r}: {error}") from error
    raise RecipeError(
        f"{text!r} is not a schedule; for example 'moq start=16 target=8' or 'boost share=0.01 format=bfp6'"
    )
