"""Output error: how far a model's outputs are from the original's, as one number with its standard error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fewbits.data.batches import Arrays
from fewbits.sensitivity.table import Harm


@dataclass(frozen=True, slots=True)
class OutputError:
    """By batch: sums of squared differences and of squared original values, over all float outputs."""

    differences: tuple[float, ...] = ()
    originals: tuple[float, ...] = ()

    def update(self, original: Arrays, changed: Arrays) -> OutputError:
        """With the outputs of one more batch, by name; outputs that are not floats are left out."""
        difference = total = 0.0
        for name, values in original.items():
            if values.dtype.kind != "f":
                continue
            reference = np.where(np.isfinite(values), values, 0).astype(np.float64)
            other = np.where(np.isfinite(values), changed[name], 0).astype(np.float64)
            difference += float(np.square(other - reference).sum())
            total += float(np.square(reference).sum())
        return OutputError((*self.differences, difference), (*self.originals, total))

    @property
    def relative(self) -> float:
        """Squared error over squared output (1 / SQNR); the plain squared error where the output is all zero.
        A NaN that only the changed model gives counts as infinite error."""
        return _ratio(sum(self.differences), sum(self.originals))

    @property
    def harm(self) -> Harm:
        """`relative` with its standard error by the jackknife over batches (Efron & Stein 1981), 0 for one batch."""
        count = len(self.differences)
        whole = self.relative
        if count < 2 or not np.isfinite(whole):
            return Harm(whole)
        difference, original = sum(self.differences), sum(self.originals)
        left_out = [
            _ratio(difference - one, original - other)
            for one, other in zip(self.differences, self.originals, strict=True)
        ]
        return Harm(whole, float(np.sqrt((count - 1) * np.var(left_out))))


def output_error(original: Iterable[Arrays], changed: Iterable[Arrays]) -> OutputError:
    """The error over paired batches of outputs."""
    error = OutputError()
    for one, other in zip(original, changed, strict=True):
        error = error.update(one, other)
    return error


def _ratio(difference: float, original: float) -> float:
    if np.isnan(difference):
        return float("inf")
    return difference / original if original > 0 else difference
