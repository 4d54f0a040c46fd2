"""What a model may cost at most, besides what it may lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fewbits.amounts import LATENCY, SIZE


@dataclass(frozen=True, slots=True)
class Limits:
    """The most `seconds` per call, end to end, and the largest `size` of the file in bytes; ``None``: no limit."""

    seconds: float | None = None
    size: int | None = None

    @classmethod
    def parse(cls, latency: str | float | None = None, size: str | float | None = None) -> Limits:
        """Read ``"5ms"`` or seconds, and ``"20MB"`` or bytes. Raises UsageError."""
        return cls(
            None if latency is None else LATENCY.parse(latency), None if size is None else max(1, int(SIZE.parse(size)))
        )

    @property
    def any(self) -> bool:
        """Whether there is one at all."""
        return self.seconds is not None or self.size is not None

    def use(self, seconds: float, size: int) -> float:
        """The larger share of a limit that a model takes: 1 is just within, 0 means that there is no limit."""
        return max(
            0.0 if self.seconds is None else seconds / self.seconds, 0.0 if self.size is None else size / self.size
        )

    def hold(self, seconds: float, size: int) -> bool:
        """Whether a model that takes `seconds` per call and has `size` bytes is within them."""
        return self.use(seconds, size) <= 1

    def __str__(self) -> str:
        """``5ms per call, 20MB``, or ``none``."""
        parts = (
            *(() if self.seconds is None else (f"{LATENCY.text(self.seconds)} per call",)),
            *(() if self.size is None else (SIZE.text(self.size),)),
        )
        return ", ".join(parts) or "none"


UNLIMITED: Final = Limits()
