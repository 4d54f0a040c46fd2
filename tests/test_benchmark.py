"""Paired latency: real processes around models that behave as they are told."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fewbits.benchmark import KEPT_CALLS, Candidate, block_order, compare, peak_memory, rounds_needed
from fewbits.errors import DataError, ModelError, TargetError, UsageError, WorkerError
from fewbits.measurement import Measure
from fewbits.targets.probe import available_cores
from fewbits.targets.worker import run_block, serve, thinned

FAKE = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))
X = {"x": np.zeros((1, 3), np.float32)}
QUICK: dict[str, Any] = {"worker": FAKE, "block_seconds": 0.01, "start_seconds": 30.0}
COUNTS = st.integers(1, 7)


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Candidate]:
    """Makes a candidate that behaves as told."""

    def make(name: str, target: str = "fake", **behaviour: Any) -> Candidate:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(behaviour))
        return Candidate(name, path, target, threads=1)

    return make


@dataclass
class Watcher:
    """A progress that acts at the first round."""

    act: Callable[[], None]
    rounds: int = 0
    titles: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int | None = None) -> None:
        self.titles.append(title)

    def advance(self, note: str = "") -> None:
        self.rounds += 1
        if self.rounds == 1:
            self.act()

    def say(self, text: str) -> None:
        pass


def children(pid: int | None = None) -> list[int]:
    """Child processes of `pid` that still run; those that have ended but were not collected count too."""
    path = Path(f"/proc/{pid or os.getpid()}/task/{pid or os.getpid()}/children")
    return [int(child) for child in path.read_text().split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# ---- the figure


def test_a_slower_candidate_is_found_slower(fake: Callable[..., Candidate]) -> None:
    result = compare([fake("plain", sleep=0.001), fake("slow", sleep=0.003)], X, **QUICK)
    interval = result.speedups["slow"]
    assert result.baseline == "plain"
    assert interval.low <= interval.value <= interval.high < 1
    assert interval.confidence == 0.95
    assert result.latencies["slow"].median > result.latencies["plain"].median


def test_a_faster_candidate_is_found_faster(fake: Callable[..., Candidate]) -> None:
    result = compare([fake("plain", sleep=0.003), fake("fast", sleep=0.001), fake("same", sleep=0.003)], X, **QUICK)
    assert result.speedups["fast"].low > 1
    assert result.speedups["same"].high < result.speedups["fast"].low
    assert set(result.speedups) == {"fast", "same"}


def test_equal_candidates_are_not_far_apart(fake: Callable[..., Candidate]) -> None:
    interval = compare([fake("one", sleep=0.002), fake("two", sleep=0.002)], X, **QUICK).speedups["two"]
    assert interval.low < 1.25
    assert interval.high > 0.8


def test_clear_difference_ends_at_the_first_look_and_raw_calls_give_the_figures(
    fake: Callable[..., Candidate],
) -> None:
    watcher = Watcher(act=lambda: None)
    result = compare([fake("a", sleep=0.0), fake("b", sleep=0.004)], X, progress=watcher, min_calls=4, **QUICK)
    assert watcher.rounds == 8
    assert watcher.titles == ["latency"]
    for latency in result.latencies.values():
        assert len(latency.blocks) == 8
        assert all(4 <= len(block) <= KEPT_CALLS for block in latency.blocks)
        assert latency.median == np.median([np.median(block) for block in latency.blocks])
    ratios = [
        np.median(a) / np.median(b)
        for a, b in zip(result.latencies["a"].blocks, result.latencies["b"].blocks, strict=True)
    ]
    assert result.speedups["b"].value == pytest.approx(np.median(ratios))
    assert "8 rounds" in result.how
    assert "3 looks" in result.how


def test_unclear_difference_ends_at_the_last_look(fake: Callable[..., Candidate]) -> None:
    # No interval is narrow enough for a negative width, and those of equal models include 1 but for rare luck.
    result = compare([fake("a"), fake("b")], X, looks=2, half_width=-1.0, **QUICK)
    interval = result.speedups["b"]
    assert len(result.latencies["a"].blocks) == 16 or interval.low > 1 or interval.high < 1


def test_one_candidate_alone_is_measured(fake: Callable[..., Candidate]) -> None:
    result = compare([fake("only")], X, **QUICK)
    assert result.speedups == {}
    assert result.latencies["only"].median > 0


# ---- several calls at the same time


def test_streams_are_called_at_the_same_time(fake: Callable[..., Candidate]) -> None:
    """A call that sleeps needs no core: four at a time complete about four times as many."""
    few, many = (replace(fake(f"{streams}", sleep=0.004), streams=streams) for streams in (1, 4))
    result = compare([few, many], X, **QUICK)
    assert result.measure is Measure.THROUGHPUT
    assert result.speedups["4"].low > 2
    assert "1 stream of 1 thread and 4 streams of 1 thread" in result.how


def test_throughput_is_counted_in_samples(fake: Callable[..., Candidate]) -> None:
    watcher = Watcher(act=lambda: None)
    one = replace(fake("one", sleep=0.004), streams=2)
    inputs = {"x": np.zeros((8, 3), np.float32)}
    result = compare([one], inputs, looks=1, progress=watcher, **QUICK)
    assert watcher.titles == ["throughput"]
    assert [len(block) for block in result.latencies["one"].blocks] == [1] * 8
    # Two calls of 8 samples in at least 4 ms.
    assert result.latencies["one"].median >= 0.004 / 16
    assert result.latencies["one"].median == np.median(result.latencies["one"].blocks)


def test_what_is_measured_differently_is_not_compared(fake: Callable[..., Candidate]) -> None:
    with pytest.raises(UsageError, match="some candidates have streams and some have none"):
        compare([fake("a"), replace(fake("b"), streams=2)], X, **QUICK)


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ({"dies_after": 9}, WorkerError, "bad: .*SIGKILL"),
        ({"inputs": ["y"]}, DataError, r"bad: inputs \['x'\] do not fit"),
    ],
)
def test_failures_in_a_stream_name_the_candidate_and_the_cause(
    fake: Callable[..., Candidate], behaviour: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        compare([replace(fake("bad", **behaviour), streams=3)], X, **QUICK)


@linux_only
def test_interrupt_leaves_no_process_with_streams(fake: Callable[..., Candidate]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare([replace(fake("a"), streams=2)], X, progress=Watcher(interrupt), **QUICK)
    assert children() == []


# ---- the order


@given(COUNTS, st.integers(0, 20))
def test_order_is_a_permutation_and_pairs_of_rounds_mirror(candidates: int, pair: int) -> None:
    first, second = block_order(2 * pair, candidates), block_order(2 * pair + 1, candidates)
    assert sorted(first) == list(range(candidates))
    assert second == first[::-1]


@given(COUNTS, st.integers(0, 9))
def test_everybody_stands_twice_at_every_place(candidates: int, pair: int) -> None:
    rounds = range(2 * pair, 2 * pair + 2 * candidates)
    stands = Counter((place, who) for r in rounds for place, who in enumerate(block_order(r, candidates)))
    assert len(stands) == candidates**2
    assert set(stands.values()) == {2}


def test_two_candidates_run_ab_ba() -> None:
    assert [block_order(round_, 2) for round_ in range(4)] == [(0, 1), (1, 0), (1, 0), (0, 1)]


def test_rounds_needed_is_the_coverage_of_the_range() -> None:
    # The range of n values misses their median with probability 2 · 2^-n.
    assert rounds_needed(0.95) == 6
    assert rounds_needed(0.5) == 2
    assert rounds_needed(1 - 2.0**-7) == 8


# ---- what goes wrong


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ({"dies_after": 5}, WorkerError, "bad: .*SIGKILL"),
        ({"raises": True}, WorkerError, "bad: .*a bug in the runtime"),
        ({"inputs": ["y"]}, DataError, r"bad: inputs \['x'\] do not fit"),
        ({"target": "toaster"}, TargetError, "bad: unknown target 'toaster'"),
    ],
)
def test_failures_name_the_candidate_and_the_cause(
    fake: Callable[..., Candidate], behaviour: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        compare([fake("good"), fake("bad", **behaviour)], X, **QUICK)


def test_a_model_that_does_not_load(fake: Callable[..., Candidate], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("not json")
    with pytest.raises(ModelError, match="broken: this is not a fake model"):
        compare([fake("good"), Candidate("broken", broken, "fake", 1)], X, **QUICK)
    with pytest.raises(ModelError, match="gone: there is no file"):
        compare([fake("good"), Candidate("gone", tmp_path / "gone", "fake", 1)], X, **QUICK)


def test_a_worker_that_hangs_is_given_up(fake: Callable[..., Candidate]) -> None:
    with pytest.raises(WorkerError, match="bad: no answer"):
        compare([fake("bad", hangs_after=0)], X, **{**QUICK, "start_seconds": 1.5})


def test_a_program_that_does_not_start_or_does_not_speak(fake: Callable[..., Candidate]) -> None:
    with pytest.raises(WorkerError, match="cannot start"):
        compare([fake("a")], X, worker=["/does/not/exist"])
    with pytest.raises(WorkerError, match="answered 'hello"):
        compare([fake("a")], X, worker=[sys.executable, "-c", "print('hello'); input()"])


@linux_only
def test_a_worker_killed_from_outside(fake: Callable[..., Candidate]) -> None:
    def kill() -> None:
        os.kill(children()[-1], signal.SIGKILL)

    with pytest.raises(WorkerError, match="SIGKILL"):
        compare([fake("a"), fake("b")], X, progress=Watcher(kill), **QUICK)
    assert children() == []


@linux_only
def test_interrupt_leaves_no_process(fake: Callable[..., Candidate]) -> None:
    seen: list[int] = []

    def interrupt() -> None:
        seen.extend(children())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare([fake("a"), fake("b"), fake("c")], X, progress=Watcher(interrupt), **QUICK)
    assert len(seen) == 3
    assert children() == []


@linux_only
def test_workers_end_with_a_parent_that_is_killed(fake: Callable[..., Candidate], tmp_path: Path) -> None:
    a, b = fake("a"), fake("b")
    script = tmp_path / "parent.py"
    script.write_text(
        "import numpy as np, pathlib\n"
        "from fewbits.benchmark import Candidate, compare\n"
        f"models = [Candidate(p, pathlib.Path(p), 'fake', 1) for p in ({str(a.model)!r}, {str(b.model)!r})]\n"
        f"compare(models, {{'x': np.zeros(3)}}, worker={FAKE!r}, rounds=1000)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "TMPDIR": str(tmp_path)})
    until(lambda: len(children(parent.pid)) == 2 and any(is_stopped(child) for child in children(parent.pid)))
    workers = children(parent.pid)
    parent.kill()
    parent.wait()
    until(lambda: not any(alive(worker) for worker in workers))


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not happen within 15 s")


# ---- what is refused


def test_threads_are_limited_to_cores(fake: Callable[..., Candidate]) -> None:
    cores = available_cores()
    model = fake("a").model
    with pytest.raises(UsageError, match=f"{cores + 1} threads asked for, but {cores} core"):
        compare([Candidate("a", model, "fake", cores + 1)], X, **QUICK)
    assert f"{cores} thread" in compare([Candidate("a", model, "fake", 0)], X, looks=1, **QUICK).how


def test_unusable_requests(fake: Callable[..., Candidate]) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        compare([], X)
    with pytest.raises(UsageError, match="share a name"):
        compare([fake("a"), fake("a")], X)
    with pytest.raises(UsageError, match="at least 7"):
        compare([fake("a")], X, rounds=6)
    with pytest.raises(DataError, match="'x' holds Python objects"):
        compare([fake("a")], {"x": np.array([None, 1], object)}, worker=FAKE)


# ---- the worker


def test_what_libraries_print_does_not_reach_the_protocol(fake: Callable[..., Candidate]) -> None:
    result = compare([fake("chatter", chatter=True)], X, looks=1, **QUICK)
    assert result.latencies["chatter"].median > 0


def test_input_names_are_free(fake: Callable[..., Candidate]) -> None:
    # "file" is a parameter of numpy.savez, and a slash is a folder in a zip archive.
    names = ["file", "a/b:0", "ü"]
    result = compare([fake("a", inputs=names)], {name: np.zeros(2) for name in names}, looks=1, **QUICK)
    assert result.latencies["a"].median > 0


def test_protocol_errors_are_answered() -> None:
    answers = io.StringIO()
    serve(lambda *_: pytest.fail("must not open"), ['{"run": {}}\n'], answers)
    assert json.loads(answers.getvalue())["error"]["kind"] == "WorkerError"
    answers = io.StringIO()
    serve(lambda *_: pytest.fail("must not open"), ['{"quit": {}}\n'], answers)
    assert answers.getvalue() == ""


def test_a_block_drops_calls_then_lasts_long_enough() -> None:
    now = 0

    def call() -> None:
        nonlocal now
        now += 100_000_000

    assert run_block(call, seconds=0.5, min_calls=2, drop=3, clock=lambda: now) == pytest.approx([0.1] * 5)
    assert now == 8 * 100_000_000
    assert len(run_block(call, seconds=0.0, min_calls=4, drop=0, clock=lambda: now)) == 4


@given(st.lists(st.floats(0, 1), max_size=50), st.integers(1, 60))
def test_thinning_keeps_order_and_bound(calls: list[float], keep: int) -> None:
    kept = thinned(calls, keep)
    assert len(kept) == min(len(calls), keep)
    remaining = iter(calls)
    assert all(any(value is other for other in remaining) for value in kept)


# ---- with a real runtime


@pytest.fixture(scope="module")
def matmul(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes an ONNX model of a few products."""
    folder = tmp_path_factory.mktemp("matmul")

    def make(repeats: int) -> Path:
        weight = numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
        tensors = ["x", *(f"y{step}" for step in range(repeats))]
        nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(tensors)]
        shape = [64, 256]
        given_, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", tensors[-1]))
        graph = helper.make_graph(nodes, "g", [given_], [result], [weight])
        path = folder / f"{repeats}.onnx"
        opset = [helper.make_opsetid("", 17)]
        path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
        return path

    return make


