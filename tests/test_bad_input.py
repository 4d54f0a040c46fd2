"""Whatever is wrong with what a user gives: one clear paragraph, exit code 2, no traceback, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import builders
import fewbits
from fewbits.cli import main
from fewbits.demo import demo_data, demo_model
from fewbits.targets.probe import available_cores
from timing import Timing

Capture = pytest.CaptureFixture[str]
SCRIPT = Path(__file__).with_name("timing.py")
OLD = b"what was there before"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    code = stopped.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: Timing) -> Path:
    """An empty folder to work in with a good model and good data; latencies are made up."""
    monkeypatch.chdir(tmp_path)
    Path("good.onnx").write_bytes(demo_model().read_bytes())
    Path("good.npz").write_bytes(demo_data().read_bytes())
    return tmp_path


def refused(capsys: Capture, *words: str, model: str = "good.onnx", data: str = "good.npz") -> str:
    """What ``tune`` says against `words`, flattened; it must be usage, said once, with nothing written."""
    quick = ("--calibration-method", "minmax", "--threads", "1") if "--threads" not in words else ()
    quick += ("--target", "onnxruntime") if "--target" not in words else ()
    assert run("tune", model, "--data", data, "--out", "run", *quick, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    starts = [line for line in captured.err.splitlines() if line.startswith("error: ") or "─ Error ─" in line]
    assert len(starts) == 1
    assert not [name for name in ("plan.json", "model.onnx", "run.json") if (Path("run") / name).exists()]
    return " ".join(captured.err.replace("│", " ").split())


# --- the model -----------------------------------------------------------------------------------


def save_text() -> None:
    Path("bad.onnx").write_text("# a note, not a model\n")


def save_truncated() -> None:
    Path("bad.onnx").write_bytes(demo_model().read_bytes()[:100_000])


def save_empty() -> None:
    Path("bad.onnx").touch()


def save_without_weights() -> None:
    onnx.save_model(
        onnx.load(demo_model()), "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    Path("weights.bin").unlink()


def save_outside(keep: int | None = None, location: str = "weights.bin") -> Callable[[], None]:
    """A model with its weights in another file, of which `keep` bytes are left, and which it says is at `location`."""

    def save() -> None:
        onnx.save_model(
            onnx.load(demo_model()), "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
        )
        Path("weights.bin").write_bytes(Path("weights.bin").read_bytes()[:keep])
        model = onnx.load("bad.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = location
        onnx.save(model, "bad.onnx")

    return save


def save_with(value: float) -> Callable[[], None]:
    def save() -> None:
        model = onnx.load(demo_model())
        weight = model.graph.initializer[0]
        array = numpy_helper.to_array(weight).copy()
        array.flat[3] = value
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(model, "bad.onnx")

    return save


def save_quantised() -> None:
    tuned = fewbits.tune(demo_model(), demo_data(), calibration_method="minmax", objective="size", threads=1)
    tuned.save("bad.onnx")


def save_with_an_unknown_operator() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="my.domain")
    graph = helper.make_graph(
        [node],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    versions = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=10), "bad.onnx")


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda: None, ["bad.onnx", "No such file"]),
        (save_text, ["bad.onnx", "not an ONNX model"]),
        (save_truncated, ["bad.onnx", "truncated"]),
        (save_empty, ["bad.onnx", "not an ONNX model"]),
        (save_without_weights, ["weights.bin", "copy"]),
        (save_outside(keep=1000), ["weights.bin is truncated", "copy or export it again"]),
        (save_outside(location="../weights.bin"), ["../weights.bin", "not in the model's folder"]),
        (save_outside(location="/etc/passwd"), ["/etc/passwd", "not in the model's folder"]),
        (save_with(float("nan")), ["stem/conv", "NaN or Inf"]),
        (save_with(float("inf")), ["stem/conv", "NaN or Inf"]),
        (save_quantised, ["already quantised", "give the float model"]),
        (lambda: Path("bad.onnx").mkdir(), ["bad.onnx", "folder"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_model_that_cannot_be_used(capsys: Capture, save: Callable[[], None], said: list[str]) -> None:
    save()
    capsys.readouterr()
    text = refused(capsys, model="bad.onnx")
    assert all(word in text for word in said), text
    assert not Path("run").exists()


def test_an_operator_that_the_runtime_does_not_know(capsys: Capture) -> None:
    save_with_an_unknown_operator()
    np.savez("four.npz", x=np.zeros((70, 4), np.float32))
    text = refused(capsys, model="bad.onnx", data="four.npz")
    assert "does not load the model" in text
    assert "my.domain" in text
    assert not Path("run").exists()


@pytest.mark.parametrize("command", ["inspect", "convert", "bench"])
def test_the_other_commands_refuse_it_too(capsys: Capture, command: str) -> None:
    save_text()
    Path("plan.json").write_text(fewbits.Plan("00", {}, {}).to_json())
    more = {
        "inspect": (),
        "convert": ("--plan", "plan.json", "--out", "out.onnx"),
        "bench": ("good.onnx", "--data", "good.npz"),
    }
    assert run(command, "bad.onnx", *more[command]) == 2
    captured = capsys.readouterr()
    assert "bad.onnx is not an ONNX model" in captured.err
    assert captured.out == ""
    assert not Path("out.onnx").exists()


# --- the data ------------------------------------------------------------------------------------


def good() -> dict[str, np.ndarray]:
    with np.load(demo_data()) as data:
        return dict(data)


def with_value(value: float) -> Callable[[], dict[str, np.ndarray]]:
    def make() -> dict[str, np.ndarray]:
        data = good()
        data["image"][7, 0, 2, 3] = value
        return data

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: {"img": good()["image"], "labels": good()["labels"]}, ["'image' is missing", "'img'", "did you mean"]),
        (lambda: {"image": good()["image"][:, :, :7]}, ["(samples, 1, 8, 8)", "(899, 1, 7, 8)"]),
        (lambda: {"image": good()["image"][:, 0]}, ["(samples, 1, 8, 8)", "3 axes instead of 4"]),
        (lambda: {"image": good()["image"], "labels": good()["labels"][:5]}, ["'labels' has shape (5,)", "899"]),
        (lambda: {"image": good()["image"][:0], "labels": good()["labels"][:0]}, ["no samples"]),
        (with_value(float("nan")), ["'image' holds NaN", "sample 7"]),
        (with_value(float("-inf")), ["'image' holds Inf", "sample 7"]),
        (lambda: {"image": good()["image"].astype(complex)}, ["float32", "complex"]),
        (lambda: {"image": np.array([["a"] * 8] * 8)}, ["(samples, 1, 8, 8)"]),
        (lambda: {"image": good()["image"]}, ["accuracy needs labels", "cosine or agreement"]),
    ],
)
@pytest.mark.parametrize("option", ["--data", "--calibration"])
def test_data_that_does_not_fit(
    capsys: Capture, make: Callable[[], dict[str, np.ndarray]], said: list[str], option: str
) -> None:
    np.savez("bad.npz", **make())
    if option == "--calibration" and "accuracy needs labels" in said[0]:
        assert run("tune", "good.onnx", "--data", "good.npz", "--calibration", "bad.npz", "--out", "run") == 0
        return
    words = ("--calibration", "bad.npz") if option == "--calibration" else ()
    text = refused(capsys, *words, "--metric", "accuracy", data="good.npz" if words else "bad.npz")
    assert all(word in text for word in said), text


def test_data_that_is_no_data(capsys: Capture) -> None:
    Path("not.npz").write_text("no zip")
    Path("cut.npz").write_bytes(demo_data().read_bytes()[:5000])
    Path("gen.py").write_text(
        "import numpy as np\n"
        "def nothing():\n    return iter(())\n"
        "def fails():\n    yield np.zeros((2, 1, 8, 8), 'f')\n    raise OSError('the disk is gone')\n"
        "def number():\n    return 3\n"
    )
    Path("images").mkdir()
    for data, said in {
        "absent.npz": "there is no file absent.npz",
        "not.npz": "is not an .npz file; write one with",
        "cut.npz": "cut off",
        "nowhere": "there is no file or folder nowhere",
        "gen.py:absent": "gen.py has no function 'absent'; it has fails, nothing, number",
        "gen.py:nothing": "no batches",
        "gen.py:fails": "OSError: the disk is gone",
        "gen.py:number": "int cannot be read as data",
        "nomodule:batches": "nomodule",
        "images": "there are no images in",
    }.items():
        assert said in refused(capsys, data=data), data
        assert not Path("run").exists()


def test_a_dynamic_axis_takes_its_length_from_the_data(capsys: Capture) -> None:
    """Nothing else says how long a sequence is; with data of no length there is nothing to go by."""
    onnx.save(builders.transformer(), "text.onnx")
    np.savez("text.npz", **{name: array[:, :0] for name, array in builders.tokens(70).items()})
    np.savez("good_text.npz", **builders.tokens(70))
    text = refused(capsys, model="text.onnx", data="text.npz")
    assert "error: " in text
    assert run("inspect", "text.onnx") == 0
    assert "batch x sequence" in capsys.readouterr().out


# --- the metric ----------------------------------------------------------------------------------

FUNCTIONS = """
import random

