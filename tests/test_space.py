"""What groups may become: the menu, narrowed by rules, with a reason for everything that is left out."""

import pytest

from fewbits.errors import SchemeError, UsageError
from fewbits.formats.scheme import (
    BF16,
    FP32,
    INT8_BLOCKS,
    INT8_DYNAMIC,
    INT8_PAIR,
    INT8_STATIC,
    INT8_SYMMETRIC_PAIR,
    Scheme,
)
from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.space import Menu, Refusal, Rule, Space, candidates

INT4 = Scheme.parse("w:int4r/channel a:uint8/tensor")


def product(name: str, *, weight: str = "w") -> Group:
    kind = Kind.CONV if weight else Kind.MATMUL
    return Group(name, kind, (name,), ("x",) if weight else ("x", "z"), weight, "", f"{name}:0", f"{name}:0")


def offering(*schemes: Scheme, refused: str = "") -> Menu:
    return Menu((FP32, *schemes), (Refusal(INT8_STATIC, refused),) if refused else ())


def space(groups: list[Group], rules: list[str], menu: Menu | None = None) -> Space:
    offered = offering(INT8_STATIC) if menu is None else menu
    return candidates(groups, [Rule.parse(rule) for rule in rules], lambda group: offered)


def test_without_rules_a_group_has_the_whole_menu() -> None:
    found = space([product("a")], [], offering(INT8_STATIC, INT4))
    assert found.schemes == {"a": (FP32, INT8_STATIC, INT4)}
    assert found.coded == {"a": INT8_STATIC}
    assert found.refusals == {"a": ()}
    assert found.unused_rules == ()


def test_fp32_is_always_possible() -> None:
    assert candidates([product("a")], [], lambda group: Menu((INT4,))).schemes["a"] == (FP32, INT4)
    assert candidates([product("a")], [], lambda group: Menu(())).schemes["a"] == (FP32,)
    assert candidates([product("a")], [], lambda group: Menu(())).coded == {}


def test_refusals_of_the_target_are_kept() -> None:
    found = space([product("a")], ["b=fp32"], offering(refused="no kernel"))
    assert [refusal.reason for refusal in found.refusals["a"]] == ["no kernel"]


def test_a_rule_keeps_a_group_in_fp32_and_says_so() -> None:
    found = space([product("a"), product("b")], ["a=fp32"])
    assert found.coded == {"b": INT8_STATIC}
    (refusal,) = found.refusals["a"]
    assert refusal.scheme == INT8_STATIC
    assert "a=fp32" in refusal.reason
    assert found.refusals["b"] == ()


def test_the_first_match_wins() -> None:
    groups = [product("conv_1"), product("conv_2"), product("fc")]
    found = space(groups, ["conv_1=int8", "conv_*=fp32", "*=int8"])
    assert set(found.coded) == {"conv_1", "fc"}


def test_rules_that_decide_nothing_are_reported_in_order() -> None:
    found = space([product("a")], ["b*=fp32", "a=fp32", "a=int8", "c=int8"])
    assert found.unused_rules == ("b*=fp32", f"a={INT8_STATIC}", f"c={INT8_STATIC}")


def test_a_rule_chooses_among_several_schemes() -> None:
    found = space([product("a")], [f"a={INT4}"], offering(INT8_STATIC, INT4))
    assert found.coded == {"a": INT4}
    assert [refusal.scheme for refusal in found.refusals["a"]] == [INT8_STATIC]


def test_a_scheme_that_the_target_lacks_is_refused_with_what_it_has() -> None:
    found = space([product("a")], [f"a={INT4}"])
    assert found.coded == {}
    wanted = next(refusal for refusal in found.refusals["a"] if refusal.scheme == INT4)
    assert str(INT8_STATIC) in wanted.reason


def test_what_the_target_refused_with_a_reason_is_not_refused_twice() -> None:
    found = space([product("a")], ["a=int8"], offering(refused="no kernel"))
    assert [refusal.reason for refusal in found.refusals["a"]] == ["no kernel"]


