"""The plan as a file: what is read back, what is refused and how it says so."""

import json
from collections.abc import Mapping
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import PlanError
from fewbits.formats.scheme import FP32, INT8_STATIC
from fewbits.plan import VERSION, Choice, Plan, diff

INT8 = str(INT8_STATIC)


def plan(**schemes: str) -> Plan:
    choices = {name: Choice(scheme, "because") for name, scheme in schemes.items()}
    return Plan("abc", choices, {"t": (-1.0, 2.0)}, target="onnxruntime:cpu", calibration="minmax")


def document(**changes: object) -> str:
    return json.dumps({**json.loads(plan(a=INT8).to_json()), **changes})


def test_the_file_is_readable() -> None:
    read = json.loads(plan(a=INT8).to_json())
    assert read["choices"] == {"a": {"scheme": "w:int8r/channel a:uint8/tensor", "reason": "because"}}
    assert read["ranges"] == {"t": [-1.0, 2.0]}
    assert read["version"] == VERSION
    assert read["made_by"].startswith("fewbits ")


def test_a_group_without_a_choice_stays_in_fp32() -> None:
    made = plan(a=INT8, b="fp32")
    assert made.scheme("a") == INT8_STATIC
    assert made.scheme("b") == made.scheme("nowhere") == FP32
    assert made.low == {"a"}


def test_reverting() -> None:
    made = plan(a=INT8, b=INT8, c="fp32")
    back = made.reverted({"a": "too harmful"})
    assert back.low == {"b"}
    assert back.choices["a"] == Choice("fp32", "too harmful")
    assert back.choices["b"] == made.choices["b"]
    assert back.ranges == made.ranges
    assert made.low == {"a", "b"}
    assert made.reverted({}) == made


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"colour": "red"}, "colour"),
            ({"choices": {"a": {"scheme": INT8, "reason": "", "why": "?"}}}, r"choices\.a\.why"),
            ({"choices": {"a": {"scheme": INT8}}}, r"choices\.a\.reason"),
            ({"choices": {"a": {"scheme": "int9", "reason": ""}}}, "group a.*int9.*choose fp32"),
            ({"ranges": {"t": [1.0]}}, r"ranges\.t"),
            ({"ranges": {"t": ["low", "high"]}}, r"ranges\.t"),
            ({"ranges": {"t": [2.0, 1.0]}}, "tensor t is 2.0 to 1.0"),
            ({"ranges": {"t": [nan, 1.0]}}, "tensor t is nan"),
            ({"ranges": {"t": [0.0, inf]}}, "tensor t is 0.0 to inf"),
            ({"version": VERSION + 1}, f"version {VERSION + 1}.*reads version {VERSION}"),
            # A later version may have keys that this one does not know: the version is what to say.
            ({"version": VERSION + 1, "colour": "red"}, f"version {VERSION + 1}"),
        ],
    )
    def test_a_changed_plan(self, changes: Mapping[str, object], says: str) -> None:
        with pytest.raises(PlanError, match=says) as caught:
            Plan.from_json(document(**changes))
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", b"\xff\xfe", '{"model_sha256": 3}', '"fp32"'])
    def test_what_is_no_plan(self, text: str | bytes) -> None:
        with pytest.raises(PlanError, match="not a fewbits plan"):
            Plan.from_json(text)

    def test_a_range_that_is_none_cannot_be_made(self) -> None:
        with pytest.raises(PlanError, match="calibrate again"):
            Plan("abc", {}, {"t": (0.0, inf)})

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(PlanError, match=r"no\.json"):
            Plan.load(tmp_path / "no.json")
        with pytest.raises(PlanError, match="cannot read"):
            Plan.load(tmp_path)

    def test_a_file_that_can(self, tmp_path: Path) -> None:
        (tmp_path / "plan.json").write_text(plan(a=INT8).to_json())
        assert Plan.load(tmp_path / "plan.json") == plan(a=INT8)


choices = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["fp32", INT8, "w:int8/tensor a:int8/tensor"]))


class TestDiff:
    @given(choices, choices)
    def test_swapping_the_plans_swaps_the_pairs(self, one: dict[str, str], other: dict[str, str]) -> None:
        there, back = diff(plan(**one), plan(**other)), diff(plan(**other), plan(**one))
        assert back == {name: (new, old) for name, (old, new) in there.items()}

    @given(choices, choices)
    def test_it_is_empty_for_equal_schemes_and_only_then(self, one: dict[str, str], other: dict[str, str]) -> None:
        a, b = plan(**one), plan(**other)
        equal = all(a.scheme(name) == b.scheme(name) for name in "abcd")
        assert (diff(a, b) == {}) == equal

    def test_names_are_in_order_and_reasons_do_not_count(self) -> None:
        a, b = plan(z=INT8, m=INT8, b="fp32"), plan(b=INT8, m="int8")
        assert list(diff(a, b)) == ["b", "z"]
        assert diff(a, b)["z"] == (INT8_STATIC, FP32)