def raises(predict):
    raise KeyError("boom")

def nan(predict):
    return float("nan")

def nan_in_one(predict):
    return [1.0, float("nan")]

def none(predict):
    pass

def words(predict):
    return "0.9"

def table(predict):
    return [[1.0, 2.0]]

def changes(predict):
    return random.random()

def wrong_inputs(predict):
    return float(predict({"imge": 1}) is None)

calls = 0

def raises_later(predict):
    global calls
    calls += 1
    if calls == 3:
        raise RuntimeError("the data server is gone")
    return 0.9

three = 3
"""


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("acuracy", ["did you mean 'accuracy'", "accuracy, top5, f1, mse, cosine, agreement"]),
        ("mine.py:raises", ["mine.py:raises", "KeyError: 'boom'"]),
        ("mine.py:nan", ["returned nan", "finite"]),
        ("mine.py:nan_in_one", ["returned nan for sample 1"]),
        ("mine.py:none", ["returned None", "a number or one score per sample"]),
        ("mine.py:words", ["returned str '0.9'"]),
        ("mine.py:table", ["shape (1, 2)"]),
        ("mine.py:changes", ["changes between calls on the same model", "Fix its seeds"]),
        ("mine.py:wrong_inputs", ["'image' is missing", "'imge'"]),
        ("mine.py:absent", ["has no function 'absent'", "changes, nan"]),
        ("mine.py:three", ["'three' is a int, not a function"]),
        ("absent.py:f", ["there is no file absent.py"]),
        ("absent:f", ["absent"]),
        ("mse", ["labels"]),
    ],
)
def test_a_metric_that_cannot_be_used(capsys: Capture, metric: str, said: list[str]) -> None:
    Path("mine.py").write_text(FUNCTIONS)
    np.savez("nolabels.npz", image=good()["image"])
    text = refused(capsys, "--metric", metric, data="nolabels.npz")
    assert all(word in text for word in said), text


def test_after_a_first_mistake_the_mended_command_starts(capsys: Capture) -> None:
    """What the first attempt left is no run worth asking about."""
    Path("mine.py").write_text(FUNCTIONS)
    refused(capsys, "--metric", "mine.py:none")
    assert Path("run").exists()
    assert run("tune", "good.onnx", "--data", "good.npz", "--out", "run", "--threads", "1") == 0


def test_a_function_that_fails_after_hours_loses_nothing(capsys: Capture) -> None:
    Path("mine.py").write_text(FUNCTIONS)
    words = ("tune", "good.onnx", "--data", "good.npz", "--out", "run", "--metric", "mine.py:raises_later")
    assert run(*words) == 2
    said = capsys.readouterr().err
    steps = Path("run/trials.jsonl").read_bytes().count(b"\n")
    assert steps > 3
    assert f"{steps} finished steps are kept in run/trials.jsonl" in said
    assert "fewbits tune good.onnx --data good.npz --out run --metric mine.py:raises_later --resume" in said
    assert "RuntimeError: the data server is gone" in said.splitlines()[-1]
    assert run(*words, "--resume") == 0


def test_a_model_that_gives_nan_is_named_before_any_search(capsys: Capture) -> None:
    net = builders.Net()
    y = net.add("Gemm", net.add("Sqrt", "x"), net.weight(4, builders.FEATURES), net.small(4), transB=1)
    model = net.model({"x": (TensorProto.FLOAT, ("batch", builders.FEATURES))}, {"y": (y, ("batch", 4))})
    onnx.save(model, "nan.onnx")
    np.savez("negative.npz", **builders.features(80))
    assert "NaN in output 'y'" in refused(capsys, model="nan.onnx", data="negative.npz")


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--target", "openvin:cpu"),
            ["unknown target 'openvin:cpu'", "onnxruntime:cpu", "did you mean openvino:cpu?"],
        ),
        (("--rule", "*=int3"), ["'int3' is not a scheme", "fp32, bf16, fp16, int8"]),
        (("--rule", "conv"), ["PATTERN=SCHEME"]),
        (("--threads", str(available_cores() + 1)), ["threads asked for", f"give 1 to {available_cores()}"]),
        (("--threads", "-1"), ["--threads"]),
        (("--batch", "0"), ["--batch"]),
        (("--max-loss", "a lot"), ["'a lot'", "1%", "0.01"]),
        (("--max-loss=-1%",), ["0 or more"]),
        (("--max-loss", "101%"), ["at most 100%"]),
        (("--max-loss", "nan"), ["0 or more"]),
        (("--objective", "beauty"), ["latency", "throughput", "size"]),
        (("--objective", "energy"), ["energy is not measured", "--target simulated:energy"]),
        (("--streams", "2"), ["streams are for the objective throughput"]),
        (("--objective", "throughput", "--streams", "-1"), ["--streams"]),
        (("--calibration-method", "guess"), ["minmax", "entropy"]),
        (("--metric", "cosine", "--lower-is-better"), ["cosine is higher-is-better"]),
        (("--image-size", "8"), ["folder of images only"]),
        (("--force", "--resume"), ["choose one"]),
        (("--wrong",), ["--wrong"]),
    ],
)
def test_an_option_that_cannot_be_used(capsys: Capture, words: tuple[str, ...], said: list[str]) -> None:
    text = refused(capsys, *words)
    assert all(word in text for word in said), text
    assert not Path("run").exists()


def test_a_runtime_that_is_not_installed_names_what_installs_it(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    text = refused(capsys, "--target", "openvino")
    assert "the target openvino:cpu needs the package openvino: pip install 'fewbits[openvino]'" in text
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "options", [{"objective": "beauty"}, {"calibration_method": "guess"}, {"sensitivity": "guess"}, {"batch": 0}]
)
def test_python_callers_get_the_same_errors(options: dict[str, object]) -> None:
    with pytest.raises(fewbits.UsageError):
        fewbits.tune(demo_model(), demo_data(), **options)  # type: ignore[arg-type]


# --- the run directory ---------------------------------------------------------------------------


def test_what_exists_is_never_overwritten_without_force(capsys: Capture) -> None:
    Path("run").mkdir()
    Path("run/model.onnx").write_bytes(OLD)
    assert run("tune", "good.onnx", "--data", "good.npz", "--out", "run") == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in Path("run").iterdir()] == ["model.onnx"]
    assert Path("run/model.onnx").read_bytes() == OLD


def test_force_starts_anew_and_clears_only_its_own_files(capsys: Capture) -> None:
    words = ("tune", "good.onnx", "--data", "good.npz", "--out", "run", "--threads", "1")
    assert run(*words) == 0
    Path("run/notes.txt").write_bytes(OLD)
    before = Path("run/run.json").read_bytes()
    capsys.readouterr()
    assert run(*words, "--max-loss", "5%") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert Path("run/run.json").read_bytes() == before
    assert run(*words, "--max-loss", "5%", "--force") == 0
    assert Path("run/run.json").read_bytes() != before
    assert Path("run/notes.txt").read_bytes() == OLD


def test_a_file_in_the_place_of_the_run_directory(capsys: Capture) -> None:
    Path("run").write_bytes(OLD)
    assert run("tune", "good.onnx", "--data", "good.npz", "--out", "run", "--force") == 2
    assert "is a file" in capsys.readouterr().err
    assert Path("run").read_bytes() == OLD


def test_force_never_clears_the_model_that_it_reads(capsys: Capture) -> None:
    words = ("--data", "good.npz", "--threads", "1")
    assert run("tune", "good.onnx", *words, "--out", "run", "--objective", "size") == 0
    capsys.readouterr()
    Path("run/model.onnx").write_bytes(demo_model().read_bytes())
    assert run("tune", "run/model.onnx", *words, "--out", "run", "--force") == 2
    assert "which this run reads" in capsys.readouterr().err
    assert Path("run/model.onnx").read_bytes() == demo_model().read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission(capsys: Capture) -> None:
    Path("locked").mkdir(mode=0o500)
    assert run("tune", "good.onnx", "--data", "good.npz", "--out", "locked/run") == 1
    assert "Permission denied" in capsys.readouterr().err


# --- a full disk ---------------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_the_results_are_written(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are small and still fit; the model does not. With room again the run ends without doing them again."""
    import errno

    from fewbits import files

    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    words = ("tune", "good.onnx", "--data", "good.npz", "--out", "run", "--threads", "1")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", full)
        assert run(*words) == 1
    said = capsys.readouterr().err
    assert "could not write run/model.onnx" in said
    assert "No space left on device" in said
    assert "--resume" in said
    assert sorted(path.name for path in Path("run").iterdir()) == ["plan.json", "settings.json", "trials.jsonl"]
    trials = Path("run/trials.jsonl").read_bytes()
    assert run("report", "run") == 2
    assert "not finished" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    assert Path("run/trials.jsonl").read_bytes() == trials


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def limited(size: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process in which no file may grow beyond `size` bytes."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED.format(size), str(SCRIPT), "2.0", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("size", [0, 3_000, 60_000])
def test_a_file_that_may_not_grow_is_an_error_of_the_tool(size: int) -> None:
    """At 0 nothing can be written, at 3 kB the journal cannot, at 60 kB the files for the measuring processes."""
    words = ("tune", "good.onnx", "--data", "good.npz", "--out", "run", "--threads", "1")
    done = limited(size, *words)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "error: could not " in last
    assert "File too large" in last or "No usable temporary directory" in last
    lines = [path.read_bytes() for path in Path("run").glob("trials.jsonl")]
    assert all(not text or text.endswith(b"\n") for text in lines)
    assert not list(Path("run").glob(".*"))


def test_convert_leaves_the_old_file_where_there_is_no_room_for_the_new_one() -> None:
    tuned = fewbits.tune(demo_model(), demo_data(), calibration_method="minmax", objective="size", threads=1)
    Path("plan.json").write_text(tuned.plan.to_json())
    Path("small.onnx").write_bytes(OLD)
    done = limited(1000, "convert", "good.onnx", "--plan", "plan.json", "--out", "small.onnx", "--force")
    assert done.returncode == 1
    assert "could not write small.onnx" in done.stderr
    assert Path("small.onnx").read_bytes() == OLD
    assert not list(Path().glob(".small*"))


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_for_another_model(capsys: Capture) -> None:
    tuned = fewbits.tune(demo_model(), demo_data(), calibration_method="minmax", objective="size", threads=1)
    Path("plan.json").write_text(tuned.plan.to_json())
    onnx.save(builders.residual(), "other.onnx")
    assert run("convert", "other.onnx", "--plan", "plan.json", "--out", "out.onnx") == 2
    assert "made for another model" in capsys.readouterr().err
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("text", "said"), [("", "not a fewbits plan"), ('{"a": 1}', "not a fewbits plan"), (None, "cannot read the plan")]
)
def test_what_is_no_plan(capsys: Capture, text: str | None, said: str) -> None:
    if text is not None:
        Path("plan.json").write_text(text)
    assert run("convert", "good.onnx", "--plan", "plan.json", "--out", "out.onnx") == 2
    assert said in capsys.readouterr().err
    assert not Path("out.onnx").exists()


# --- bench ---------------------------------------------------------------------------------------


def test_models_that_read_different_inputs_are_not_compared(capsys: Capture) -> None:
    onnx.save(builders.residual(), "other.onnx")
    assert run("bench", "good.onnx", "other.onnx", "--data", "good.npz") == 2
    assert "other.onnx reads 'x', but good.onnx reads 'image'" in capsys.readouterr().err


def test_a_file_given_twice(capsys: Capture) -> None:
    assert run("bench", "good.onnx", "good.onnx", "--data", "good.npz") == 2
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["nowhere", "."])
def test_a_report_of_what_is_no_run(capsys: Capture, given: str) -> None:
    assert run("report", given) == 2
    assert "is not a run" in capsys.readouterr().err


def test_a_report_of_a_damaged_run(capsys: Capture) -> None:
    Path("run.json").write_text('{"outcome": "met"')
    assert run("report", ".") == 2
    assert "not a finished fewbits run" in capsys.readouterr().err
