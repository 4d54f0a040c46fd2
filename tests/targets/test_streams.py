"""Calls that complete per second when several threads call, on a clock that the calls move; and on real runtimes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock, get_ident

import numpy as np
import pytest

from builders import CASES
from fewbits.errors import UsageError
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.targets import TARGETS, open_target
from fewbits.targets.onnxruntime import OnnxRuntime
from fewbits.targets.openvino import OpenVino
from fewbits.targets.probe import threads_of_stream
from fewbits.targets.streams import Callers


class Clock:
    """Time that each thread has for itself: a call takes as long as `seconds` says for the caller's number."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.lock = Lock()
        self.numbers: dict[int, int] = {}
        self.now: dict[int, int] = {}
        self.calls = 0

    def call(self) -> None:
        with self.lock:
            me = get_ident()
            number = self.numbers.setdefault(me, len(self.numbers))
            self.now[me] = self.now.get(me, 0) + round(self.seconds[number] * 1e9)
            self.calls += 1

    def __call__(self) -> int:
        return self.now.get(get_ident(), 0)


def test_one_caller_gives_the_time_of_its_calls() -> None:
    clock = Clock([0.1])
    with Callers(clock.call, 1, clock) as callers:
        assert callers.block(seconds=0.45, min_calls=2, drop=3) == pytest.approx(0.1)
    assert clock.calls == 3 + 5


def test_the_rates_of_all_callers_add_up() -> None:
    # 10 and 4 calls per second; the slow one has not finished a whole number of calls when the fast one stops.
    clock = Clock([0.1, 0.25])
    together = Barrier(2)

    def call() -> None:
        # The first call of each decides who is who; after that both run on.
        if get_ident() not in clock.numbers:
            together.wait(timeout=30)
        clock.call()

    with Callers(call, 2, clock) as callers:
        assert callers.block(seconds=0.6, min_calls=1, drop=1) == pytest.approx(1 / 14)


def test_every_caller_makes_its_calls_however_short_the_block() -> None:
    clock = Clock([0.1, 0.1, 0.1])
    with Callers(clock.call, 3, clock) as callers:
        callers.block(seconds=0.0, min_calls=4, drop=2)
        assert clock.calls == 3 * (2 + 4)
        callers.block(seconds=0.0, min_calls=1, drop=0)
        assert clock.calls == 3 * (2 + 4) + 3


def test_a_failing_call_is_reported_and_leaves_no_caller_waiting() -> None:
    class BrokenError(Exception):
        pass

    def call() -> None:
        raise BrokenError

    with Callers(call, 2) as callers:
        for drop in (0, 1):
            with pytest.raises(BrokenError):
                callers.block(seconds=0.0, min_calls=1, drop=drop)


@pytest.mark.parametrize(("threads", "streams", "each"), [(8, 1, 8), (8, 3, 2), (8, 8, 1), (2, 4, 1), (0, 2, 4)])
def test_threads_are_shared_out_and_no_stream_is_without(threads: int, streams: int, each: int) -> None:
    assert threads_of_stream(threads, streams, cores=8) == each


def test_what_cannot_be_shared_out() -> None:
    with pytest.raises(UsageError, match="0 streams asked for; give 1 or more"):
        threads_of_stream(4, 0, cores=8)
    with pytest.raises(UsageError, match="9 threads"):
        threads_of_stream(9, 3, cores=8)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("streams", [2, 3])
def test_a_session_is_called_by_all_streams_at_once_and_gives_everyone_its_own_outputs(name: str, streams: int) -> None:
    case = CASES["residual"]
    artifact = open_model(case.model(0)).original()
    given = [case.inputs(2, seed) for seed in range(4 * streams)]
    with open_target(name, 1).open(artifact) as alone:
        expected = [alone(inputs) for inputs in given]
    target = open_target(name, 1, streams)
    assert (target.threads, target.streams) == (1, streams)
    with target.open(artifact) as session, ThreadPoolExecutor(streams) as callers:
        found = list(callers.map(session, given * 5))
    for place, outputs in enumerate(found):
        assert outputs.keys() == expected[place % len(given)].keys()
        for output, values in expected[place % len(given)].items():
            np.testing.assert_allclose(outputs[output], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [OnnxRuntime(2, 2), OpenVino(2, 2)], ids=TARGETS)
def test_streams_of_several_threads(target: OnnxRuntime | OpenVino) -> None:
    """More threads than this machine may have, so that none is without: only the outputs count here."""
    case = CASES["residual"]
    artifact: Artifact = open_model(case.model(0)).original()
    inputs = case.inputs(2, 0)
    with open_target(target.name, 1).open(artifact) as alone:
        expected = alone(inputs)
    with target.open(artifact) as session, ThreadPoolExecutor(2) as callers:
        for outputs in callers.map(session, [inputs] * 8):
            for output, values in expected.items():
                np.testing.assert_allclose(outputs[output], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_what_ran_is_told_of_one_stream(name: str) -> None:
    case = CASES["residual"]
    artifact = open_model(case.model(0)).original()
    alone, several = (open_target(name, 1, streams).executed(artifact, case.inputs(1, 0), 3) for streams in (1, 2))
    assert [(node.kernel, node.precision) for node in several] == [(node.kernel, node.precision) for node in alone]
