"""Means of channels as a plan holds them: whole numbers in steps of a thousandth of the largest one.

They only serve to correct biases by what a rounded weight makes of them, a small part of the bias itself.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewbits.errors import PlanError

_STEPS = 1000


def text(means: ArrayLike) -> str:
    """`means`, finite, as ``STEP: 3 -1000 0``; `parse` gives them back to within half a step."""
    values = np.asarray(means, np.float64)
    step = float(np.float32(np.abs(values).max(initial=0.0) / _STEPS))
    whole = np.rint(values / step) if step > 0 else np.zeros(values.shape)
    return f"{step:.7g}: {' '.join(str(int(one)) for one in whole)}"


def parse(written: str) -> NDArray[np.float32]:
    """The inverse of `text`. Raises PlanError."""
    step, colon, rest = written.partition(":")
    try:
        size, found = float(step), [int(word) for word in rest.split()]
    except ValueError as error:
        raise PlanError(f"the plan's means of channels are written STEP: 3 -1 0; {error}") from error
    if not colon or not found or not isfinite(size) or size < 0:
        raise PlanError(f"the plan's means of channels are written STEP: 3 -1 0, not {written[:40]!r}; tune again")
    return (np.asarray(found, np.float64) * size).astype(np.float32)
