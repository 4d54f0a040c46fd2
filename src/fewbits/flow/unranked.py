"""Harms of schemes that the time limit left no time to measure."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Final

from fewbits.plan import Plan

_UNKNOWN: Final = 1.0
"""Where nothing was ranked at all: as large as the outputs themselves."""

Harms = Mapping[str, Mapping[str, float]]


def completed(harm: Harms, start: Plan) -> Harms:
    """`harm` (group → scheme text → harm) with that of every scheme of `start`: the median of those that are known
    where its own is not. A group must be able to stay as it is in the plan that the search begins with."""
    known = [value for schemes in harm.values() for value in schemes.values()]
    usual = median(known) if known else _UNKNOWN
    used = {name: {str(start.scheme(name)): usual} for name in sorted(start.low)}
    return {name: {**used.get(name, {}), **harm.get(name, {})} for name in {**harm, **used}}