@pytest.mark.parametrize("pair", [INT8_PAIR, INT8_SYMMETRIC_PAIR])
def test_without_a_weight_only_the_widths_of_codes_count(pair: Scheme) -> None:
    groups = [product("attention", weight="")]
    assert space(groups, ["*=int8"], offering(pair)).coded == {"attention": pair}
    assert space(groups, [f"*={INT4}"], offering(pair)).coded == {}
    with_weight = space([product("conv")], ["*=int8"], offering(INT8_PAIR))
    assert with_weight.coded == {}


def test_the_coded_scheme_is_the_one_with_calibrated_ranges() -> None:
    found = space([product("a"), product("b", weight="")], [], offering(BF16, INT8_DYNAMIC, INT8_STATIC, INT4))
    assert found.coded == {"a": INT8_STATIC, "b": INT8_STATIC}
    assert space([product("a")], [], offering(BF16, INT8_DYNAMIC, INT8_BLOCKS)).coded == {}


def test_free_is_what_may_leave_fp32_in_any_scheme() -> None:
    found = space([product("a"), product("b")], ["a=fp32"], offering(BF16))
    assert found.free == {"b"}
    assert space([product("a")], [], offering()).free == frozenset()


def test_what_a_probe_refuses_leaves_the_space_with_its_reason() -> None:
    found = space([product("a"), product("b")], ["c=fp32"], offering(INT8_STATIC, BF16, refused="no kernel"))
    probed = found.without({"a": [Refusal(BF16, "it ran in fp32")], "absent": [Refusal(BF16, "")]})
    assert probed.schemes == {"a": (FP32, INT8_STATIC), "b": (FP32, INT8_STATIC, BF16)}
    assert [refusal.reason for refusal in probed.refusals["a"]] == ["no kernel", "it ran in fp32"]
    assert [refusal.reason for refusal in probed.refusals["b"]] == ["no kernel"]
    assert probed.unused_rules == found.unused_rules
    assert found.without({}) == found


@pytest.mark.parametrize("scheme", [BF16, INT8_DYNAMIC, INT8_BLOCKS])
def test_a_rule_keeps_to_its_scheme_among_all_sorts(scheme: Scheme) -> None:
    menu = offering(INT8_STATIC, BF16, INT8_DYNAMIC, INT8_BLOCKS, INT8_PAIR)
    for weight in ("w", ""):
        found = space([product("a", weight=weight)], [f"a={scheme}"], menu)
        assert found.schemes["a"] == (FP32, scheme)
        assert {refusal.scheme for refusal in found.refusals["a"]} == set(menu.schemes) - {FP32, scheme}


class TestRule:
    def test_the_text(self) -> None:
        assert Rule.parse("conv_1*=fp32") == Rule("conv_1*", FP32)
        assert Rule.parse("a=int8").scheme == INT8_STATIC
        for scheme in (BF16, INT8_DYNAMIC, INT8_BLOCKS):
            assert Rule.parse(f"a*={scheme}") == Rule("a*", scheme)

    def test_a_name_may_hold_an_equals_sign(self) -> None:
        assert Rule.parse("a=b=fp32") == Rule("a=b", FP32)

    @pytest.mark.parametrize("text", ["", "conv", "=fp32", "conv=", "conv=half", "conv = fp32"])
    def test_what_is_no_rule_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"is not a rule|choose fp32"):
            Rule.parse(text)

    def test_an_unknown_scheme_lists_the_choices(self) -> None:
        with pytest.raises(SchemeError, match="choose fp32, bf16, fp16, int8"):
            Rule.parse("conv*=int7")

    @pytest.mark.parametrize(
        ("pattern", "name", "matches"),
        [
            ("conv*", "conv_1", True),
            ("conv?", "conv_1", False),
            ("Conv*", "conv_1", False),
            ("/layer1/*", "/layer1/conv/Conv", True),
            ("block[0-2]*", "block1/conv", True),
            # Names with brackets are found by their own name too.
            ("block[0]", "block[0]", True),
            ("block[0]", "block0", True),
        ],
    )
    def test_matching(self, pattern: str, name: str, matches: bool) -> None:
        assert Rule(pattern, FP32).matches(product(name)) is matches
