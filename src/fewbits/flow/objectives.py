"""What can be asked for, from its text: the objective, and the streams that go with it."""

from __future__ import annotations

from fewbits.errors import UsageError
from fewbits.targets import SIMULATED
from fewbits.targets.probe import checked_threads
from fewbits.verify.acceptance import Objective

_ENERGY = "energy"


def objective_of(text: str) -> Objective:
    """The objective called `text`. Raises UsageError."""
    if text == _ENERGY:
        raise UsageError(
            "energy is not measured on this machine, but what a model of it predicts can be made small: leave the "
            f"objective out and give --target {SIMULATED}:{_ENERGY}"
        )
    try:
        return Objective(text)
    except ValueError as error:
        raise UsageError(f"unknown objective {text!r}; choose {' or '.join(Objective)}") from error


def streams_of(objective: Objective, streams: int, threads: int) -> int:
    """How many calls run at the same time when `objective` is measured, 0 where they run one after the other: for
    throughput `streams`, or one for each of `threads` (0: every core).

    Raises:
        UsageError: streams where throughput does not count, fewer than one, or more threads than cores.
    """
    if streams < 0:
        raise UsageError(f"{streams} streams asked for; give 1 or more")
    if objective is not Objective.THROUGHPUT:
        if streams:
            raise UsageError(f"streams are for the objective throughput; {objective} is measured one call at a time")
        return 0
    return streams or checked_threads(threads)
