"""A pool of sessions: as many calls at a time as there are sessions, each with a session to itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from fewbits.data.batches import Arrays
from fewbits.errors import DataError
from fewbits.targets.pool import SessionPool


class Once:
    """A session that must not be called while it is running, and that waits for `meeting` inside of a call."""

    def __init__(self, meeting: Barrier) -> None:
        self.meeting = meeting
        self.running = False

    def __call__(self, inputs: Arrays) -> Arrays:
        assert not self.running
        self.running = True
        try:
            if not inputs:
                raise DataError("no inputs")
            self.meeting.wait(timeout=30)
        finally:
            self.running = False
        return inputs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def test_calls_run_at_the_same_time_and_never_in_the_same_session() -> None:
    # Every call waits until two are inside: a pool that let one in at a time would break the barrier.
    meeting = Barrier(2)
    pool = SessionPool([Once(meeting), Once(meeting)])
    given = [{"x": np.full(3, number)} for number in range(8)]
    with pool, ThreadPoolExecutor(8) as callers:
        found = list(callers.map(pool, given))
    assert found == given


def test_a_session_whose_call_failed_goes_back() -> None:
    pool = SessionPool([Once(Barrier(1))])
    for _ in range(3):
        with pytest.raises(DataError):
            pool({})
    assert pool({"x": np.zeros(1)})
