"""Peak memory: fresh processes around models that hold as much as they are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fewbits.benchmark import Candidate
from fewbits.errors import DataError
from fewbits.memory import ROUNDS, compare_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FAKE = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))
X = {"x": np.zeros((1, 3), np.float32)}
BALLAST = 50_000_000


def fake(folder: Path, name: str, **behaviour: object) -> Candidate:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(behaviour))
    return Candidate(name, path, "fake", threads=1)


def test_what_is_held_is_what_is_saved_whatever_the_process_itself_takes(tmp_path: Path) -> None:
    found = compare_memory([fake(tmp_path, "heavy", ballast=BALLAST), fake(tmp_path, "light")], X, worker=FAKE)
    saved = found.savings["light"]
    assert 0 < saved.low <= saved.value <= saved.high
    assert saved.value == pytest.approx(BALLAST, rel=0.05)
    assert {name: len(taken) for name, taken in found.peaks.items()} == {"heavy": ROUNDS, "light": ROUNDS}
    # The interpreter is in both.
    assert min(found.peaks["light"]) > 5_000_000
    assert saved.value == np.median(np.subtract(found.peaks["heavy"], found.peaks["light"]))


def test_the_same_model_saves_nothing_that_repeated_processes_do_not_scatter(tmp_path: Path) -> None:
    found = compare_memory([fake(tmp_path, "one"), fake(tmp_path, "two")], X, worker=FAKE)
    assert abs(found.savings["two"].value) < BALLAST / 20


def test_a_model_that_cannot_be_called_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bad: inputs"):
        compare_memory([fake(tmp_path, "good"), fake(tmp_path, "bad", inputs=["y"])], X, worker=FAKE)
