"""Tasks that are shared with helpers are done once each, whoever calls."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from fewbits.formats.kernels.cpu_threads import any_of


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_task_is_done_once(count: int, threads: int) -> None:
    done: list[int] = []
    assert not any_of(lambda task: bool(done.append(task)), count, threads)
    assert Counter(done) == Counter(range(count))


def test_it_says_whether_any_said_true() -> None:
    assert any_of(lambda task: task == 5, 9, 2)


def test_callers_do_not_wait_for_a_helper_that_is_busy_elsewhere() -> None:
    free, begun = Event(), Event()

    def held(task: int) -> bool:
        # The helper is held until the other caller is done.
        if task == 0:
            begun.set()
        return not free.wait(60)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(any_of, held, 2, 2)
        assert begun.wait(60)
        done: list[int] = []
        any_of(lambda task: bool(done.append(task)), 20, 2)
        free.set()
        assert not first.result(60)
    assert sorted(done) == list(range(20))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_that_was_forked_has_helpers_of_its_own() -> None:
    assert not any_of(lambda _: False, 8, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if any_of(lambda task: task == 7, 8, 2) else 1)
    assert os.waitpid(child, 0)[1] == 0
