"""Output error: how far a model's outputs are from the original's, relative to how large they are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fewbits.data.batches import Arrays
from fewbits.sensitivity.ratio import Ratio


def output_error(original: Iterable[Arrays], changed: Iterable[Arrays]) -> Ratio:
    """Squared difference over squared output (1 / SQNR), over all float outputs of paired batches, by name.

    Where the original is not finite it does not count; a NaN that only the changed model gives is an infinite error.
    """
    pairs = [_sums(one, other) for one, other in zip(original, changed, strict=True)]
    return Ratio(tuple(part for part, _ in pairs), tuple(whole for _, whole in pairs))


def _sums(original: Arrays, changed: Arrays) -> tuple[float, float]:
    difference = total = 0.0
    for name, values in original.items():
        if values.dtype.kind != "f":
            continue
        reference = np.where(np.isfinite(values), values, 0).astype(np.float64)
        other = np.where(np.isfinite(values), changed[name], 0).astype(np.float64)
        difference += float(np.square(other - reference).sum())
        total += float(np.square(reference).sum())
    return difference, total
