"""One pass over the observations, errors that name the tensor, and tied ranges."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.calibration.collect import collect, tie
from fewbits.calibration.ranges import METHODS, method
from fewbits.errors import DataError
from fewbits.formats.integer import INT8, UINT8
from fewbits.progress import Silent


class Counting(Silent):
    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.steps = 0

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append((title, total))

    def advance(self, note: str = "") -> None:
        self.steps += 1


def observations(batches: int = 4) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    for _ in range(batches):
        x = rng.normal(size=(2, 3, 4)).astype(np.float32)
        yield {"x": x, "relu": np.maximum(x, 0), "unused": np.full(1, np.nan, np.float32)}


@pytest.mark.parametrize("name", METHODS)
def test_collect_is_update_then_range_for_every_tensor(name: str) -> None:
    chosen = method(name)
    formats = {"relu": UINT8, "x": INT8}
    ranges = collect(observations(), [chosen], formats, Silent())[name]
    assert list(ranges) == ["relu", "x"]
    for tensor, format in formats.items():
        statistic = chosen.statistic.init()
        for observation in observations():
            statistic = statistic.update(observation[tensor])
        assert ranges[tensor] == chosen.range(statistic, format)


def test_several_methods_read_the_data_once_and_give_what_each_gives_alone() -> None:
    formats = {"relu": UINT8, "x": INT8}
    once = iter(list(observations()))
    together = collect(once, list(METHODS.values()), formats, Silent())
    assert list(together) == list(METHODS)
    for name, method_ in METHODS.items():
        assert together[name] == collect(observations(), [method_], formats, Silent())[name]


@pytest.mark.parametrize("name", METHODS)
def test_no_batch_outlives_its_turn(name: str) -> None:
    seen: list[weakref.ref[np.ndarray]] = []

    def watched() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(10):
            assert not any(reference() is not None for reference in seen)
            array = np.linspace(-1, 1, 50, dtype=np.float32)
            seen.append(weakref.ref(array))
            observation = {"x": array}
            del array
            yield observation
            del observation

    collect(watched(), [method(name)], {"x": UINT8}, Silent())
    assert len(seen) == 10


def test_progress_hears_the_stage_and_every_batch() -> None:
    progress = Counting()
    collect(observations(3), [method("percentile:99.9")], {"x": INT8}, progress, batches=3)
    assert progress.stages == [("calibrate (percentile:99.9)", 3)]
    assert progress.steps == 3


def test_a_non_finite_activation_names_its_tensor() -> None:
    with pytest.raises(DataError, match="tensor 'unused': a non-finite activation"):
        collect(observations(), [METHODS["entropy"]], {"x": INT8, "unused": INT8}, Silent())


def test_a_tensor_that_is_not_observed_is_named() -> None:
    with pytest.raises(DataError, match="'missing'"):
        collect(observations(), [METHODS["minmax"]], {"missing": INT8}, Silent())


def test_no_data_is_an_error_that_names_tensors() -> None:
    with pytest.raises(DataError, match=r"no value was seen .* 'x'"):
        collect([], [METHODS["minmax"]], {"x": INT8}, Silent())
    names = [f"t{k}" for k in range(7)]
    empty = [dict.fromkeys(names, np.zeros((0, 2), np.float32))]
    with pytest.raises(DataError, match="'t4' and 2 more"):
        collect(empty, [METHODS["mse"]], dict.fromkeys(names, UINT8), Silent())


def test_nothing_to_calibrate_gives_nothing() -> None:
    assert collect(observations(), [METHODS["mse"]], {}, Silent()) == {"mse": {}}


def test_tied_tensors_share_the_union() -> None:
    ranges = {"a": (-1.0, 2.0), "b": (0.0, 6.0), "c": (-3.0, 0.5), "d": (0.0, 1.0)}
    tied = tie(ranges, [("a", "b"), ["d", "not ranged"]])
    assert tied == {"a": (-1.0, 6.0), "b": (-1.0, 6.0), "c": (-3.0, 0.5), "d": (0.0, 1.0)}
    assert ranges["a"] == (-1.0, 2.0)


def test_classes_with_a_common_tensor_are_one() -> None:
    ranges = {name: (-float(k), float(k)) for k, name in enumerate("abcd")}
    assert tie(ranges, [{"a", "b"}, {"c", "d"}, {"b", "c"}]) == dict.fromkeys("abcd", (-3.0, 3.0))


names = st.sampled_from("abcdefgh")


@given(
    st.dictionaries(names, st.tuples(st.floats(-9, 0), st.floats(0, 9))),
    st.lists(st.lists(names, max_size=4), max_size=5),
)
def test_tie_only_widens_and_is_idempotent(ranges: dict[str, tuple[float, float]], classes: list[list[str]]) -> None:
    tied = tie(ranges, classes)
    assert list(tied) == list(ranges)
    assert all(tied[name][0] <= low and tied[name][1] >= high for name, (low, high) in ranges.items())
    assert tie(tied, classes) == tied
    for members in classes:
        assert len({tied[name] for name in members if name in tied}) <= 1
