from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fewbits
from fewbits.calibration.ranges import METHODS
from fewbits.cli import main
from fewbits.cli.arguments import CalibrationMethod, Sensitivity, channels, image_size, resuming
from fewbits.data import ImageOptions
from fewbits.doctor import Ability, DoctorReport, RuntimeReport, RuntimeState
from fewbits.errors import DataError, StorageError, UsageError
from fewbits.flow.saving import save
from fewbits.formats.scheme import INT8_STATIC
from fewbits.graph import Graph, Kind, Node, Tensor
from fewbits.grouping import group
from fewbits.machine import Machine
from fewbits.measurement import Comparison, Interval, Latency, MemoryComparison
from fewbits.models.protocol import Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.record import RunRecord
from fewbits.sensitivity.measure import NAMES
from fewbits.space import Menu, Refusal, Rule, Space, candidates
from fewbits.store import Run
from fewbits.targets.protocol import Executed
from fewbits.targets.runtime_probe import DotProduct

GOLDEN = Path(__file__).parent / "report" / "golden"
RECORD = RunRecord.from_json((GOLDEN / "run.json").read_bytes())
TUNE = ("tune", "model.onnx", "--data", "eval.npz", "--out", "runs/mine")

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Result:
    record: RunRecord

    @property
    def outcome(self) -> Outcome:
        return self.record.outcome


@dataclass(frozen=True)
class Inspection:
    graph: Graph
    groups: tuple[object, ...]
    space: Space


@dataclass(frozen=True)
class BenchReport:
    comparison: Comparison
    bytes: dict[str, int]
    executed: dict[str, tuple[Executed, ...]]
    machine: Machine
    memory: MemoryComparison | None = None


