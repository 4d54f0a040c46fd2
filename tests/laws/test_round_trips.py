"""Every value with a text form is read back as it was written."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.formats.granularity import Channel, Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import BF16, FP16, FP32, Scheme
from fewbits.measurement import Interval
from fewbits.outcome import Outcome
from fewbits.plan import Choice, Plan
from fewbits.record import GroupRow, RunRecord, SchemeRow, TrialRow
from fewbits.space import Rule

GOLDEN = Path(__file__).parents[1] / "report" / "golden" / "run.json"

unsigned = st.builds(IntFormat, st.integers(2, 16), st.just(False))
signed = st.builds(IntFormat, st.integers(2, 16), st.just(True), st.booleans())
formats = unsigned | signed
operands = st.builds(ScaledFormat, formats, st.sampled_from([Tensor(), Channel(), Channel(1)]))
schemes = (
    st.sampled_from([FP32, BF16, FP16])
    | st.builds(Scheme, operands)
    | st.builds(Scheme, operands, operands, st.booleans())
)
# Protobuf has no lone surrogates either.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
ranges = st.tuples(finite, finite).map(lambda pair: (min(pair), max(pair)))
choices = st.builds(Choice, schemes.map(str), texts)
plans = st.builds(
    Plan,
    texts,
    st.dictionaries(texts, choices, max_size=4),
    st.dictionaries(texts, ranges, max_size=4),
    target=texts,
    machine=texts,
    calibration=texts,
    notes=st.lists(texts, max_size=2).map(tuple),
)
# NaN is no value of a record: it would not equal itself.
floats = st.floats(allow_nan=False)
intervals = st.builds(Interval, floats, floats, floats)
offers = st.builds(SchemeRow, texts, floats, floats, floats, floats, floats, texts, texts)
rows = st.builds(GroupRow, *[texts] * 6, *[floats] * 3, schemes=st.lists(offers, max_size=2).map(tuple))
trials = st.builds(
    TrialRow, st.integers(0), texts, st.integers(0), floats, floats, st.booleans(), st.integers(0), floats
)


@given(formats)
def test_format(format: IntFormat) -> None:
    assert IntFormat.parse(str(format)) == format


@given(formats, formats)
def test_different_formats_have_different_texts(one: IntFormat, other: IntFormat) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(schemes)
def test_scheme(scheme: Scheme) -> None:
    assert Scheme.parse(str(scheme)) == scheme


@given(texts.filter(bool), schemes)
def test_rule(pattern: str, scheme: Scheme) -> None:
    rule = Rule(pattern, scheme)
    assert Rule.parse(str(rule)) == rule


@given(plans)
def test_plan(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@given(intervals, st.lists(rows, max_size=2), st.lists(trials, max_size=2), st.sampled_from(Outcome))
def test_record(interval: Interval, groups: list[GroupRow], found: list[TrialRow], outcome: Outcome) -> None:
    record = RunRecord.from_json(GOLDEN.read_bytes())
    assert record.accuracy is not None
    changed = replace(
        record,
        outcome=outcome,
        accuracy=replace(record.accuracy, loss=interval),
        groups=tuple(groups),
        trials=tuple(found),
    )
    assert RunRecord.from_json(changed.to_json()) == changed


@pytest.mark.parametrize("missing", ["accuracy", "latency"])
def test_record_without_a_figure(missing: str) -> None:
    record = replace(RunRecord.from_json(GOLDEN.read_bytes()), **{missing: None})
    assert RunRecord.from_json(record.to_json()) == record
