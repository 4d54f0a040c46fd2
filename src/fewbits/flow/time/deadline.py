"""A time limit: which stages stop early for it, so that what was found can still be accepted, and what is said then.

Whether a stage stops depends on the clock; so that a resumed run comes to the same plan, each stop is a step of the
journal. The limit is that of one process: a run that is resumed has it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import Final

from fewbits.amounts import DURATION
from fewbits.flow.time.pace import Pace
from fewbits.store import Journal

_STEP: Final = "time limit"


class Stage(StrEnum):
    """What can be shortened."""

    PROBE = "probe schemes"
    PLACE = "time plans to begin with"
    SCREEN = "screen groups"
    RANK = "rank groups"
    REFINE = "find codes for weights"
    LEARN = "learn how weights round"
    RANGE = "choose ranges by tensor"
    TIME = "time plans"
    LOOK = "time plans on the front"
    TRY = "evaluate plans"
    RACE = "time finalists"


_MEANING: Final[Mapping[Stage, str]] = {
    Stage.PROBE: "schemes were measured after {done} of {of}; those left out were not used, though they may pay",
    Stage.PLACE: "of {of} plans to begin with {done} was timed with care; another one may be faster",
    Stage.SCREEN: "groups that look slower in low precision were not timed without it, and stay as they are",
    Stage.RANK: (
        "ranking ended after {done} of {of} forms; groups that were not ranked are taken to harm as the median group, "
        "and have no other scheme than fp32 and that of the fastest plan"
    ),
    Stage.REFINE: "codes were searched for {done} of {of} weights; the others round to nearest",
    Stage.LEARN: "how weights round was learnt for {done} of {of}; the others keep their codes",
    Stage.RANGE: "ranges were tried out {done} of {of} times; better ones may be left",
    Stage.TIME: "{done} of up to {of} plans were timed to find the safest one within the limits; a safer one may be",
    Stage.LOOK: "{done} of {of} plans on the predicted front were timed; costs of single groups stand in for the rest",
    Stage.TRY: "{done} of up to {of} plans were evaluated; a better one may lie between those",
    Stage.RACE: "the plans that hold were not timed against each other; the predicted costs chose among them",
}


class Deadline:
    """The end of a run that may take `seconds` (``None``: any time) from `started` on the clock of `pace`."""

    def __init__(self, journal: Journal, pace: Pace, started: float, seconds: float | None = None) -> None:
        self._journal = journal
        self._pace = pace
        self._started = started
        self._seconds = seconds
        self._stops: dict[Stage, tuple[int, int]] = {}

    @property
    def is_set(self) -> bool:
        """Whether there is a time limit at all."""
        return self._seconds is not None

    @property
    def left(self) -> float:
        """Seconds until the end; infinite without one, negative behind it."""
        return inf if self._seconds is None else self._seconds - self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._pace.clock() - self._started

    def share(self, part: float) -> float:
        """`part` of the whole time; infinite without a limit."""
        return inf if self._seconds is None else part * self._seconds

    def stops(self, stage: Stage, done: int, of: int, need: float) -> bool:
        """Whether `stage` ends after `done` of its `of` pieces, because less than `need` seconds are left for another
        one and all that has to come after it."""
        if self._seconds is None or done >= of:
            return False
        if (_STEP, stage) not in self._journal and self.left >= need:
            return False
        end = self._journal.step(_STEP, stage, int, lambda: done)
        if done >= end:
            self._stops[stage] = (done, of)
        return done >= end

    def allowed(self, stage: Stage, done: int, of: int, each: float, after: float) -> int:
        """How many of `of` pieces of `each` seconds `stage` can come to, `done` of them included, with `after` seconds
        left then."""
        if self._seconds is None:
            return of
        room = max(0.0, self.left - after)
        more = of - done if each * (of - done) <= room else int(room / each)
        return self._journal.step(_STEP, f"{stage} after {done}", int, lambda: min(of, done + more))

    def note(self, stage: Stage, done: int, of: int) -> None:
        """Remember that `stage` ended early."""
        self._stops[stage] = (done, of)

    @property
    def notes(self) -> tuple[str, ...]:
        """What stopped early and what that means, in sentences."""
        if self._seconds is None:
            return ()
        limit = DURATION.text(self._seconds)
        return tuple(
            f"For the time limit of {limit}, {_MEANING[stage].format(done=done, of=of)}."
            for stage, (done, of) in self._stops.items()
        )
