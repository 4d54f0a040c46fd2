"""Under a time limit schemes are measured one after the other, the likeliest first, and not all need find time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from fewbits.costs.key import RegionCost
from fewbits.costs.measured import Wanted
from fewbits.costs.table import CostTable
from fewbits.flow.time.deadline import Deadline, Stage
from fewbits.formats.scheme import Scheme

_SHARE: Final = 1 / 3
"""Of the time limit, what probing may take: all that comes after it is of more use than another scheme."""
NO_TIME: Final = "the time limit left no time to measure it"

Measure = Callable[[Wanted], CostTable]


def probe_in_time(deadline: Deadline, wanted: Wanted, measure: Measure) -> CostTable:
    """What `measure` gives for those schemes of `wanted` (group → schemes) that there is time for; the others refused.

    fp32 and static codes are measured in any case, where there are none the likeliest other scheme: without them there
    is little to search.
    """
    offered = {scheme for schemes in wanted.values() for scheme in schemes}
    others = sorted((one for one in offered if not (one.is_fp32 or one.is_static)), key=_unlikely)
    chosen = offered.difference(others)
    if all(one.is_fp32 for one in chosen):
        chosen.update(others[:1])
        others = others[1:]
    began = deadline.elapsed
    table = measure(_only(wanted, chosen))
    measured = table.measured
    each = (deadline.elapsed - began) / max(1, len(chosen))
    # All that was measured before comes from the cache, so each call takes what is new in it.
    for done, scheme in enumerate(others):
        if deadline.stops(Stage.PROBE, done, len(others), each + deadline.share(1 - _SHARE)):
            break
        chosen.add(scheme)
        began = deadline.elapsed
        table = measure(_only(wanted, chosen))
        each = deadline.elapsed - began
        measured += table.measured
    known = table.measured + table.known - measured
    return replace(table, costs=_refusing(table, wanted, offered - chosen), measured=measured, known=known)


def _unlikely(scheme: Scheme) -> tuple[bool, bool, str]:
    return not scheme.is_cast, not scheme.dynamic, str(scheme)


def _only(wanted: Wanted, chosen: Collection[Scheme]) -> Wanted:
    return {name: [scheme for scheme in schemes if scheme in chosen] for name, schemes in wanted.items()}


def _refusing(table: CostTable, wanted: Wanted, left_out: Collection[Scheme]) -> dict[str, dict[str, RegionCost]]:
    refused = RegionCost(0.0, 0.0, 0.0, "", "", NO_TIME, "")
    return {
        name: {**table.costs.get(name, {}), **{str(one): refused for one in schemes if one in left_out}}
        for name, schemes in wanted.items()
        if name in table.costs or any(one in left_out for one in schemes)
    }
