"""What is offered at which effort: schemes so close to each other that trying all takes more time than most have."""

from __future__ import annotations

from typing import Final

from fewbits.flow.goals.effort import Level
from fewbits.formats.scheme import INT4_OTHER_BLOCKS, INT4_SMOOTHED
from fewbits.space import Refusal, Space

_HIGH_ONLY: Final = frozenset({*INT4_OTHER_BLOCKS, *INT4_SMOOTHED})
_WHY: Final = "it is close to a scheme that is tried, so it is with --effort high only"


def within_effort(space: Space, level: Level) -> Space:
    """`space` without what only a high effort tries, but for groups that a rule leaves nothing else."""
    if level is Level.HIGH:
        return space
    refused = {}
    for name, schemes in space.schemes.items():
        gone = [scheme for scheme in schemes if scheme in _HIGH_ONLY]
        if gone and any(not scheme.is_fp32 and scheme not in gone for scheme in schemes):
            refused[name] = [Refusal(scheme, _WHY) for scheme in gone]
    return space.without(refused) if refused else space