class Calls:
    """Stands in for the flow and remembers how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tuned: list[tuple[tuple[object, ...], dict[str, object]]] = []
        self.forced = False
        self.ran: tuple[Path, str, dict[str, object]] | None = None
        self.during: Callable[[], None] = lambda: None
        self.record = RECORD
        flow = SimpleNamespace(
            tune=self.tune,
            convert=self.convert,
            save=save,
            elsewhere=self.elsewhere,
            run=self.run,
            inspect=self.inspect,
            bench=self.bench,
            BenchReport=BenchReport,
        )
        monkeypatch.setattr(fewbits, "flow", flow, raising=False)

    def tune(self, *arguments: object, **options: object) -> Result:
        self.tuned.append((arguments, options))
        self.during()
        return Result(self.record)

    def convert(self, model: Path, plan: Plan, *, force: bool) -> Artifact:
        self.forced = force
        return Artifact(b"converted")

    def elsewhere(self, plan: Plan) -> str:
        return "The plan was measured elsewhere." if plan.machine else ""

    def run(self, source: Path, data: str, **options: object) -> dict[str, np.ndarray]:
        self.ran = (source, data, options)
        return {"scores": np.ones((3, 10), np.float32)}

    def inspect(self, model: Path, *, target: str, threads: int, rules: tuple[Rule, ...]) -> Inspection:
        graph = small_graph()
        groups = group(graph)

        def menu(one: object) -> Menu:
            return Menu((INT8_STATIC,)) if one is groups[0] else Menu((), (Refusal(INT8_STATIC, "no weight"),))

        return Inspection(graph, groups, candidates(groups, rules, menu))

    def bench(self, models: list[Path], data: str, **options: object) -> BenchReport:
        names = [str(model) for model in models]
        latencies = {name: Latency(name, 0.002, ((0.002,), (0.0021,), (0.0019,))) for name in names}
        comparison = Comparison(names[0], latencies, {name: Interval(2.5, 2.4, 2.6) for name in names[1:]}, "paired")
        executed = {name: (Executed("n1", "QLinearConv", "int8", ("y",)),) * 3 for name in names}
        return BenchReport(comparison, dict.fromkeys(names, 1234), executed, RECORD.machine)


def small_graph() -> Graph:
    tensors = [
        Tensor("x", "float32", ("batch", 4), False),
        Tensor("w", "float32", (4, 8), True),
        Tensor("h", "float32", ("batch", 8)),
        Tensor("v", "float32", ("batch", 8)),
        Tensor("y", "float32", ("batch", 8)),
    ]
    nodes = (
        Node("first", Kind.MATMUL, "MatMul", ("x", "w"), ("h",)),
        Node("middle", Kind.SOFTMAX, "Softmax", ("h",), ("v",)),
        Node("sum", Kind.ADD, "Add", ("h", "v"), ("y",)),
    )
    return Graph(nodes, {tensor.name: tensor for tensor in tensors}, ("x",), ("y",))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    monkeypatch.chdir(tmp_path)
    return Calls(monkeypatch)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    code = stopped.value.code
    assert isinstance(code, int)
    return code


# --- tune --------------------------------------------------------------------------------------


def test_tune_hands_every_option_on(calls: Calls) -> None:
    code = run(
        *TUNE,
        *("--calibration", "c.npz", "--metric", "mine.py:score", "--lower-is-better", "--max-loss", "0.01"),
        *("--objective", "throughput", "--target", "onnxruntime:cpu", "--threads", "2", "--batch", "8", "--seed", "7"),
        *("--streams", "4", "--calibration-method", "entropy", "--sensitivity", "kl"),
        *("--rule", "conv_1*=fp32", "--rule", "*=int8", "--force"),
        *("--max-latency", "5ms", "--max-size", "20MB", "--max-trials", "3", "--max-time", "10m"),
        *("--image-size", "224x320", "--mean", "0.5,0.4,0.3", "--std", "0.25"),
        *("--effort", "high", "--serve-on", "avx2"),
    )
    assert code == 0
    ((arguments, options),) = calls.tuned
    assert arguments == (Path("model.onnx"), "eval.npz")
    del options["progress"]
    assert options == {
        "calibration": "c.npz",
        "evaluate": "mine.py:score",
        "higher_is_better": False,
        "max_loss": "0.01",
        "objective": "throughput",
        "max_latency": "5ms",
        "max_size": "20MB",
        "max_trials": 3,
        "max_seconds": "10m",
        "effort": "high",
        "target": "onnxruntime:cpu",
        "threads": 2,
        "batch": 8,
        "streams": 4,
        "serve_on": "avx2",
        "calibration_method": "entropy",
        "sensitivity": "kl",
        "rules": (Rule.parse("conv_1*=fp32"), Rule.parse("*=int8")),
        "images": ImageOptions((224, 320), (0.5, 0.4, 0.3), (0.25,)),
        "out": Path("runs/mine"),
        "force": True,
        "resume": False,
        "seed": 7,
    }


def test_tune_leaves_the_rest_to_the_flow(calls: Calls) -> None:
    assert run(*TUNE) == 0
    ((_, options),) = calls.tuned
    assert options["images"] is None
    assert options["calibration"] is None
    assert options["higher_is_better"] is None
    assert options["rules"] == ()


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.MET, 0), (Outcome.BUDGET_UNREACHABLE, 3), (Outcome.KEPT_ORIGINAL, 4)]
)
def test_the_outcome_is_the_exit_code(calls: Calls, capsys: Capture, outcome: Outcome, code: int) -> None:
    calls.record = replace(RECORD, outcome=outcome)
    assert run(*TUNE) == code
    shown = capsys.readouterr().out
    assert shown.startswith(outcome.value.upper().replace("_", " "))
    assert "fewbits report runs/mine" in shown


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("no input 'x' in eval.npz"), 2), (StorageError("disk full"), 1)]
)
def test_an_error_is_one_paragraph_and_an_exit_code(calls: Calls, capsys: Capture, error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    calls.during = fail
    assert run(*TUNE) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""
    with pytest.raises(type(error)):
        main([*TUNE, "--traceback"])


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(calls: Calls, capsys: Capture) -> None:
    def stopped() -> None:
        with Run.create(Path("runs/my run"), {"seed": "0"}) as made:
            for key in "abc":
                made.journal.step("search", key, float, lambda: 1.0)
            raise KeyboardInterrupt

    calls.during = stopped
    words = ("tune", "my model.onnx", "--data", "eval.npz", "--out", "runs/my run", "--rule", "conv*=fp32", "--force")
    assert run(*words) == 130
    said = capsys.readouterr().err
    assert "3 finished steps are kept in runs/my run/trials.jsonl" in said
    expected = "fewbits tune 'my model.onnx' --data eval.npz --out 'runs/my run' --rule 'conv*=fp32' --resume"
    assert said.endswith(f"{expected}\n")


def test_ctrl_c_before_anything_was_measured(calls: Calls, capsys: Capture) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    calls.during = stopped
    assert run(*TUNE) == 130
    assert "No step was finished yet" in capsys.readouterr().err


def test_the_command_that_goes_on_is_given_once() -> None:
    assert resuming(["tune", "m", "--resume"]) == "fewbits tune m --resume"
    assert resuming(["tune", "m", "--force"]) == "fewbits tune m --resume"


# --- wrong usage -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune", "model.onnx", "--data", "d.npz"), "--out"),
        (("tune", "--data", "d.npz", "--out", "r"), "model"),
        ((*TUNE, "--objective", "beauty"), "latency"),
        ((*TUNE, "--calibration-method", "guess"), "entropy"),
        ((*TUNE, "--threads", "-1"), "--threads"),
        ((*TUNE, "--max-trials", "0"), "--max-trials"),
        ((*TUNE, "--rule", "conv"), "conv_1*=fp32"),
        ((*TUNE, "--rule", "conv=int3"), "int3"),
        ((*TUNE, "--image-size", "big"), "224x320"),
        ((*TUNE, "--mean", "a,b"), "0.485"),
        (("tone",), "tune"),
        (("report", "absent"), "is not a run"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(calls: Calls, capsys: Capture, words: tuple[str, ...], said: str) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not calls.tuned


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("224x320", (224, 320)), ("8X4", (8, 4))])
def test_image_sizes(text: str, size: tuple[int, int]) -> None:
    assert image_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "x", "224x", "-3", "1x2x3", "2.5"])
def test_what_is_no_image_size(text: str) -> None:
    with pytest.raises(UsageError, match="--image-size"):
        image_size(text)


def test_channels() -> None:
    assert channels("--mean", "0.5, 0.25") == (0.5, 0.25)
    with pytest.raises(UsageError, match="--std"):
        channels("--std", "0.5;0.2")


# --- the other commands ------------------------------------------------------------------------


def test_convert_writes_once_and_overwrites_only_with_force(calls: Calls, capsys: Capture) -> None:
    Path("plan.json").write_text(Plan("ab", {}, {}).to_json())
    words = ("convert", "model.onnx", "--plan", "plan.json", "--out", "small.onnx")
    assert run(*words) == 0
    assert Path("small.onnx").read_bytes() == b"converted"
    Path("small.onnx").write_bytes(b"mine")
    assert run(*words) == 2
    assert Path("small.onnx").read_bytes() == b"mine"
    assert "--force" in capsys.readouterr().err
    assert run(*words, "--force") == 0
    assert Path("small.onnx").read_bytes() == b"converted"


def test_a_plan_from_another_machine_is_applied_with_a_warning(calls: Calls, capsys: Capture) -> None:
    Path("plan.json").write_text(Plan("ab", {}, {}, target="openvino:cpu", machine="another CPU").to_json())
    assert run("convert", "model.onnx", "--plan", "plan.json", "--out", "small.onnx", "--force") == 0
    assert calls.forced
    assert "measured elsewhere" in capsys.readouterr().err


def test_run_stores_the_outputs(calls: Calls, capsys: Capture) -> None:
    words = ("run", "runs/mine", "--data", "inputs.npz", "--output", "out.npz")
    assert run(*words) == 0
    assert calls.ran is not None
    assert calls.ran[:2] == (Path("runs/mine"), "inputs.npz")
    assert "scores 3x10" in capsys.readouterr().out
    with np.load("out.npz") as stored:
        assert stored["scores"].shape == (3, 10)
    assert run(*words) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["model.onnx", "plan.json", "./model.onnx", "."])
def test_convert_never_overwrites_what_it_reads(calls: Calls, out: str) -> None:
    Path("model.onnx").write_bytes(b"model")
    Path("plan.json").write_text(Plan("ab", {}, {}).to_json())
    assert run("convert", "model.onnx", "--plan", "plan.json", "--out", out, "--force") == 2
    assert Path("model.onnx").read_bytes() == b"model"


def test_inspect_shows_groups_and_why_not(calls: Calls, capsys: Capture) -> None:
    assert run("inspect", "model.onnx", "--rule", "absent*=fp32") == 0
    text = capsys.readouterr().out
    assert "3 nodes, 32 MACs" in text
    assert "Groups (1 of 2 can leave fp32; nodes in no group: 1)" in text
    assert "[1] w:int8r/channel a:uint8/tensor: no weight" in text
    assert "The rule absent*=fp32 decides nothing: it matches no group, or an earlier rule comes first." in text
    first, second = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("first", "sum"))
    assert "codes" in first
    assert second.endswith("[1]")
    assert "batch x 4" in text


def test_bench_shows_and_stores_the_figures(calls: Calls, capsys: Capture) -> None:
    words = ("bench", "a.onnx", "b.onnx", "--data", "eval.npz", "--json", "bench.json")
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert "2.50x [2.40, 2.60]" in text
    assert "1.23 kB" in text
    assert "3 x  QLinearConv  int8" in text
    stored = json.loads(Path("bench.json").read_text())
    assert stored["comparison"]["latencies"]["b.onnx"]["median"] == 0.002
    assert run(*words) == 2
    assert "--force" in capsys.readouterr().err


def test_report_shows_what_the_run_stored(calls: Calls, capsys: Capture) -> None:
    shutil.copy(GOLDEN / "run.json", "run.json")
    assert run("report", ".") == 0
    assert capsys.readouterr().out == (GOLDEN / "report.txt").read_text()


def test_demo_takes_a_new_directory_each_time(calls: Calls, capsys: Capture) -> None:
    assert run("demo") == 0
    Path("runs/demo").mkdir(parents=True)
    calls.record = replace(RECORD, outcome=Outcome.KEPT_ORIGINAL)
    assert run("demo") == 0
    assert [options["out"] for _, options in calls.tuned] == [Path("runs/demo"), Path("runs/demo-2")]
    assert "Run: runs/demo-2" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_doctor_shows_what_runs_and_what_is_refused(
    capsys: Capture, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "the runtime has no kernel for an operation with such operands, and says so in a long message of its own"
    speedup = Interval(2.5, 2.4, 2.6) if seconds else None
    abilities = (
        Ability("MatMul", "fp32", ("MatMul x4",), "float32", seconds, None, ""),
        Ability("MatMul", "int8", ("QLinearMatMul x4",), "int8", seconds, speedup, ""),
        Ability("MatMul", "int4", (), "", 0.0, None, reason),
    )
    runtime = RuntimeReport(
        "onnxruntime",
        RuntimeState.READY,
        "1.2.3",
        ("CPUExecutionProvider",),
        abilities,
        (DotProduct("u8 x s8", 40000, 32767),),
    )
    other = RuntimeReport("openvino", RuntimeState.NOT_INSTALLED)
    seen: dict[str, object] = {}

    def fake(**options: object) -> DoctorReport:
        seen.update(options)
        return DoctorReport(RECORD.machine, (runtime, other), "in turn" if seconds else "")

    monkeypatch.setattr("fewbits.doctor.doctor", fake)
    assert run("doctor", "--measure" if seconds else "--no-measure") == 0
    assert seen["measure"] is bool(seconds)
    text = capsys.readouterr().out
    assert reason in " ".join(text.split()).replace(" refused - - ", " ")
    assert "saturates for u8 x s8" in text
    assert "onnxruntime 1.2.3: ready" in text
    assert "openvino: not installed" in text
    assert ("2.50x [2.40, 2.60] faster" in text) == bool(seconds)
    assert max(map(len, text.splitlines())) <= 102


# --- as a process ------------------------------------------------------------------------------


def fewbits_process(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fewbits.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def test_version() -> None:
    done = fewbits_process("--version")
    assert done.returncode == 0
    assert done.stdout == f"fewbits {fewbits.__version__}\n"


@pytest.mark.parametrize("words", [("--help",), ("tune", "--help"), ("report", str(GOLDEN))])
def test_help_and_report_load_no_framework(words: tuple[str, ...]) -> None:
    script = (
        "import sys\nfrom fewbits.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    frameworks = {'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'scipy'}\n"
        "    print('loaded', sorted(frameworks & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stderr == "loaded []\n"


def test_a_name_that_the_terminal_cannot_show_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(replace(RECORD, model="modèle-模型.onnx").to_json(), encoding="utf-8")
    done = fewbits_process("report", str(tmp_path), env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert "mod\\xe8le" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_finds_no_room_is_one_line_and_exit_code_1() -> None:
    command = [sys.executable, "-c", "from fewbits.cli import main; main()", "report", str(GOLDEN)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: could not write the result to standard output: No space left on device\n"


def test_the_command_line_offers_every_calibration_method() -> None:
    """It lists them itself, because --help loads no numpy."""
    assert [str(one.value) for one in CalibrationMethod] == ["auto", *METHODS]


def test_the_command_line_offers_every_measure_of_sensitivity() -> None:
    assert tuple(str(one.value) for one in Sensitivity) == NAMES
