"""How the products of one dot product are summed: exactly as fp32, or as Hopper's tensor cores do.

Sources: DeepSeek-V3, arXiv 2412.19437, section 3.3.2 (promotion every 128 products); MMA-Sim (Microsoft), bit-equal to
the hardware: ``wgmma`` for FP8 aligns 32 products and the accumulator to the largest exponent, truncates each to 13
fractional bits, adds exactly and truncates the sum to e8m13.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.errors import RecipeError

HOPPER_CHUNK, HOPPER_BITS = 32, 13


@dataclass(frozen=True, slots=True)
class Accumulation:
    """Text ``fp32``, ``fp32@128``, ``hopper`` or ``hopper@128``.

    `hopper`: sums of 32 products at a time, truncated to 13 bits behind the binary point; otherwise fp32. `promote`:
    after that many products the sum is taken over into an fp32 accumulator; 0 for never. ``fp32@128`` truncates
    once to 13 bits where a chunk is taken over: what is cheap to compute and near to ``hopper@128``.
    """

    hopper: bool = False
    promote: int = 0

    def __post_init__(self) -> None:
        if self.promote < 0 or self.promote % HOPPER_CHUNK:
            raise RecipeError(
                f"sums are promoted after a multiple of {HOPPER_CHUNK} products, not after {self.promote}"
            )

    @property
    def is_exact(self) -> bool:
        """Whether sums are those of an fp32 product."""
        return not self.hopper and not self.promote

    def __str__(self) -> str:
        return ("hopper" if self.hopper else "fp32") + (f"@{self.promote}" if self.promote else "")

    @classmethod
    def parse(cls, text: str) -> Accumulation:
        """Read `text`, the inverse of ``str``. Raises RecipeError."""
        name, at, promote = text.partition("@")
        if name not in ("fp32", "hopper") or bool(at) != promote.isdigit():
            raise RecipeError(
                f"{text!r} does not say how products are summed; choose fp32, fp32@128, hopper, hopper@128"
            )
        return cls(name == "hopper", int(promote or 0))


FP32_SUMS = Accumulation()
