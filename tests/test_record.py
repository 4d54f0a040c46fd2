"""The record of a finished run: what is refused when it is read back."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from fewbits.errors import RunError
from fewbits.measurement import Interval
from fewbits.record import VERSION, RunRecord

GOLDEN = (Path(__file__).parent / "report" / "golden" / "run.json").read_bytes()

Document = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it.update(colour="red"), "colour"),
        (lambda it: it["machine"].update(colour="red"), "machine.colour"),
        (lambda it: it["accuracy"]["loss"].update(colour="red"), "accuracy.loss.colour"),
        (lambda it: it["groups"][0].update(colour="red"), "groups.0.colour"),
        (lambda it: it["latency"].update(colour="red"), "latency.colour"),
        (lambda it: it["groups"][0]["schemes"][0].update(colour="red"), "groups.0.schemes.0.colour"),
        (lambda it: it["front"][0].update(colour="red"), "front.0.colour"),
        (lambda it: it["trials"][0].pop("samples"), "trials.0.samples: Field required"),
        (lambda it: it["prediction"].update(plans="many"), "prediction.plans"),
        (lambda it: it.pop("target"), "target: Field required"),
        (lambda it: it.pop("outcome"), "outcome: Field required"),
        (lambda it: it.update(outcome="great"), "outcome.*met.*kept_original"),
        (lambda it: it.update(version=VERSION + 1), f"version {VERSION + 1}.*reads version {VERSION}"),
        (lambda it: it.update(version=VERSION + 1, colour="red"), f"version {VERSION + 1}"),
        # What an earlier fewbits wrote has other keys.
        (lambda it: (it.update(version=1), it.pop("front")), "version 1; .*reads version 2. Use the fewbits that made"),
    ],
)
def test_a_changed_record_is_refused(change: Callable[[Document], object], says: str) -> None:
    document = json.loads(GOLDEN)
    change(document)
    with pytest.raises(RunError, match=says) as caught:
        RunRecord.from_json(json.dumps(document))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", b"\xff"])
def test_what_is_no_record_is_refused_in_a_few_words(text: str | bytes) -> None:
    with pytest.raises(RunError, match="not a finished fewbits run") as caught:
        RunRecord.from_json(text)
    assert len(str(caught.value)) < 300


def test_an_infinite_loss_is_kept() -> None:
    record = RunRecord.from_json(GOLDEN)
    assert record.accuracy is not None
    lost = replace(record, accuracy=replace(record.accuracy, loss=Interval(inf, -inf, inf)))
    read = RunRecord.from_json(lost.to_json())
    assert read.accuracy is not None
    assert read.accuracy.loss == Interval(inf, -inf, inf)
