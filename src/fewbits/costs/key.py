"""One measured region on one target: what it is known by, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from fewbits.errors import UsageError


@dataclass(frozen=True, slots=True)
class RegionKey:
    """What a measured cost depends on; a cost is only ever found again under an equal key.

    `signature` is a text of shapes and attributes, `scheme` the text of a scheme, `neighbours` what stands around
    the region (an activation that is fused into it, who reads it). `target_version`, `cpu`, `features` and
    `threads` say where it was measured: an update of the runtime makes old rows unreachable, not wrong.
    """

    op: str
    signature: str
    scheme: str
    neighbours: str
    target: str
    target_version: str
    cpu: str
    features: str
    threads: int


@dataclass(frozen=True, slots=True)
class RegionCost:
    """Seconds per call to get into the scheme from float (quantise, reorder), for the arithmetic, and back to float.

    They may be differences of measured times, so a little below zero too. `kernel` and `precision` are what really
    ran. `refusal` says why the scheme is no choice here (the runtime refused it, or it is a cliff), "" where it is one;
    seconds of a region that did not run are 0. `taken` is an ISO date. Raises UsageError if seconds are not finite.
    """

    entry: float
    compute: float
    exit: float
    kernel: str
    precision: str
    refusal: str
    taken: str

    def __post_init__(self) -> None:
        if not all(isfinite(seconds) for seconds in (self.entry, self.compute, self.exit)):
            raise UsageError(
                f"seconds of a region are finite, not {self.entry}, {self.compute} and {self.exit}; "
                "write 0 and a refusal for what did not run"
            )

    @property
    def total(self) -> float:
        """Seconds with float on both sides."""
        return self.entry + self.compute + self.exit


@dataclass(frozen=True, slots=True)
class CostRow:
    """A key and its cost."""

    key: RegionKey
    cost: RegionCost
