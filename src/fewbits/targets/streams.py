"""Calls at the same time: how many complete per second when several threads call one session."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from time import perf_counter_ns
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage is collected before and not inside: in the middle of a call it would be counted as the model's time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Callers:
    """`count` threads that call the same session over and over. A context manager; `clock` gives nanoseconds."""

    def __init__(self, call: Callable[[], object], count: int, clock: Callable[[], int] = perf_counter_ns) -> None:
        self._call = call
        self._count = count
        self._clock = clock
        self._pool = ThreadPoolExecutor(count)
        self._start = Barrier(count)

    def block(self, *, seconds: float, min_calls: int, drop: int) -> float:
        """Seconds per completed call, all callers together, in a block where each of them calls for `seconds` or
        `min_calls` times, whichever is longer, after `drop` calls that do not count.

        They start together and stop one after the other, so the rates of all, each over its own time, are added: what
        is left of a core when the first has stopped counts for nobody.
        """
        self._at_once(lambda: self._repeat(drop))
        with no_collection():
            rates = self._at_once(lambda: self._rate(seconds, min_calls))
        return 1 / sum(rates)

    def _rate(self, seconds: float, min_calls: int) -> float:
        """Calls per second of one caller."""
        self._start.wait()
        begun = self._clock()
        end = begun + round(seconds * 1e9)
        calls = 0
        while True:
            self._call()
            calls += 1
            now = self._clock()
            if calls >= min_calls and now >= end:
                return calls * 1e9 / (now - begun)

    def _repeat(self, times: int) -> None:
        for _ in range(times):
            self._call()

    def _at_once(self, work: Callable[[], T]) -> list[T]:
        running = [self._pool.submit(work) for _ in range(self._count)]
        return [one.result() for one in running]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
