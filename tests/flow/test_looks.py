"""Plans that a runtime does not load, or dies of, are left out; the others are tuned as ever."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import builders
import fewbits
from fewbits.benchmark import Candidate
from fewbits.errors import FewbitsError, ModelError, WorkerError
from fewbits.measurement import Comparison
from fewbits.outcome import Outcome
from timing import STAGES, Timing


def deadly(timed: Timing, monkeypatch: pytest.MonkeyPatch, pattern: str, error: FewbitsError) -> None:
    """Let every comparison fail that has a candidate called so."""

    def compare(candidates: Sequence[Candidate], *rest: object, **options: object) -> Comparison:
        if any(fnmatchcase(one.name, pattern) for one in candidates):
            raise error
        return timed.compare(candidates, *rest, **options)  # type: ignore[arg-type]

    for stage in STAGES:
        monkeypatch.setattr(f"fewbits.flow.{stage}.compare", compare)


def tuned(**options: object) -> fewbits.Result:
    data, goal = builders.features(400), {"evaluate": "cosine", "max_loss": 0.5}
    return fewbits.tune(builders.gemm(), data, target="onnxruntime", threads=1, **goal, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [WorkerError("ended by signal SIGSEGV"), ModelError("does not load")])
def test_the_rest_is_tuned(timed: Timing, monkeypatch: pytest.MonkeyPatch, error: FewbitsError) -> None:
    deadly(timed, monkeypatch, "weighted products", error)
    result = tuned()
    assert result.outcome is Outcome.MET
    assert result.record.plans is not None
    assert "weighted products" not in result.record.plans.latencies


def test_where_none_runs_the_original_comes_back_with_the_reason(
    timed: Timing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deadly(timed, monkeypatch, "[!o]*", WorkerError("ended by signal SIGSEGV"))
    result = tuned(out=tmp_path / "run")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert "no plan in low precision runs" in result.record.reason
    assert result.artifact.content == builders.gemm().SerializeToString()
    assert (tmp_path / "run" / "report.txt").exists()


def test_an_original_that_does_not_run_is_an_error(timed: Timing, monkeypatch: pytest.MonkeyPatch) -> None:
    deadly(timed, monkeypatch, "original", ModelError("does not load"))
    with pytest.raises(ModelError, match="does not load"):
        tuned()
