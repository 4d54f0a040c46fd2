"""What was tried against the loss of accuracy, as the stages report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

SMOOTHED: Final = "smoothed"


@dataclass(frozen=True, slots=True)
class Remedy:
    """A remedy, the squared error after it over that before, expected or `measured`, and whether it was `taken`; for
    which `scheme` of the group, or `SMOOTHED` for all static ones that are; "" for all with static codes."""

    name: str
    share: float
    measured: bool
    taken: bool
    scheme: str = ""


Remedies = Mapping[str, tuple[Remedy, ...]]
"""By group."""


def added(remedies: Remedies, more: Iterable[tuple[str, Remedy]]) -> Remedies:
    """`remedies` and `more` of them, each with its group."""
    found = {group: list(known) for group, known in remedies.items()}
    for group, remedy in more:
        found.setdefault(group, []).append(remedy)
    return {group: tuple(known) for group, known in found.items()}


def found_codes(tried: Iterable[Remedy], scheme: str) -> tuple[str, float]:
    """How the codes of a group's weight in `scheme` were found, "" if they round to nearest, and the squared error of
    the layer with them over that of rounding to nearest."""
    taken = [one for one in tried if one.taken and one.scheme == scheme]
    return ", then ".join(one.name.removesuffix(f", {scheme}") for one in taken), prod(one.share for one in taken)
