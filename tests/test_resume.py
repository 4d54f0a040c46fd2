"""A run that is stopped at any moment goes on where it was: nothing finished is done again, nothing written is lost."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import psutil
import pytest

from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.errors import RunError
from fewbits.plan import Plan
from fewbits.record import RunRecord
from fewbits.store import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SCRIPT = Path(__file__).with_name("timing.py")
PATIENCE = 60.0
EVALUATE = """
import os
import numpy as np

with np.load("expected.npz") as stored:
    image, scores = stored["image"], stored["scores"]

def distance(predict):
    with open("calls.log", "a") as log:
        log.write("called\\n")
    return float(np.square(predict({"image": image})["scores"] - scores).mean())
"""
"""Mean squared difference to the original's scores, 0 for the original; how often it was called is on the disk."""


def furnish(folder: Path) -> Path:
    """Put an evaluate function into `folder` that logs its calls there."""
    with np.load(demo_data()) as data:
        image = data["image"][:200]
    (scores,) = onnxruntime.InferenceSession(demo_model()).run(["scores"], {"image": image})
    np.savez(folder / "expected.npz", image=image, scores=np.asarray(scores))
    (folder / "mine.py").write_text(EVALUATE)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnish(tmp_path)


def words(*more: str) -> tuple[str, ...]:
    """A run whose budget int8 everywhere misses, so that it has all stages."""
    data = ("--data", str(demo_data()), "--calibration", str(demo_calibration()))
    goal = ("--metric", "mine.py:distance", "--lower-is-better", "--max-loss", "0.0001")
    return ("tune", str(demo_model()), *data, *goal, "--objective", "size", "--threads", "1", "--out", "run", *more)


def start(folder: Path, *given: str, real: bool = False) -> subprocess.Popen[str]:
    program = ["-c", "from fewbits.cli import main; main()"] if real else [str(SCRIPT), "2.0"]
    return subprocess.Popen(
        [sys.executable, *program, *given],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, *given: str) -> tuple[int, str, str]:
    process = start(folder, *given)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def steps(folder: Path) -> list[tuple[str, str]]:
    """Stage and key of every whole line of the journal."""
    journal = folder / "run" / "trials.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [(entry["stage"], entry["key"]) for entry in map(json.loads, lines)]


def calls(folder: Path) -> int:
    log = folder / "calls.log"
    return log.read_text().count("called") if log.exists() else 0


def wait_for_steps(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    end = time.monotonic() + PATIENCE
    while len(steps(folder)) < count and process.poll() is None:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.002)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE)


@dataclass(frozen=True)
class Finished:
    """What a whole run comes to, apart from how long things took."""

    outcome: str
    plan: Plan
    model: bytes
    losses: tuple[float, ...]
    steps: frozenset[tuple[str, str]]
    files: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> Finished:
        run = folder / "run"
        record = RunRecord.from_json((run / "run.json").read_bytes())
        losses = tuple(trial.loss for trial in record.trials)
        plan = Plan.load(run / "plan.json")
        files = frozenset(path.name for path in run.iterdir())
        return cls(record.outcome, plan, (run / "model.onnx").read_bytes(), losses, frozenset(steps(folder)), files)


@dataclass(frozen=True)
class Whole:
    """A run that nothing stopped, and how often it called the evaluate function."""

    finished: Finished
    calls: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = furnish(tmp_path_factory.mktemp("whole"))
    code, _, err = finish(folder, *words())
    assert code == 0, err
    found = Finished.of(folder)
    stages = Counter(stage for stage, _ in found.steps)
    assert stages["trial"] > 2, "the budget was to be missed, so that all stages are there"
    assert stages["costs"] == 2, "two runtimes"
    assert stages["floats"] == 1
    return Whole(found, calls(folder))


def assert_the_same_run(folder: Path, whole: Whole, kills: int) -> None:
    assert Finished.of(folder) == whole.finished
    assert not [step for step, count in Counter(steps(folder)).items() if count > 1]
    # Only what was under way when it was killed is called again: one plan, or twice the original.
    assert whole.calls <= calls(folder) <= whole.calls + 2 * kills


def test_killed_after_any_step_it_goes_on_and_repeats_none(folder: Path, whole: Whole) -> None:
    moments = range(1, len(whole.finished.steps), 7)
    assert len(moments) >= 3
    for count in moments:
        process = start(folder, *words(*(("--resume",) if count > 1 else ())))
        wait_for_steps(folder, process, count)
        kill(process)
    before = steps(folder)
    code, _, err = finish(folder, *words("--resume"))
    assert code == 0, err
    assert steps(folder)[: len(before)] == before
    assert_the_same_run(folder, whole, len(moments))

    # Once more on the finished run: it ends as before, and nothing at all is measured.
    done = calls(folder)
    code, out, err = finish(folder, *words("--resume"))
    assert code == 0, err
    assert out.startswith("MET: digits.onnx")
    assert calls(folder) == done
    assert_the_same_run(folder, whole, len(moments))
    assert "The run was resumed" in (folder / "run" / "report.txt").read_text()


def test_killed_at_any_time_it_goes_on(folder: Path, whole: Whole) -> None:
    """Also while a line or a file is being written, or before there is anything at all."""
    moments = sorted(Random(5).uniform(0.5, 3.0) for _ in range(3))
    for seconds in moments:
        process = start(folder, *words("--resume"))
        time.sleep(seconds)
        kill(process)
    code, _, err = finish(folder, *words("--resume"))
    assert code == 0, err
    assert_the_same_run(folder, whole, len(moments))


def test_resuming_with_other_settings_names_every_difference(folder: Path) -> None:
    process = start(folder, *words())
    wait_for_steps(folder, process, 2)
    kill(process)
    journal = (folder / "run" / "trials.jsonl").read_bytes()
    code, out, err = finish(folder, *words("--resume", "--max-loss", "0.5", "--seed", "3"))
    assert (code, out) == (2, "")
    assert "run was started with other settings" in err
    assert "max loss: the run has '0.0001', now '0.5'" in err
    assert "seed: the run has '0', now '3'" in err
    assert "threads" not in err
    assert (folder / "run" / "trials.jsonl").read_bytes() == journal


@pytest.fixture
def heard() -> Iterator[None]:
    """A shell has what it starts in the background ignore Ctrl-C, and so does whatever that starts in turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_keeps_what_was_found_and_leaves_no_process(folder: Path) -> None:
    """On the real command, while models are being timed in processes of their own."""
    process = start(folder, *words(), real=True)
    family = psutil.Process(process.pid)
    # The originals on all runtimes are timed, and costs are measured; then plans are timed.
    wait_for_steps(folder, process, 3)
    end = time.monotonic() + PATIENCE
    while len(workers := family.children(recursive=True)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "no measuring process was started"
        time.sleep(0.01)
    before = steps(folder)
    assert before

    # Nobody else may work on the run meanwhile.
    settings = json.loads((folder / "run" / "settings.json").read_text())["settings"]
    with pytest.raises(RunError, match="another process is working on"):
        Run.create(folder / "run", settings, resume=True)

    workers += family.children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    kept = steps(folder)
    assert kept[: len(before)] == before
    assert f"{len(kept)} finished steps are kept in run/trials.jsonl" in err

    # The command that it shows is the one that goes on.
    shown = re.search(r"^  (fewbits tune .*--resume)$", err, re.MULTILINE)
    assert shown is not None
    code, _, err = finish(folder, *shlex.split(shown[1])[1:])
    assert code == 0, err
    assert steps(folder)[: len(kept)] == kept
