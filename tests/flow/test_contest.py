"""A module and its ONNX export compete: the fastest that holds the budget is the answer, and nothing is slower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewbits import Outcome, Result, flow, tune
from fewbits.benchmark import Candidate
from fewbits.errors import MetricError, RunError, TargetError, UsageError
from fewbits.flow.names import ORIGINAL
from fewbits.models import open_module
from fewbits.plan import Plan
from fewbits.store import RunFile
from fewbits.targets import installed
from timing import Timing
from torch_nets import Residual, with_own_weights

COSTS = {"codes": 0.5, "dynamic": 1.5, "stored": 2.0, "bf16": 0.5, "fp16": 2.0}
MODULE = "torch:cpu"


def net() -> nn.Module:
    torch.manual_seed(0)
    return with_own_weights(Residual()).eval()


def data(samples: int = 96) -> list[np.ndarray]:
    values = np.random.default_rng(0).standard_normal((samples, 3, 8, 8)).astype(np.float32)
    return [values[start : start + 8] for start in range(0, samples, 8)]


def seconds(on_torch: float, low: float) -> Callable[[Candidate], float]:
    """What a call takes: 1 ms, `on_torch` times as much on PyTorch; all but the original `low` times."""

    def of(candidate: Candidate) -> float:
        base = 1e-3 * (on_torch if candidate.target == MODULE else 1.0)
        is_original = candidate.name.startswith(ORIGINAL) or candidate.name == candidate.target
        return base if is_original else base * low

    return of


def tuned(timed: Timing, on_torch: float, low: float = 0.5, **options: object) -> Result:
    timed.costs, timed.seconds = COSTS, seconds(on_torch, low)
    return tune(net(), data(), evaluate="cosine", max_loss=0.05, threads=1, **options)  # type: ignore[arg-type]


def test_the_module_wins_where_it_is_faster(timed: Timing, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = tuned(timed, on_torch=0.5, out=out)
    assert result.outcome is Outcome.MET
    assert result.is_module and result.target == MODULE and result.artifact.suffix == ".pt"
    x = torch.from_numpy(data()[0])
    found = result.module(x)
    assert torch.allclose(found, net()(x), atol=0.1)
    assert np.array_equal(found, result.predict({"x": data()[0]})["output"])
    # The same decision for the export, and the whole run on disk.
    assert result.other is not None and len(result.other.plan.low) == len(result.plan.low) > 2
    assert Plan.load(out / RunFile.OTHER_PLAN) == result.other.plan
    assert not (out / RunFile.MODEL).exists()
    assert np.array_equal(open_module(out / RunFile.MODULE)(x), found)
    outputs = flow.run(out, {"x": data()[0]}, threads=1)
    assert np.allclose(outputs["output"], found, atol=1e-5)
    report = flow.bench([out, result.save(tmp_path / "copy")], {"x": data()[0]}, threads=1)
    assert sorted(report.bytes) == ["copy.pt", "model.pt"]


def test_the_export_wins_where_that_is_faster(timed: Timing, tmp_path: Path) -> None:
    result = tuned(timed, on_torch=8.0, out=tmp_path / "run")
    assert result.outcome is Outcome.MET
    assert not result.is_module and result.target in installed()
    assert result.other is not None and (tmp_path / "run" / RunFile.MODEL).is_file()
    with pytest.raises(UsageError, match="ONNX"):
        _ = result.module
    with pytest.raises(UsageError, match=r"\.onnx"):
        result.save(tmp_path / "wrong.pt")
    # PyTorch's fastest plan was timed, and could not beat what was found: it was not searched.
    assert any(note.startswith(f"On {MODULE}:") and "already" in note for note in result.record.notes)
    assert not [names for names in timed.asked if len(names) == 2 and "tuned" in names][1:]


def test_every_plan_must_beat_the_fastest_original_of_all(timed: Timing) -> None:
    """Twice as fast as the module on PyTorch is no gain where the export is four times as fast as that."""
    timed.speed = 1.0
    result = tuned(timed, on_torch=4.0, low=1.1)
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert not result.is_module and result.target in installed()
    assert result.record.floats is not None and set(result.record.floats.latencies) == {MODULE, *installed()}


def test_the_original_module_comes_back_where_nothing_is_faster(timed: Timing) -> None:
    result = tuned(timed, on_torch=0.5, low=1.1)
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert result.is_module and result.target == MODULE
    x = torch.from_numpy(data()[0])
    assert torch.equal(result.module(x), net()(x).detach())


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_runtime_for_onnx_tunes_the_export(timed: Timing, target: str) -> None:
    result = tuned(timed, on_torch=1.0, target=target)
    assert result.target == f"{target}:cpu" and not result.is_module
    assert set(result.predict({"x": data()[0]})) == {"output"}


def test_a_run_goes_on_where_it_stopped(timed: Timing, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = tuned(timed, on_torch=0.5, out=out)
    (out / RunFile.RECORD).unlink()
    with pytest.raises(RunError, match="not finished"):
        flow.run(out, {"x": data()[0]})
    timed.asked.clear()
    again = tuned(timed, on_torch=0.5, out=out, resume=True)
    assert not timed.asked
    assert (again.plan, again.target, again.record.evaluations) == (first.plan, first.target, first.record.evaluations)


class Gamma(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.lgamma(self.linear(x))


def test_without_an_export_pytorch_alone_is_tuned(timed: Timing) -> None:
    timed.costs, timed.seconds = COSTS, seconds(1.0, 0.5)
    values = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    said = Heard()
    result = tune(Gamma(), [values], evaluate="cosine", max_loss=0.05, threads=1, progress=said)
    assert result.target == MODULE and result.other is None
    assert any("cannot be exported to ONNX" in line for line in said.lines)


class Heard:
    """Progress that remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, title: str, total: int | None = None) -> None: ...

    def advance(self, note: str = "") -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_an_onnx_model_is_not_run_by_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(flow.export_onnx(net(), data()[:1]).onnx.original().content)
    with pytest.raises(TargetError, match="serves PyTorch modules"):
        tune(path, data(), target="torch:cpu", threads=1)
    with pytest.raises(TargetError, match="does not run an ONNX model"):
        flow.run(path, data(8), target="torch:cpu")


def test_a_metric_that_does_not_work_is_told_before_anything_is_timed(timed: Timing) -> None:
    def broken(predict: object) -> float:
        return float("nan")

    with pytest.raises(MetricError):
        tune(net(), data(), evaluate=broken, higher_is_better=True, max_loss=0.05, threads=1)
    assert not timed.asked


def test_a_time_limit_searches_one_representation_and_says_so(timed: Timing) -> None:
    result = tuned(timed, on_torch=0.5, max_seconds=3600)
    assert result.is_module
    assert any("were searched, for want of time" in note for note in result.record.notes)
    assert set(timed.priced) == {MODULE}


def test_a_saved_module_is_a_file_like_any_other(timed: Timing, tmp_path: Path) -> None:
    result = tuned(timed, on_torch=0.5, target=MODULE)
    assert result.save(tmp_path / "plain") == tmp_path / "plain.pt"
    x = torch.from_numpy(data()[0])
    assert torch.equal(torch.load(tmp_path / "plain.pt", weights_only=False)(x), result.module(x))
    with pytest.raises(UsageError, match=r"\.pt"):
        result.save(tmp_path / "model.onnx")
