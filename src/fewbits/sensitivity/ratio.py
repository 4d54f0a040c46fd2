"""A ratio of two sums over batches, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fewbits.sensitivity.table import Harm


@dataclass(frozen=True, slots=True)
class Ratio:
    """By batch: the `parts` of what is summed up and the `wholes` that it is relative to."""

    parts: tuple[float, ...]
    wholes: tuple[float, ...]

    @property
    def value(self) -> float:
        """All parts over all wholes; the plain sum where the wholes are all zero, infinite where a part is NaN."""
        return _ratio(sum(self.parts), sum(self.wholes))

    @property
    def harm(self) -> Harm:
        """`value` with its standard error by the jackknife over batches (Efron & Stein 1981), 0 for one batch."""
        count = len(self.parts)
        whole = self.value
        if count < 2 or not np.isfinite(whole):
            return Harm(whole)
        part, every = sum(self.parts), sum(self.wholes)
        left_out = [_ratio(part - one, every - other) for one, other in zip(self.parts, self.wholes, strict=True)]
        return Harm(whole, float(np.sqrt((count - 1) * np.var(left_out))))


def _ratio(part: float, whole: float) -> float:
    if np.isnan(part):
        return float("inf")
    return part / whole if whole > 0 else part
