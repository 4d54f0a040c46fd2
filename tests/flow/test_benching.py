from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import builders
import fewbits
from fewbits.cli.bench import describe
from fewbits.demo import demo_data, demo_model
from fewbits.measurement import Measure
from timing import Timing


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: Timing) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.load(demo_model()), "a.onnx")
    return tmp_path


def test_every_model_has_its_size_and_what_ran(timed: Timing) -> None:
    tuned = fewbits.tune(
        "a.onnx", demo_data(), objective="size", calibration_method="minmax", threads=1, target="onnxruntime"
    )
    tuned.save("b.onnx")
    timed.asked.clear()
    found = fewbits.bench(["a.onnx", "b.onnx"], demo_data(), threads=1)
    assert timed.asked == [("a.onnx", "b.onnx")]
    assert found.bytes == {name: Path(name).stat().st_size for name in ("a.onnx", "b.onnx")}
    precisions = {name: {node.precision for node in nodes} for name, nodes in found.executed.items()}
    assert "int8" in precisions["b.onnx"]
    assert precisions["a.onnx"] == {"fp32"}


def test_weights_beside_the_file_belong_to_its_size() -> None:
    model = onnx.load(demo_model())
    onnx.save_model(model, "c.onnx", save_as_external_data=True, location="c.data", size_threshold=0)
    assert Path("c.onnx").stat().st_size < 20_000
    found = fewbits.bench(["a.onnx", "c.onnx"], demo_data(), threads=1)
    assert found.bytes["c.onnx"] == pytest.approx(found.bytes["a.onnx"], rel=0.05)
    assert found.executed["c.onnx"]


def test_files_of_one_name_go_by_their_paths() -> None:
    Path("other").mkdir()
    Path("other/a.onnx").write_bytes(Path("a.onnx").read_bytes())
    found = fewbits.bench(["a.onnx", "other/a.onnx"], demo_data(), threads=1)
    assert set(found.bytes) == {"a.onnx", "other/a.onnx"}


def test_the_batch_is_the_one_asked_for() -> None:
    found = fewbits.bench(["a.onnx"], demo_data(), batch=7, threads=1)
    assert found.comparison.speedups == {}
    assert found.executed["a.onnx"]


def test_throughput_has_streams_and_samples_per_second() -> None:
    found = fewbits.bench(["a.onnx"], demo_data(), batch=4, threads=1, objective="throughput", streams=2)
    assert found.comparison.measure is Measure.THROUGHPUT
    assert found.executed["a.onnx"]
    assert "throughput, samples/s" in describe(found)
    assert "500 [500, 500]" in describe(found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "size"}, "latency, throughput, memory are compared, not size"),
        ({"objective": "energy"}, "simulated:energy"),
        ({"streams": 2}, "streams are for the objective throughput"),
    ],
)
def test_what_is_not_compared(options: dict[str, object], said: str) -> None:
    with pytest.raises(fewbits.UsageError, match=said):
        fewbits.bench(["a.onnx"], demo_data(), threads=1, **options)  # type: ignore[arg-type]


def test_memory_comes_with_latency() -> None:
    Path("other").mkdir()
    Path("other/a.onnx").write_bytes(Path("a.onnx").read_bytes())
    found = fewbits.bench(["a.onnx", "other/a.onnx"], demo_data(), threads=1, objective="memory")
    assert found.memory is not None
    assert set(found.memory.peaks) == {"a.onnx", "other/a.onnx"}
    text = describe(found)
    assert "latency, ms" in text
    assert "peak memory, MiB" in text
    assert "100.3 [100.3, 100.3]" in text


def test_nothing_to_measure() -> None:
    with pytest.raises(fewbits.UsageError, match="at least one model"):
        fewbits.bench([], demo_data())


def test_other_inputs_are_named() -> None:
    onnx.save(builders.residual(), "other.onnx")
    with pytest.raises(fewbits.ModelError, match=r"other\.onnx reads 'x', but a\.onnx reads 'image'"):
        fewbits.bench(["a.onnx", "other.onnx"], demo_data())


def test_other_shapes_are_named() -> None:
    model = onnx.load(demo_model())
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 16
    onnx.save(model, "wide.onnx")
    with pytest.raises(fewbits.DataError):
        fewbits.bench(["a.onnx", "wide.onnx"], {"image": np.zeros((2, 1, 8, 8), np.float32)})
