import pytest

from fewbits.errors import UsageError
from fewbits.search.allocation import HARM, Additive, Allocation, Item, Peak, Step, within
from fewbits.search.boundary import Crossing, PairTable

A = Item("a", {"fp32": 0.0, "int8": 1.0})
B = Item("b", {"fp32": 0.0, "int8": 2.0})
DOMAINS = {"fp32": "float", "int8": "codes"}
SECONDS = {"a": {"fp32": 4.0, "int8": 2.0}, "b": {"fp32": 8.0, "int8": 4.0}}
CROSSING = Crossing("a", "b", DOMAINS, DOMAINS, {"fp32": 0.5, "int8": 0.25}, {"fp32": 0.125, "int8": 0.0625})


def test_values_of_a_choice():
    steps = (Step({"a": {"fp32": 7.0}}, 1.0), Step({"a": {"int8": 1.0}, "b": {"fp32": 2.0, "int8": 4.0}}))
    allocation = Allocation([A, B], [Additive("seconds", SECONDS, [CROSSING], 1.0), Peak("ram", steps)])
    assert allocation.names == (HARM, "seconds", "ram")
    values = {
        ("fp32", "fp32"): {HARM: 0.0, "seconds": 13.0, "ram": 8.0},
        ("fp32", "int8"): {HARM: 2.0, "seconds": 9.0 + 0.5 + 0.0625, "ram": 8.0},
        ("int8", "fp32"): {HARM: 1.0, "seconds": 11.0 + 0.25 + 0.125, "ram": 3.0},
        ("int8", "int8"): {HARM: 3.0, "seconds": 7.0, "ram": 5.0},
    }
    for (first, second), expected in values.items():
        assert allocation.values({"a": first, "b": second}) == expected


def test_a_limit_forgives_the_rounding_of_sums_and_nothing_else():
    assert within(0.1 + 0.2, 0.3)
    assert not within(0.3 + 1e-6, 0.3)
    assert within(0.0, 0.0) and not within(1e-30, 0.0)


def test_ties_that_share_an_item_are_one_and_leave_the_common_options():
    c = Item("c", {"int8": 0.0, "bf16": 0.0, "fp32": 0.0})
    d = Item("d", {"int4": 0.0})
    blocks = Allocation([A, d, B, c], ties=[("c", "b"), ("a", "b")]).blocks()
    assert blocks == ((("a", "b", "c"), ("fp32", "int8")), (("d",), ("int4",)))
    assert Allocation([A, B], ties=[("a", "b")], fixed={"b": "int8"}).blocks() == ((("a", "b"), ("int8",)),)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Allocation([]), "at least one item"),
        (lambda: Allocation([A, A]), "share the names 'a'"),
        (lambda: Allocation([A], [Additive("harm", {"a": SECONDS["a"]})]), "share the names 'harm'"),
        (lambda: Allocation([Item("a", {})]), "'a' has no options"),
        (lambda: Allocation([Item("a", {"x": -1.0})]), "harm -1.0"),
        (lambda: Allocation([Item("a", {"x": float("nan")})]), "harm nan"),
        (lambda: Allocation([A, B], [Additive("s", {"a": SECONDS["a"]})]), "no cost for item 'b' with 'fp32', 'int8'"),
        (lambda: Allocation([A], [Additive("s", SECONDS)]), "there is no item 'b'"),
        (lambda: Allocation([A], [Additive("s", {"a": {"fp32": 1.0, "int8": float("inf")}})]), "cost inf"),
        (lambda: Allocation([A], [Peak("ram", [])]), "a peak without steps"),
        (lambda: Allocation([A], [Peak("ram", [Step({"a": {"int4": 1.0}})])]), "'a' has 'fp32', 'int8'"),
        (lambda: Allocation([A, B], ties=[("a", "x")]), "'x', which is no item"),
        (lambda: Allocation([A], fixed={"a": "int4"}), "cannot be fixed to 'int4'; 'a' has 'fp32', 'int8'"),
        (lambda: Allocation([A, Item("c", {"int4": 0.0})], ties=[("a", "c")]), "no option is open to all"),
        (lambda: Allocation([A, B], ties=["ab"], fixed={"a": "fp32", "b": "int8"}), "no option is open to all"),
    ],
)
def test_what_cannot_be_solved_is_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        (Crossing("a", "x", DOMAINS, DOMAINS), "'x' is no item"),
        (Crossing("a", "a", DOMAINS, DOMAINS), "the two must differ"),
        (Crossing("a", "b", {"fp32": "float"}, DOMAINS), "gives no domain for option 'int8'"),
        (Crossing("a", "b", DOMAINS, {"int8": "codes"}), "takes no domain for option 'fp32'"),
        (Crossing("a", "b", DOMAINS, DOMAINS, {"int8": -1.0}), "leave has -1.0"),
        (PairTable("a", "b", {("int8", "int4"): 1.0}), "names the pair"),
        (PairTable("a", "b", {("int8", "int8"): float("nan")}), "finite"),
    ],
)
def test_a_boundary_that_does_not_fit_is_refused(edge, said):
    with pytest.raises(UsageError, match=said):
        Allocation([A, B], [Additive("seconds", SECONDS, [edge])])
