"""Harm in the unit of its measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fewbits.record import RunRecord
from fewbits.report.harm import harm_text
from fewbits.report.table import WIDTH
from fewbits.report.text import render
from fewbits.sensitivity.measure import KL, LOSS, NAMES, OUTPUT

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("measure", "value", "error", "text"),
    [
        (OUTPUT, 1e-4, 2e-5, "0.010% +- 0.002, 40 dB"),
        (OUTPUT, 0.0, 0.0, "0% +- 0"),
        (OUTPUT, float("inf"), 0.0, "inf% +- 0"),
        (KL, 0.0123, 0.002, "0.012 +- 0.002"),
        (KL, 6.7e-6, 6e-7, "6.7e-06 +- 6e-07"),
        (LOSS, 0.05, 0.01, "0.050 +- 0.01"),
    ],
)
def test_a_figure_with_its_standard_error(measure: str, value: float, error: float, text: str) -> None:
    """Output error has its reciprocal in dB beside it, the SQNR."""
    assert harm_text(measure).with_error(value, error) == text


@pytest.mark.parametrize("measure", NAMES[1:])
def test_a_report_names_its_measure_wherever_it_shows_harm(measure: str) -> None:
    record = replace(RunRecord.from_json((GOLDEN / "run.json").read_bytes()), measure=measure)
    assert RunRecord.from_json(record.to_json()) == record
    text, words = render(record), harm_text(measure)
    assert max(map(len, text.splitlines())) <= WIDTH
    joined = " ".join(text.split())
    for said in (f"sensitivity {measure}", words.title, words.alone, words.together, f"sens.: {words.name}"):
        assert said in joined
    assert (" dB" in text) == (measure == OUTPUT)
