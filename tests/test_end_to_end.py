"""The promises of tuning, on whole runs: what comes back, what lies in the run directory, and what each outcome means.

Latencies are made up (see timing.py) except in `real`, whose assertions hold however fast the machine happens to be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from PIL import Image

import builders
import fewbits
import fewbits.flow
from fewbits import Outcome, Plan, Rule
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.formats.scheme import Scheme
from fewbits.models import open_model
from fewbits.record import RunRecord
from fewbits.report.text import render
from fewbits.targets import open_target
from timing import Timing

FILES = {"settings.json", "trials.jsonl", "plan.json", "model.onnx", "report.txt", "run.json"}
BEST = {"best.onnx", "best_plan.json"}
OWN_FORM = {"model.xml", "model.bin"}
"""What OpenVINO's servers read; beside the ONNX file where OpenVINO serves."""
CLOSEST_TO_NOTHING = "0.00001"
"""So small a loss of cosine similarity that int8 everywhere cannot keep it, and int8 somewhere can."""

BETWEEN_ON_OPENVINO = 2e-5
"""The same for OpenVINO."""

Array = np.ndarray
Predict = Callable[[dict[str, Array]], dict[str, Array]]


def predict(content: bytes, inputs: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def digits() -> dict[str, Array]:
    with np.load(demo_data()) as data:
        return dict(data)


def accuracy(content: bytes) -> float:
    """On all held-out digits, by the runtime alone."""
    data = digits()
    return float((predict(content, {"image": data["image"]}).argmax(1) == data["labels"]).mean())


def tune(model: object, data: object, **options: object) -> fewbits.Result:
    """On one runtime with one thread, unless `options` say otherwise."""
    return fewbits.tune(model, data, **{"target": "onnxruntime", "threads": 1, **options})  # type: ignore[arg-type]


def tune_digits(**options: object) -> fewbits.Result:
    """With what most tests have in common; `options` come on top."""
    common: dict[str, object] = {"calibration": demo_calibration(), "calibration_method": "minmax"}
    return tune(demo_model(), demo_data(), **{**common, **options})


def reasons(record: RunRecord) -> dict[str, str]:
    return {row.name: row.reason for row in record.groups if row.scheme == "fp32"}


def assert_consistent(record: RunRecord, folder: Path, original: bytes) -> None:
    """What holds for every finished run, whatever its outcome."""
    unreachable = record.outcome is Outcome.BUDGET_UNREACHABLE
    by_openvino = record.target == "openvino:cpu"
    expected = FILES | (BEST if unreachable else set()) | (OWN_FORM if by_openvino else set())
    plan, model = Plan.load(folder / "plan.json"), (folder / "model.onnx").read_bytes()
    best = Plan.load(folder / "best_plan.json") if unreachable else plan
    expected |= {"codes.safetensors"} if plan.codes or best.codes else set()
    assert {path.name for path in folder.iterdir()} == expected
    assert fewbits.convert(original, folder / "plan.json").content == model
    assert (model == original) == (record.outcome is not Outcome.MET)
    assert (folder / "report.txt").read_text() == render(record)
    low = {row.name for row in record.groups if row.scheme != "fp32"}
    assert low == set(plan.low)
    assert plan.target == record.target
    assert record.target in record.settings["target"]
    assert bool(low) == (record.outcome is Outcome.MET)
    assert all(reasons(record).values())
    assert record.evaluations <= record.max_evaluations <= 9


# --- the real thing ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def record(self) -> RunRecord:
        return RunRecord.from_json((self.folder / "run.json").read_bytes())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """``fewbits demo`` with nothing made up."""
    folder = tmp_path_factory.mktemp("real") / "run"
    command = [sys.executable, "-c", "from fewbits.cli import main; main()", "demo", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    return Ran(folder, done.returncode, done.stdout, done.stderr)


def test_the_demo_ends_well_whatever_the_machine_thinks_of_int8(real: Ran) -> None:
    assert real.code == 0, real.err
    assert real.record.outcome in (Outcome.MET, Outcome.KEPT_ORIGINAL)
    assert_consistent(real.record, real.folder, demo_model().read_bytes())


def test_the_demo_keeps_the_accuracy_to_half_a_point(real: Ran) -> None:
    tuned = accuracy((real.folder / "model.onnx").read_bytes())
    assert tuned >= 0.98
    assert accuracy(demo_model().read_bytes()) - tuned <= 0.005


def test_the_demo_is_never_slower_than_its_original_beyond_the_noise(real: Ran) -> None:
    assert real.record.latency is not None
    tuned = list(real.record.latency.speedups.values())
    assert real.record.outcome is not Outcome.MET or all(interval.low > 1 for interval in tuned)


def test_the_demo_shows_a_table_and_where_the_run_lies(real: Ran) -> None:
    """Results on standard output, progress on standard error: both are useful when they are piped."""
    head, *_ = real.out.splitlines()
    assert head == f"{real.record.outcome.value.upper().replace('_', ' ')}: digits.onnx"
    for word in ("original", "latency, ms", f"Run: {real.folder}"):
        assert word in real.out
    stages = [line.split(" ", 1)[1] for line in real.err.splitlines() if line[2:3] == ":"]
    assert stages[0] == "open model and data"
    assert any(stage.startswith("profile groups: 2/2 in ") for stage in stages)


def test_kernels_and_precisions_are_read_back_from_the_runtime(real: Ran) -> None:
    """A pool may run inside of something else; a product has a kernel, in the precision that the plan says."""
    products = [row for row in real.record.groups if row.name != "pool"]
    assert len(products) == 6
    for row in products:
        assert row.kernel
        scheme = Scheme.parse(row.scheme)
        assert row.precision == ("int8" if scheme.is_static else row.scheme)
    counted = sum(real.record.kernels.values())
    assert counted >= len(products)


def test_the_demo_compares_the_runtimes_and_says_what_its_groups_cost(real: Ran) -> None:
    """Two are installed where the tests run."""
    record = real.record
    assert record.floats is not None
    assert set(record.floats.latencies) == {"onnxruntime:cpu", "openvino:cpu"}
    assert record.plans is not None
    assert record.plans.baseline == "original"
    for row in record.groups:
        costs = {one.scheme: one for one in row.schemes}
        assert costs["fp32"].refusal == ""
        assert all(one.compute >= 0 for one in row.schemes)
        assert all(one.refusal or one.kernel for one in row.schemes)
    assert record.prediction.plans >= 2
    assert -1 <= record.prediction.after <= 1


# --- the other commands, as a user gives them ------------------------------------------------------


def command(folder: Path, *words: str, without: Sequence[str] = ()) -> Ran:
    """``fewbits WORDS`` in a process of its own, as if the packages `without` were not installed."""
    script = f"import sys; sys.modules.update(dict.fromkeys({list(without)})); from fewbits.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120, check=False, cwd=folder
    )
    return Ran(folder, done.returncode, done.stdout, done.stderr)


def test_a_report_needs_no_runtime(real: Ran) -> None:
    frameworks = ("onnx", "onnx_ir", "onnxruntime", "scipy", "torch")
    shown = command(real.folder, "report", ".", without=frameworks)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == (real.folder / "report.txt").read_text()
    assert command(real.folder, "inspect", "model.onnx", without=frameworks).code != 0


def test_inspect_shows_what_each_group_may_become(tmp_path: Path) -> None:
    shown = command(tmp_path, "inspect", str(demo_model()), "--rule", "pool=fp32", "--rule", "absent=fp32")
    assert (shown.code, shown.err) == (0, "")
    for said in (
        "Groups (6 of 7 can leave fp32",
        "batch x 1 x 8 x 8",
        "5 x  Conv",
        "The rule absent=fp32 decides nothing",
    ):
        assert said in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_convert_applies_the_plan_of_a_run(timed: Timing, tmp_path: Path) -> None:
    result = tune_digits(evaluate="accuracy", out=tmp_path / "run")
    done = command(tmp_path, "convert", str(demo_model()), "--plan", "run/plan.json", "--out", "small.onnx")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("small.onnx: ")
    assert (tmp_path / "small.onnx").read_bytes() == result.artifact.content


def test_bench_compares_and_reads_back_what_ran(timed: Timing, tmp_path: Path) -> None:
    tune_digits(objective="size").save(tmp_path / "small.onnx")
    words = ("bench", str(demo_model()), "small.onnx", "--data", str(demo_data()), "--batch", "8", "--json", "b.json")
    done = command(tmp_path, *words, "--threads", "1")
    assert done.code == 0, done.err
    assert "wrote b.json" in done.err
    head, baseline, other, *_ = done.out.splitlines()
    assert head.split() == ["model", "size", "latency,", "ms", "speed-up"]
    assert baseline.startswith("digits.onnx")
    assert baseline.endswith("baseline")
    assert other.startswith("small.onnx")
    assert "QLinearConv" in done.out
    stored = json.loads((tmp_path / "b.json").read_text())
    taken = stored["comparison"]["latencies"]["small.onnx"]["blocks"]
    assert len(taken) >= 6
    assert all(seconds > 0 for block in taken for seconds in block)
    interval = stored["comparison"]["speedups"]["small.onnx"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert stored["bytes"]["small.onnx"] == (tmp_path / "small.onnx").stat().st_size


def test_doctor_says_what_this_machine_runs(tmp_path: Path) -> None:
    shown = command(tmp_path, "doctor", "--no-measure")
    assert shown.code == 0, shown.err
    assert f"onnxruntime {onnxruntime.__version__}: ready" in shown.out
    assert "QLinearConv" in shown.out


# --- outcomes ------------------------------------------------------------------------------------


def test_met(timed: Timing, tmp_path: Path) -> None:
    result = tune_digits(evaluate="accuracy", max_loss=0.005, out=tmp_path / "run")
    assert result.outcome is Outcome.MET
    assert result.outcome.exit_code == 0
    assert_consistent(result.record, tmp_path / "run", demo_model().read_bytes())
    assert set(result.plan.low) == {row.name for row in result.record.groups}
    assert {row.precision for row in result.record.groups} == {"int8"}
    assert accuracy(demo_model().read_bytes()) - accuracy(result.artifact.content) <= 0.005
    assert result.artifact.size < demo_model().stat().st_size / 2
    assert result.speedup is not None
    assert result.speedup.value == 2
    # Int8 everywhere was enough: the original, one plan, and both once more for the acceptance.
    assert result.record.evaluations == 4
    assert len(result.record.trials) == 1


@pytest.mark.parametrize(("speed", "evaluations"), [(0.8, 1), (1.01, 4)])
def test_kept_original(timed: Timing, tmp_path: Path, speed: float, evaluations: int) -> None:
    """Surely slower ends before the search; faster within the noise ends after it. Either gives the original back."""
    timed.speed = speed
    result = tune_digits(out=tmp_path / "run")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert result.outcome.exit_code == 4
    assert result.artifact.content == demo_model().read_bytes()
    assert result.record.evaluations == evaluations
    assert f"{speed:.2f}x" in result.record.reason
    assert_consistent(result.record, tmp_path / "run", demo_model().read_bytes())
    assert "Serve it as it is" in str(result)


def test_a_file_that_is_kept_comes_back_byte_for_byte(timed: Timing, tmp_path: Path) -> None:
    """Also where another writer of ONNX ordered its fields differently than this one would."""
    oddly_written = demo_model().read_bytes() + onnx.ModelProto(producer_name="twice").SerializeToString()
    (tmp_path / "odd.onnx").write_bytes(oddly_written)
    result = tune(tmp_path / "odd.onnx", demo_data(), rules=[Rule.parse("*=fp32")], out=tmp_path / "run", threads=1)
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert result.artifact.content == (tmp_path / "run" / "model.onnx").read_bytes() == oddly_written


def elementwise() -> onnx.ModelProto:
    net = builders.Net()
    return net.model(
        {"x": (TensorProto.FLOAT, ("batch", 8))}, {"y": (net.add("Sigmoid", net.add("Relu", "x")), ("batch", 8))}
    )


def lonely_joint() -> onnx.ModelProto:
    """A sum that int8 kernels exist for, but nothing beside it that would give or take codes."""
    net = builders.Net()
    added = net.add("Add", net.add("Relu", "x"), net.add("Sigmoid", "x"))
    return net.model({"x": (TensorProto.FLOAT, ("batch", 8))}, {"y": (net.add("Tanh", added), ("batch", 8))})


@pytest.mark.parametrize("model", [elementwise, lonely_joint])
def test_a_model_with_nothing_to_quantise_is_kept_without_measuring(
    timed: Timing, tmp_path: Path, model: Callable[[], onnx.ModelProto]
) -> None:
    given = model().SerializeToString()
    data = {"x": np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)}
    result = tune(given, data, evaluate="cosine", out=tmp_path / "run")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert "no group of this model can leave fp32" in result.record.reason
    assert not timed.asked
    assert result.record.evaluations == 0
    assert_consistent(result.record, tmp_path / "run", given)
    assert any("2 Relu" in note or "1 Relu" in note for note in result.record.notes)


def test_budget_unreachable(timed: Timing, tmp_path: Path) -> None:
    """No int8 model gives exactly the original's outputs. The closest one is kept, beside the original."""
    given = builders.gemm().SerializeToString()
    result = tune(given, builders.features(200), evaluate="cosine", max_loss=0, out=tmp_path / "run")
    assert result.outcome is Outcome.BUDGET_UNREACHABLE
    assert result.outcome.exit_code == 3
    assert result.artifact.content == given
    assert not any(trial.within for trial in result.record.trials)
    assert_consistent(result.record, tmp_path / "run", given)
    best = Plan.load(tmp_path / "run" / "best_plan.json")
    assert best == result.best_plan
    assert best.low
    assert result.best is not None
    closest = (tmp_path / "run" / "best.onnx").read_bytes()
    assert fewbits.convert(given, best).content == closest == result.best.content
    assert "best.onnx" in str(result)


def test_a_plan_that_comes_to_the_original_is_not_within_any_budget(timed: Timing) -> None:
    """With all products back in fp32 the pooling between them goes back, too: what is left is no plan at all."""
    result = tune_digits(evaluate="cosine", max_loss=0)
    assert result.outcome is Outcome.BUDGET_UNREACHABLE
    assert result.best_plan is not None
    assert result.best_plan.low
    assert all(trial.loss > 0 for trial in result.record.trials)
    closest = min(result.record.trials, key=lambda trial: trial.loss)
    assert closest.reverted == len(result.record.groups) - len(result.best_plan.low)


# --- the search ----------------------------------------------------------------------------------


def test_a_missed_budget_is_reached_by_going_back_to_fp32(timed: Timing, tmp_path: Path) -> None:
    result = tune_digits(evaluate="cosine", max_loss=CLOSEST_TO_NOTHING, out=tmp_path / "run")
    record = result.record
    assert result.outcome is Outcome.MET
    assert_consistent(record, tmp_path / "run", demo_model().read_bytes())
    first, *others = record.trials
    assert not first.within
    assert first.reverted == 0
    assert any(trial.within for trial in others)
    assert 0 < len(result.plan.low) < len(record.groups)
    bought = "fp32 here is what the accuracy budget buys at the least cost, by the predicted front"
    assert bought in reasons(record).values()
    assert all(row.sensitivity > 0 for row in record.groups), "ranked, so every group has its sensitivity"
    assert all(row.precision == "fp32" for row in record.groups if row.scheme == "fp32")
    assert all(row.precision == "int8" for row in record.groups if row.scheme != "fp32")
    assert record.accuracy is not None
    assert record.accuracy.loss.value <= float(CLOSEST_TO_NOTHING)


class Judge:
    """An evaluate function that lets plans hold or fail as a coin falls, and counts what it is asked."""

    def __init__(self, seed: int) -> None:
        self._coin = Random(seed)
        self.calls = 0

    def __call__(self, predict: Predict) -> float:
        self.calls += 1
        predict(builders.tokens(1))
        original_or_first_plan = self.calls <= 3
        if original_or_first_plan:
            return 1.0 if self.calls < 3 else 0.5
        return 1.0 if self._coin.random() < 0.5 else 0.5 + 0.1 * self._coin.random()


@pytest.mark.parametrize("seed", range(4))
def test_evaluations_stay_within_the_bound_however_the_plans_fare(timed: Timing, seed: int) -> None:
    judge = Judge(seed)
    data = builders.tokens(40)
    result = tune(builders.transformer(), data, evaluate=judge, calibration_method="minmax")
    assert len(result.record.trials) > 1
    assert result.record.evaluations == judge.calls
    assert judge.calls <= result.record.max_evaluations == 9
    assert [trial.number for trial in result.record.trials] == list(range(len(result.record.trials)))


def test_the_selected_plan_is_one_that_held(timed: Timing) -> None:
    result = tune_digits(evaluate="cosine", max_loss=CLOSEST_TO_NOTHING)
    held = [trial for trial in result.record.trials if trial.within]
    reverted = len(result.record.groups) - len(result.plan.low)
    assert reverted in {trial.reverted for trial in held}


def test_the_smallest_file_is_found_even_where_it_is_slower(timed: Timing, tmp_path: Path) -> None:
    timed.speed = 0.9
    result = tune_digits(evaluate="accuracy", max_loss=0.005, objective="size", out=tmp_path / "run")
    assert result.outcome is Outcome.MET
    assert result.record.objective == "size"
    assert result.record.tuned_bytes == result.artifact.size < demo_model().stat().st_size / 2
    assert "slower: 0.90x" in result.record.reason
    assert set(result.plan.low) == {row.name for row in result.record.groups}
    # Which groups look slower does not matter here, so nothing is timed for it.
    assert ("placed", "screened") not in timed.asked
    assert_consistent(result.record, tmp_path / "run", demo_model().read_bytes())


def test_a_group_that_is_slower_in_int8_stays_in_fp32(timed: Timing, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the profile it is slower, and the model without it is faster end to end."""
    from fewbits.attribution import Share
    from fewbits.flow import screening

    def profile(job: object, site: object, name: str, artifact: object) -> dict[str, Share]:
        groups = ["stem/conv", "block1/dw/conv", "block1/pw/conv", "block2/dw/conv", "block2/pw/conv", "classifier"]
        low = name != "original"
        kernel, precision = ("QLinearConv", "int8") if low else ("Conv", "fp32")
        return {
            group: Share(kernel, precision, 30e-6 if low and group == "stem/conv" else 10e-6 if low else 20e-6)
            for group in groups
        }

    monkeypatch.setattr(screening, "profile", profile)
    timed.speeds = {"screened": 1.2}
    result = tune_digits()
    assert result.outcome is Outcome.MET
    assert reasons(result.record) == {"stem/conv": "slower in low precision: 30 us against 20 us"}


@pytest.mark.parametrize(
    ("sort", "scheme"),
    [("dynamic", "w:int8r/channel a:uint8/tensor dynamic"), ("w:int8r/g32@0", "w:int8r/g32@0")],
)
def test_schemes_that_need_no_ranges(timed: Timing, tmp_path: Path, sort: str, scheme: str) -> None:
    """All products in one of them is a start, and the fastest here."""
    timed.speeds = {f"{sort} products": 4.0, "tuned": 4.0, "screened": 1.0}
    given = builders.transformer().SerializeToString()
    result = tune(given, builders.tokens(70), evaluate="cosine", max_loss=0.05, out=tmp_path / "run")
    assert result.outcome is Outcome.MET
    assert {str(result.plan.scheme(name)) for name in result.plan.low} == {scheme}
    assert len(result.plan.low) == 13, "all products by a constant matrix, the classifier among them, which is a Gemm"
    assert result.plan.ranges is not None
    assert_consistent(result.record, tmp_path / "run", given)
    ran = {row.precision for row in result.record.groups if row.scheme == scheme}
    assert ran == ({"int8"} if sort == "dynamic" else {"fp32"})


# --- several runtimes ----------------------------------------------------------------------------


def test_the_original_comes_back_for_the_runtime_where_it_is_fastest(timed: Timing, tmp_path: Path) -> None:
    timed.speed = 0.8
    timed.speeds = {"openvino:cpu": 1.25}
    result = tune_digits(target="auto", out=tmp_path / "run")
    record = result.record
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert record.target == result.target == "openvino:cpu"
    assert "Serve it on openvino:cpu, where it has 1.25x its speed on onnxruntime:cpu" in record.reason
    assert result.artifact.content == demo_model().read_bytes()
    assert_consistent(record, tmp_path / "run", demo_model().read_bytes())
    assert "openvino" in record.machine.versions
    # What ran is what runs there, also where the best plan would have been one for the other runtime.
    assert not any("com.microsoft" in row.kernel for row in record.groups)
    assert all(row.precision == "fp32" for row in record.groups if row.kernel)
    assert record.floats is not None
    assert record.floats.speedups["openvino:cpu"].value == 1.25


def test_the_first_runtime_may_be_the_one_to_keep(timed: Timing, tmp_path: Path) -> None:
    timed.speed = 0.8
    timed.speeds = {"openvino:cpu": 0.5, "*on openvino:cpu": 0.9}
    result = tune_digits(target="auto", out=tmp_path / "run")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert result.target == result.plan.target == "onnxruntime:cpu"
    assert "Serve it on onnxruntime:cpu, where it has 2.00x its speed on openvino:cpu" in result.record.reason
    assert any("com.microsoft" in row.kernel for row in result.record.groups)
    assert_consistent(result.record, tmp_path / "run", demo_model().read_bytes())


def test_the_plan_of_the_fastest_runtime_wins(timed: Timing, tmp_path: Path) -> None:
    timed.speeds = {"screened": 1.0, "openvino:cpu": 1.5, "original*": 0.7, "*on openvino:cpu": 3.0}
    result = tune_digits(target="auto", evaluate="accuracy", max_loss=0.005, out=tmp_path / "run")
    record = result.record
    assert result.outcome is Outcome.MET
    assert record.target == result.plan.target == "openvino:cpu"
    assert_consistent(record, tmp_path / "run", demo_model().read_bytes())
    assert {row.precision for row in record.groups if row.scheme != "fp32" and row.name != "pool"} == {"int8"}
    data = digits()
    right = (result.predict({"image": data["image"][:256]})["scores"].argmax(1) == data["labels"][:256]).mean()
    assert right >= 0.97
    # One race of floats, a quick look, a careful one, and the acceptance; both tables are priced.
    assert timed.asked[0] == ("onnxruntime:cpu", "openvino:cpu")
    assert timed.priced == ["onnxruntime:cpu", "openvino:cpu"]


def test_the_search_works_on_the_other_runtime_as_well(timed: Timing, tmp_path: Path) -> None:
    result = tune_digits(target="openvino", evaluate="cosine", max_loss=BETWEEN_ON_OPENVINO, out=tmp_path / "run")
    first, *others = result.record.trials
    assert not first.within
    assert others
    assert result.outcome is Outcome.MET
    assert 0 < len(result.plan.low) < len(result.record.groups)
    assert_consistent(result.record, tmp_path / "run", demo_model().read_bytes())


def test_where_no_runtime_can_do_anything_all_are_named(timed: Timing, tmp_path: Path) -> None:
    given = elementwise().SerializeToString()
    data = {"x": np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)}
    timed.speeds = {"openvino:cpu": 2.0}
    result = tune(given, data, evaluate="cosine", target="auto", out=tmp_path / "run")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert "no group of this model can leave fp32 on onnxruntime:cpu or openvino:cpu" in result.record.reason
    assert "Serve it on openvino:cpu, where it has 2.00x" in result.record.reason
    assert result.target == "openvino:cpu"
    assert_consistent(result.record, tmp_path / "run", given)


def test_without_openvino_all_is_as_with_one_runtime(tmp_path: Path) -> None:
    words = ("tune", str(demo_model()), "--data", str(demo_data()), "--threads", "1", "--out", "run")
    script = f"import sys; sys.modules['openvino'] = None; import timing; timing.run(2.0, {list(words)})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env=with_these_modules(),
    )
    assert done.returncode == 0, done.stderr
    record = RunRecord.from_json((tmp_path / "run" / "run.json").read_bytes())
    assert record.settings["target"] == record.target == "onnxruntime:cpu"
    assert record.floats is None
    assert "openvino" not in record.settings["versions"]


def with_these_modules() -> dict[str, str]:
    """The environment, in which the modules beside this file are found."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


class Fails:
    """An evaluate function that does not answer the first time that a plan is scored."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, predict: Predict) -> float:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("the data server is gone")
        predict({"image": digits()["image"][:20]})
        return 0.9


def test_a_metric_that_does_not_work_is_found_before_anything_is_timed(timed: Timing) -> None:
    with pytest.raises(fewbits.MetricError, match="ZeroDivisionError"):
        tune_digits(target="auto", evaluate=lambda _: 1 / 0)
    assert not timed.asked
    assert not timed.priced


def test_a_resumed_run_on_two_runtimes_takes_no_figure_twice(timed: Timing, tmp_path: Path) -> None:
    timed.speeds = {"screened": 1.0, "openvino:cpu": 1.5, "original*": 0.7, "*on openvino:cpu": 3.0}
    evaluate = Fails()
    options = {"target": "auto", "evaluate": evaluate, "out": tmp_path / "run"}
    with pytest.raises(fewbits.MetricError, match="the data server is gone"):
        tune_digits(**options)
    asked, priced = list(timed.asked), list(timed.priced)
    assert asked[0] == ("onnxruntime:cpu", "openvino:cpu")
    assert priced == ["onnxruntime:cpu", "openvino:cpu"]
    result = tune_digits(**options, resume=True)
    assert result.outcome is Outcome.MET
    assert result.target == "openvino:cpu"
    assert timed.priced == priced
    assert timed.asked == [*asked, ("original", "tuned")]
    assert evaluate.calls == 4


# --- measured costs ------------------------------------------------------------------------------


def cost_steps(run: Path) -> dict[str, dict[str, int]]:
    """Target → how many regions were measured and how many were known, from the journal."""
    entries = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return {entry["key"]: entry["value"] for entry in entries if entry["stage"] == "costs"}


def test_two_runs_at_once_share_the_costs_and_a_third_measures_none(own_costs: Path, tmp_path: Path) -> None:
    """With costs measured for real; only latencies are made up."""
    words = ["tune", str(demo_model()), "--data", str(demo_data()), "--threads", "1", "--calibration-method", "minmax"]

    def start(name: str) -> subprocess.Popen[str]:
        script = f"import timing; timing.run(2.0, {[*words, '--out', name]}, costs=False)"
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=with_these_modules(),
        )

    for process in [start("one"), start("other")]:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert "stored costs" not in err
    both = [cost_steps(tmp_path / name) for name in ("one", "other")]
    assert all(set(steps) == {"onnxruntime:cpu", "openvino:cpu"} for steps in both)
    third = start("third")
    _, err = third.communicate(timeout=200)
    assert third.returncode == 0, err
    for target, step in cost_steps(tmp_path / "third").items():
        assert step["measured"] == 0
        # Whoever came first to a region, everybody finds it.
        assert step["known"] == both[0][target]["measured"] + both[0][target]["known"] > 0


@pytest.mark.parametrize("cache", ["damaged", "a folder", "nowhere"])
def test_costs_that_cannot_be_kept_stop_nothing_and_it_is_said(
    timed: Timing, own_costs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    if cache == "damaged":
        own_costs.parent.mkdir()
        own_costs.write_bytes(b"this is not a database, but it is long enough to be looked at" * 50)
    elif cache == "a folder":
        own_costs.mkdir(parents=True)
    else:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("FEWBITS_CACHE", str(tmp_path / "file" / "below"))
    told = Told([], [])
    result = tune_digits(progress=told)
    assert result.outcome is Outcome.MET
    (said,) = (text for text in told.said if "The stored costs in" in text)
    assert ("Begun anew" if cache == "damaged" else "kept for this run only") in said


# --- evaluate ------------------------------------------------------------------------------------


def share_right(predict: Predict) -> float:
    data = digits()
    return float((predict({"image": data["image"]})["scores"].argmax(1) == data["labels"]).mean())


def right_per_sample(predict: Callable[[Array], dict[str, Array]]) -> list[bool]:
    data = digits()
    return list((predict(data["image"])["scores"].argmax(1) == data["labels"]).astype(float))


def share_wrong(predict: Predict) -> np.float32:
    return np.float32(1 - share_right(predict))


@pytest.mark.parametrize(
    ("evaluate", "options", "per_sample"),
    [
        (share_right, {}, False),
        (right_per_sample, {}, True),
        (share_wrong, {"higher_is_better": False}, False),
    ],
)
def test_a_function_of_ones_own(
    timed: Timing, evaluate: Callable[[Predict], object], options: dict[str, object], per_sample: bool
) -> None:
    result = tune_digits(evaluate=evaluate, max_loss=0.005, **options)
    assert result.outcome is Outcome.MET
    found = result.record.accuracy
    assert found is not None
    assert found.metric == evaluate.__name__
    expected = accuracy(demo_model().read_bytes())
    assert found.original.value == pytest.approx(1 - expected if evaluate is share_wrong else expected)
    assert (found.original.low < found.original.high) == per_sample
    assert found.samples == (899 if per_sample else 0)
    # Its data is its own: asked twice about the original, once about the plan, and not again for the acceptance.
    assert result.record.evaluations == 3
    assert (result.record.splits.selection, result.record.splits.acceptance) == (0, 0)


def test_lower_is_better_turns_the_loss_around(timed: Timing) -> None:
    """Every plan seems better than the original in this direction, and worse in the other."""
    scores = iter([0.5, 0.5, *[0.4] * 20])
    better = tune_digits(evaluate=lambda _: next(scores), higher_is_better=False, max_loss=0.05)
    assert better.outcome is Outcome.MET
    scores = iter([0.5, 0.5, *[0.4] * 20])
    worse = tune_digits(evaluate=lambda _: next(scores), higher_is_better=True, max_loss=0.05)
    assert worse.outcome is Outcome.BUDGET_UNREACHABLE


def test_the_allowed_loss_is_relative_with_percent_and_absolute_without(timed: Timing) -> None:
    """From 0.5 to 0.48 are 4 % of the original's score, or 0.02."""

    def outcome(max_loss: str | float) -> Outcome:
        scores = iter([0.5, 0.5, *[0.48] * 20])
        return tune_digits(evaluate=lambda _: next(scores), max_loss=max_loss).outcome

    assert outcome("5%") is Outcome.MET
    assert outcome("3%") is Outcome.BUDGET_UNREACHABLE
    assert outcome(0.03) is Outcome.MET
    assert outcome("0.01") is Outcome.BUDGET_UNREACHABLE


def test_a_model_that_scores_nothing_has_no_relative_loss_but_an_absolute_one(timed: Timing) -> None:
    with pytest.raises(fewbits.MetricError, match=r"scores 0.*give an absolute loss such as --max-loss 0\.01"):
        tune_digits(evaluate=lambda _: 0.0, max_loss="1%")
    assert tune_digits(evaluate=lambda _: 0.0, max_loss=0.01).outcome is Outcome.MET


# --- data ----------------------------------------------------------------------------------------


def batches_of_digits() -> Iterator[tuple[dict[str, Array], Array]]:
    data = digits()
    for start in range(0, len(data["labels"]), 100):
        yield {"image": data["image"][start : start + 100]}, data["labels"][start : start + 100]


CALLABLE = """
import numpy as np
from fewbits.demo import demo_data

def batches():
    with np.load(demo_data()) as data:
        for start in range(0, 899, 64):
            yield data["image"][start:start + 64], data["labels"][start:start + 64]
"""


def as_callable(folder: Path) -> str:
    (folder / "mine.py").write_text(CALLABLE)
    return f"{folder / 'mine.py'}:batches"


@pytest.mark.parametrize(
    "form",
    [
        lambda folder: str(demo_data()),
        lambda folder: digits(),
        lambda folder: (digits()["image"], digits()["labels"]),
        lambda folder: list(batches_of_digits()),
        lambda folder: batches_of_digits(),
        as_callable,
    ],
    ids=["npz", "mapping", "pair", "list of batches", "generator", "file.py:function"],
)
def test_the_same_data_in_any_form_is_the_same_run(
    timed: Timing, tmp_path: Path, form: Callable[[Path], fewbits.flow.tuning.DataSource]
) -> None:
    timed.speed = 0.5
    data = form(tmp_path)
    result = tune(demo_model(), data, evaluate="accuracy", calibration_method="minmax")
    assert result.record.settings["data"] == _digest()
    assert result.record.splits.shared == ()


def _digest() -> str:
    from fewbits.data import open_data

    return open_data(demo_data(), fewbits.open_model(demo_model()).inputs).digest


def test_a_folder_of_images_scores_as_the_arrays_do(timed: Timing, tmp_path: Path) -> None:
    data = digits()
    few = slice(0, 120)
    for index, (image, label) in enumerate(zip(data["image"][few], data["labels"][few], strict=True)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(folder / f"{index:03}.png")
    result = tune_digits_on(tmp_path / "images", images=fewbits.flow.setup.ImageOptions(size=(8, 8)))
    assert result.outcome is Outcome.MET
    assert result.record.accuracy is not None
    assert result.record.accuracy.original.value >= 0.95
    splits = result.record.splits
    assert splits.calibration + splits.search + splits.selection + splits.acceptance == 120


def test_images_may_serve_the_calibration_alone(timed: Timing, tmp_path: Path) -> None:
    for index, image in enumerate(digits()["image"][:20]):
        Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(tmp_path / f"{index:03}.png")
    result = tune_digits_on(digits(), calibration=str(tmp_path), images=fewbits.flow.setup.ImageOptions(size=(8, 8)))
    assert result.record.splits.calibration == 20


def tune_digits_on(data: object, **options: object) -> fewbits.Result:
    return tune(
        demo_model(),
        data,
        evaluate="accuracy",
        max_loss=0.05,
        calibration_method="minmax",
        **options,
    )


@pytest.mark.parametrize("samples", [1, 10])
@pytest.mark.parametrize("own_calibration", [True, False])
def test_with_few_samples_it_says_what_they_were_shared_for(timed: Timing, samples: int, own_calibration: bool) -> None:
    few = {name: array[:samples] for name, array in digits().items()}
    result = tune_digits_on(few, calibration=demo_calibration() if own_calibration else None)
    splits = result.record.splits
    assert result.outcome is Outcome.MET
    assert splits.shared
    assert ("calibration" in splits.shared[0]) == (not own_calibration)
    assert splits.calibration == (256 if own_calibration else max(samples // 2, 1))
    assert splits.shared[0] in " ".join(render(result.record).split())
    assert splits.acceptance == (samples + 1) // 2


def with_fixed_batch(size: int) -> onnx.ModelProto:
    model = onnx.load(demo_model())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return model


@pytest.mark.parametrize("size", [1, 7])
def test_a_fixed_batch_size_stays_fixed(timed: Timing, size: int) -> None:
    """899 samples are no multiple of 7: the last call is filled up and its surplus dropped."""
    given = with_fixed_batch(size)
    result = tune(given, demo_data(), evaluate="accuracy", max_loss=0.005, calibration_method="minmax", batch=3)
    assert result.outcome is Outcome.MET
    tuned = onnx.load_from_string(result.artifact.content)
    assert tuned.graph.input[0].type == given.graph.input[0].type
    data = digits()["image"]
    for start in range(0, 5 * size, size):
        piece = {"image": data[start : start + size]}
        expected = predict(given.SerializeToString(), piece)
        assert (predict(result.artifact.content, piece).argmax(1) == expected.argmax(1)).mean() > 0.5
    assert any(f"image {size}x1x8x8" in note for note in result.record.notes)


def test_a_dynamic_batch_stays_dynamic_and_latency_is_measured_at_the_one_asked_for(timed: Timing) -> None:
    result = tune_digits(batch=5)
    data = digits()["image"]
    assert [len(predict(result.artifact.content, {"image": data[:size]})) for size in (1, 3, 64)] == [1, 3, 64]
    assert any("image 5x1x8x8" in note for note in result.record.notes)


def test_weights_beside_the_model_are_part_of_it(timed: Timing, tmp_path: Path) -> None:
    onnx.save_model(
        onnx.load(demo_model()), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    before = {name: (tmp_path / name).read_bytes() for name in ("m.onnx", "m.data")}
    result = tune(tmp_path / "m.onnx", demo_data(), calibration_method="minmax", out=tmp_path / "run")
    assert result.outcome is Outcome.MET
    assert result.record.original_bytes > 250_000
    # Wherever weights lie, the plan is that of the same model.
    embedded = open_model(demo_model())
    assert result.plan.model_sha256 == embedded.sha256
    saved = result.save(tmp_path / "small.onnx")
    assert saved.stat().st_size + (tmp_path / "small.onnx.data").stat().st_size < 0.5 * sum(map(len, before.values()))
    image = {"image": digits()["image"][:9]}
    expected = result.predict(image)
    with open_target(result.target, 1).open(embedded.knowing(result.codes).converted(result.plan)) as session:
        assert all(np.array_equal(session(image)[name], expected[name]) for name in expected)
    again = fewbits.convert(tmp_path / "m.onnx", result.plan, codes=result.codes)
    for one in (saved, tmp_path / "run" / "model.onnx"):
        with open_target(result.target, 1).open(open_model(one).original()) as session:
            assert all(np.array_equal(session(image)[name], expected[name]) for name in expected)
        assert open_model(one).original().outside == again.outside
    outputs = fewbits.flow.run(tmp_path / "run", image, threads=1)
    assert all(np.allclose(outputs[name], expected[name], atol=1e-5) for name in expected)
    with pytest.raises(fewbits.UsageError, match="file of the original model"):
        result.save(tmp_path / "m.onnx")
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


# --- what the caller has is left alone, and what is done is told -----------------------------------


def test_the_given_model_is_never_changed(timed: Timing) -> None:
    given = builders.residual()
    before = given.SerializeToString()
    tune(given, builders.images(70), evaluate="cosine", max_loss="5%", calibration_method="minmax")
    assert given.SerializeToString() == before


def test_without_a_run_directory_nothing_is_written(
    timed: Timing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tune_digits()
    assert result.path is None
    assert list(tmp_path.iterdir()) == []
    result.save("small.onnx")
    assert Path("small.onnx").read_bytes() == result.artifact.content


def test_rules_decide_and_those_without_a_match_are_reported(timed: Timing) -> None:
    rules = [Rule.parse("block1/*=fp32"), "blok2/*=fp32"]
    result = tune_digits(rules=rules)
    why = reasons(result.record)
    assert {"block1/dw/conv", "block1/pw/conv"} <= set(why)
    assert "the rule block1/*=fp32" in why["block1/dw/conv"]
    assert "block2/dw/conv" in result.plan.low
    assert (
        "The rule blok2/*=fp32 decides nothing: it matches no group, or an earlier rule comes first."
        in result.record.notes
    )


def test_operations_of_no_group_are_reported(timed: Timing) -> None:
    result = tune(builders.transformer(), builders.tokens(70), max_loss="50%", calibration_method="minmax", threads=1)
    (note,) = (note for note in result.record.notes if note.startswith("Operations of no group"))
    assert "2 Softmax" in note
    assert "LayerNormalization" in note


@dataclass
class Told:
    """Progress that remembers."""

    stages: list[str]
    said: list[str]

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append(title)

    def advance(self, note: str = "") -> None:
        assert isinstance(note, str)

    def say(self, text: str) -> None:
        self.said.append(text)


def test_every_stage_is_told_in_order(timed: Timing) -> None:
    told = Told([], [])
    tune_digits(evaluate="cosine", max_loss=CLOSEST_TO_NOTHING, progress=told)
    found = [stage for stage in told.stages if not stage.startswith("calibrate")]
    assert found == [
        "open model and data",
        "evaluate the original",
        "even out channels",
        "find channels to smooth",
        "find codes for weights",
        "convert plans to begin with",
        "choose biases",
        "profile groups",
        "evaluate plans",
        "rank groups",
        "trace the front",
        "time plans on the predicted front",
        "trace the front",
        "evaluate plans",
        "evaluate for acceptance",
        "explain losses",
    ]
    assert any("plans over the original on onnxruntime:cpu" in text for text in told.said)


def test_one_run_after_the_other_decides_the_same(timed: Timing) -> None:
    """For the smallest file; for the lowest latency it also depends on what the profile shows."""
    one, other = (
        tune_digits(evaluate="cosine", max_loss=CLOSEST_TO_NOTHING, objective="size", seed=3) for _ in range(2)
    )
    assert one.plan == other.plan
    assert one.artifact.content == other.artifact.content
    assert [trial.loss for trial in one.record.trials] == [trial.loss for trial in other.record.trials]


def test_each_model_is_converted_once(timed: Timing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Int8 everywhere is placed, profiled, tried and accepted: one plan, so one conversion beyond those compared."""
    from fewbits.models.onnx_model import OnnxModel

    converted: list[Plan] = []
    convert = OnnxModel.converted

    def counting(self: OnnxModel, plan: Plan) -> object:
        converted.append(plan)
        return convert(self, plan)

    monkeypatch.setattr(OnnxModel, "converted", counting)
    result = tune_digits(objective="size", evaluate="accuracy")
    assert result.outcome is Outcome.MET
    distinct: list[Sequence[object]] = []
    for plan in converted:
        one = (sorted((name, str(plan.scheme(name))) for name in plan.low), dict(plan.ranges), dict(plan.means))
        if one not in distinct:
            distinct.append(one)
    assert len(converted) == len(distinct)