def test_onnxruntime_through_the_real_worker(matmul: Callable[[int], Path]) -> None:
    inputs = {"x": np.ones((64, 256), np.float32)}
    small, large = (Candidate(str(n), matmul(n), "onnxruntime:cpu", threads=1) for n in (1, 12))
    result = compare([large, small], inputs, looks=1, block_seconds=0.02)
    assert result.speedups["1"].low > 1
    with pytest.raises(DataError, match="x"):
        compare([small], {"x": np.ones((3, 3), np.float32)})


@pytest.mark.parametrize("target", ["onnxruntime:cpu", "openvino:cpu"])
def test_streams_through_the_real_worker(matmul: Callable[[int], Path], target: str) -> None:
    inputs = {"x": np.ones((64, 256), np.float32)}
    small, large = (Candidate(str(n), matmul(n), target, threads=1, streams=2) for n in (1, 12))
    result = compare([large, small], inputs, looks=1, block_seconds=0.02)
    assert result.speedups["1"].low > 1
    assert result.measure is Measure.THROUGHPUT
    with pytest.raises(DataError, match="x"):
        compare([small], {"x": np.ones((3, 3), np.float32)})


@linux_only
def test_peak_memory_is_of_the_worker_alone(matmul: Callable[[int], Path]) -> None:
    inputs = {"x": np.ones((64, 256), np.float32)}
    ballast = np.ones(200_000_000, np.uint8)
    peak = peak_memory(Candidate("one", matmul(1), "onnxruntime:cpu", threads=1), inputs)
    assert 10_000_000 < peak < ballast.nbytes
