"""Predicted costs as text."""

from __future__ import annotations

import pytest

from fewbits.record import PredictedCost
from fewbits.report.predicted import amount, predicted_row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (812.0, "812"),
        (3410.0, "3.41 k"),
        (98.1e6, "98.1 M"),
        (4.2e-6, "4.20 u"),
        (-1.0, "-"),
        (2e12, "2.00 T"),
    ],
)
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


def test_a_row_beside_the_original() -> None:
    row = predicted_row(PredictedCost("size", "bytes", original=267648.0, widest=70344.0, tuned=37752.0))
    assert row == ("predicted bytes (size)", "268 k", "37.8 k", "7.09x less")


def test_a_row_where_the_original_cannot_run() -> None:
    row = predicted_row(PredictedCost("mpic", "cycles", original=-1.0, widest=2e6, tuned=1e6))
    assert row[1:] == ("none for fp32", "1.00 M", "2.00x less than 2.00 M with the most bits")
    same = predicted_row(PredictedCost("mpic", "cycles", original=-1.0, widest=2e6, tuned=2e6))
    assert same[3] == "the same as with the most bits"
