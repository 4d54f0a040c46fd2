"""Threads that stay: starting them anew for every cast of a training takes longer than most of its casts."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def any_of(work: Callable[[int], bool], count: int, threads: int) -> bool:
    """Call ``work(task)`` for the tasks 0 to ``count - 1``, by the caller and `threads` - 1 others; whether any said
    True.

    Whoever is free takes the next task, and what has not begun when none is left is not waited for: so a helper that
    another program, or another caller, keeps from running delays nobody.
    """
    left = iter(range(count))  # whose next element the lock of the interpreter hands out once

    def take() -> bool:
        found = False
        for task in left:
            found |= work(task)
        return found

    helpers = _helpers(threads - 1, os.getpid())
    others = [helpers.submit(take) for _ in range(min(threads, count) - 1)]
    found = take()
    for other in others:
        if not other.cancel():
            found |= other.result()
    return found


@cache
def _helpers(count: int, process: int) -> ThreadPoolExecutor:
    """Helpers of `process`: a process that was forked has none of its parent's threads."""
    return ThreadPoolExecutor(count, f"fewbits-cast-{process}")
