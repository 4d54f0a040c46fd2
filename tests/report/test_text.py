from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.measurement import Interval
from fewbits.outcome import Outcome
from fewbits.record import GroupRow, PredictedCost, RunRecord
from fewbits.report.explain_text import render_explanations
from fewbits.report.table import WIDTH
from fewbits.report.text import render, summary

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def record() -> RunRecord:
    return RunRecord.from_json((GOLDEN / "run.json").read_bytes())


def test_the_report_of_a_stored_run_is_pinned(record: RunRecord) -> None:
    assert render(record) == (GOLDEN / "report.txt").read_text()


def test_the_summary_opens_the_report(record: RunRecord) -> None:
    assert render(record).startswith(summary(record))


def test_every_group_left_in_fp32_shows_its_reason(record: RunRecord) -> None:
    joined = " ".join(render(record).split())
    for row in record.groups:
        assert row.reason in joined


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300),
    reason=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
    seconds=st.floats(-1, 1e3),
    sensitivity=st.floats(0, 1e3),
)
def test_no_name_or_figure_breaks_the_width(name: str, reason: str, seconds: float, sensitivity: float) -> None:
    record = RunRecord.from_json((GOLDEN / "run.json").read_bytes())
    row = GroupRow(name, "conv", "fp32", reason, name, "float32", sensitivity, seconds, seconds)
    text = render(replace(record, model=name, groups=(row, *record.groups), notes=(name, reason)))
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert text.isascii()


def test_a_report_without_labels_latency_or_groups(record: RunRecord) -> None:
    bare = replace(record, accuracy=None, latency=None, groups=(), trials=(), kernels={}, notes=(), reason="")
    text = render(bare)
    assert "file size" in text
    assert "latency" not in text.split("Run\n---")[0]
    assert "Groups" not in text


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_headline_is_the_outcome_and_its_advice(record: RunRecord, outcome: Outcome) -> None:
    text = render(replace(record, outcome=outcome))
    assert text.startswith(outcome.value.upper().replace("_", " "))
    assert outcome.advice in " ".join(text.split())


def test_of_hardware_that_is_not_at_hand_nothing_is_beyond_the_noise(record: RunRecord) -> None:
    cost = PredictedCost("mpic", "cycles", original=2e6, widest=1e6, tuned=5e5)
    text = " ".join(summary(replace(record, outcome=Outcome.MET, latency=None, predicted=(cost,))).split())
    assert Outcome.MET.predicted_advice in text
    assert "noise" not in text


def test_a_model_that_is_not_surely_faster_is_not_called_faster(record: RunRecord) -> None:
    assert record.latency is not None
    unsure = replace(record.latency, speedups={"tuned": Interval(1.05, 0.97, 1.12)})
    text = summary(replace(record, latency=unsure))
    assert "1.05x [0.970, 1.12]" in text
    assert "faster" not in text.split("file size")[0].split("original  ")[1]


def test_an_absolute_budget_has_no_percent_sign(record: RunRecord) -> None:
    assert record.accuracy is not None
    absolute = replace(record.accuracy, relative=False, loss=Interval(0.0025, -0.001, 0.0061), max_loss=0.005)
    text = summary(replace(record, accuracy=absolute))
    assert "loss 0.0025 [-0.0010, 0.0061]" in text
    assert "allowed loss 0.005," in " ".join(text.split())
    assert "%" not in text.split("latency")[0]


def test_few_rounds_admit_what_they_cannot_promise(record: RunRecord) -> None:
    assert record.latency is not None
    few = {name: replace(latency, blocks=latency.blocks[:4]) for name, latency in record.latency.latencies.items()}
    text = " ".join(summary(replace(record, latency=replace(record.latency, latencies=few))).split())
    assert "own median with 88% only" in text
    assert "only" not in " ".join(summary(record).split()).split("95 % intervals")[1]


def test_rendering_needs_no_framework() -> None:
    script = (
        "import sys; from pathlib import Path; from fewbits.store import read_record; "
        "from fewbits.report.text import render; print(len(render(read_record(Path(sys.argv[1])))));"
        "print(sorted({'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(GOLDEN)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[1] == "[]"


def test_the_ways_codes_were_found_are_told(record: RunRecord) -> None:
    first, *rest = record.groups
    assert "Codes that were searched for" not in render(record)
    codes = replace(first, codes="AWQ, then GPTQ, then AdaRound", codes_share=0.25, scheme="w:uint4/g64@0")
    changed = replace(record, groups=(codes, *rest), explanations=())
    for text in (render(changed), render_explanations(changed)):
        (line,) = [line for line in text.splitlines() if "AWQ, then GPTQ, then AdaRound" in line]
        assert first.name[:20] in line
        assert line.endswith("0.25")
    assert "AWQ" not in render_explanations(changed, "no such group")
