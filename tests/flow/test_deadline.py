"""What stops early for a time limit, on a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import pytest

from fewbits.flow.time.deadline import Deadline, Stage
from fewbits.flow.time.pace import Pace, Work
from fewbits.store import Journal
from fewbits.store.journal import MemoryLines


@dataclass
class Clock:
    """Stands still unless it is turned."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[[], str]:
        """Work that takes `seconds`."""

        def work() -> str:
            self.now += seconds
            return "done"

        return work


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal() -> Journal:
    return Journal(MemoryLines())


class TestPace:
    """Durations by sort of work."""

    def test_the_mean_of_what_was_done_foretells_the_next(self, clock: Clock, journal: Journal) -> None:
        pace = Pace(journal, clock)
        assert pace.each(Work.FORM) == 0
        assert pace.timed(Work.FORM, clock.taking(2.0)) == "done"
        assert pace.each(Work.FORM) == 2
        pace.timed(Work.FORM, clock.taking(4.0))
        assert pace.each(Work.FORM) == 3
        assert pace.each(Work.TRIAL) == 0

    def test_pieces_share_the_time(self, clock: Clock, journal: Journal) -> None:
        pace = Pace(journal, clock)
        pace.timed(Work.ROUND, clock.taking(10.0), 40)
        assert pace.each(Work.ROUND) == 0.25

    def test_a_resumed_run_knows_what_it_does_not_repeat(self, clock: Clock, journal: Journal) -> None:
        Pace(journal, clock).timed(Work.EVALUATION, clock.taking(7.0))
        again = Pace(journal, clock)
        assert again.each(Work.EVALUATION) == 7
        again.timed(Work.EVALUATION, clock.taking(1.0))
        assert again.each(Work.EVALUATION) == 1, "what was measured now counts more"


class TestDeadline:
    """Stages that end."""

    def deadline(self, clock: Clock, journal: Journal, seconds: float | None) -> Deadline:
        return Deadline(journal, Pace(journal, clock), clock.now, seconds)

    def test_without_a_limit_nothing_stops(self, clock: Clock, journal: Journal) -> None:
        free = self.deadline(clock, journal, None)
        clock.now += 1e9
        assert not free.is_set
        assert free.left == inf
        assert not free.stops(Stage.RANK, 0, 10, 1e9)
        assert free.allowed(Stage.TRY, 1, 5, 1e9, 1e9) == 5
        assert free.notes == ()
        assert len(journal) == 0

    def test_a_stage_stops_when_what_follows_needs_the_rest(self, clock: Clock, journal: Journal) -> None:
        limited = self.deadline(clock, journal, 100.0)
        clock.now += 40
        assert not limited.stops(Stage.RANK, 3, 10, 60.0)
        clock.now += 1
        assert limited.stops(Stage.RANK, 4, 10, 60.0)
        (note,) = limited.notes
        assert note.startswith("For the time limit of 100s, ranking ended after 4 of 10 forms; groups that were not")

    def test_what_is_done_does_not_stop(self, clock: Clock, journal: Journal) -> None:
        limited = self.deadline(clock, journal, 1.0)
        clock.now += 5
        assert limited.left == -4
        assert not limited.stops(Stage.RANK, 10, 10, 60.0)
        assert limited.notes == ()

    def test_a_resumed_run_stops_where_the_first_did(self, clock: Clock, journal: Journal) -> None:
        """It has its time anew, and would else decide on another plan than the one that was accepted."""
        first = self.deadline(clock, journal, 100.0)
        clock.now += 99
        assert first.stops(Stage.RANK, 4, 10, 60.0)
        again = self.deadline(clock, journal, 100.0)
        assert [again.stops(Stage.RANK, done, 10, 60.0) for done in range(6)] == [False] * 4 + [True] * 2
        assert again.notes[0] == first.notes[0].replace("after 4", "after 5")

    @pytest.mark.parametrize(("elapsed", "allowed"), [(0, 5), (40, 5), (41, 4), (60, 3), (80, 1), (99, 1), (500, 1)])
    def test_as_many_trials_as_fit_before_acceptance(
        self, clock: Clock, journal: Journal, elapsed: float, allowed: int
    ) -> None:
        """One is done, each takes 10 s, acceptance 20 s."""
        limited = self.deadline(clock, journal, 100.0)
        clock.now += elapsed
        assert limited.allowed(Stage.TRY, 1, 5, 10.0, 20.0) == allowed

    def test_work_of_unknown_length_is_not_refused(self, clock: Clock, journal: Journal) -> None:
        assert self.deadline(clock, journal, 100.0).allowed(Stage.TRY, 1, 5, 0.0, 20.0) == 5
