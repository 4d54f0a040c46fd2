"""Output error: how far a model's outputs are from the original's, as one number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fewbits.data.batches import Arrays


@dataclass(frozen=True, slots=True)
class OutputError:
    """Sums over batches: of squared differences and of squared original values, over all float outputs."""

    difference: float = 0.0
    original: float = 0.0

    def update(self, original: Arrays, changed: Arrays) -> OutputError:
        """With the outputs of one more batch, by name; outputs that are not floats are left out."""
        difference, total = self.difference, self.original
        for name, values in original.items():
            if values.dtype.kind != "f":
                continue
            reference = np.where(np.isfinite(values), values, 0).astype(np.float64)
            other = np.where(np.isfinite(values), changed[name], 0).astype(np.float64)
            difference += float(np.square(other - reference).sum())
            total += float(np.square(reference).sum())
        return OutputError(difference, total)

    @property
    def relative(self) -> float:
        """Squared error over squared output (1 / SQNR); the plain squared error where the output is all zero.
        A NaN that only the changed model gives counts as infinite error."""
        if np.isnan(self.difference):
            return float("inf")
        return self.difference / self.original if self.original > 0 else self.difference


def output_error(original: Iterable[Arrays], changed: Iterable[Arrays]) -> float:
    """The relative squared error over paired batches of outputs."""
    error = OutputError()
    for one, other in zip(original, changed, strict=True):
        error = error.update(one, other)
    return error.relative
