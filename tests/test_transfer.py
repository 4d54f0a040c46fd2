"""Plans carried over between graphs of one function, without any framework."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fewbits.eligibility import obstacle
from fewbits.formats.scheme import FP32, INT8_STATIC
from fewbits.graph import Graph, Kind, Node, Tensor
from fewbits.grouping import Group
from fewbits.plan import Choice, Plan, smoothed
from fewbits.transfer import Carried, Correspondence, Side, carry, correspond

INT8 = str(INT8_STATIC)


def chain(names: tuple[str, ...], kind: Kind = Kind.MATMUL, prefix: str = "", width: int = 4) -> Graph:
    """Products in a row: ``x`` → ``<prefix><name>`` for each of `names`."""
    tensors = {f"{prefix}x": Tensor(f"{prefix}x", "float32", (3, width))}
    nodes, last = [], f"{prefix}x"
    for name in names:
        node, weight = f"{prefix}{name}", f"{prefix}{name}.weight"
        tensors[weight] = Tensor(weight, "float32", (width, width), constant=True)
        tensors[f"{node}.out"] = Tensor(f"{node}.out", "float32", (3, width))
        nodes.append(Node(node, kind, str(kind), (last, weight), (f"{node}.out",)))
        last = f"{node}.out"
    return Graph(tuple(nodes), tensors, (f"{prefix}x",), (last,))


HERE, THERE = chain(("a", "b")), chain(("a", "b"), prefix="o.")
CALLS = {"o.a": "a", "o.b": "b"}
VALUES = {"o.x": "x", "o.a.out": "a.out", "o.b.out": "b.out"}
SAME = correspond(HERE, THERE, CALLS, VALUES)
RANGES = {"x": (0.0, 1.0), "a.out": (-1.0, 2.0), "b.out": (0.0, 3.0)}


def carried(plan: Plan, same: Correspondence = SAME, there: Graph = THERE) -> Carried:
    return carry(plan, Side(there, "there", obstacle), same, "openvino:cpu")


def test_everything_goes_along_under_its_other_name() -> None:
    plan = Plan("here", {"a": Choice(INT8, "fast"), "b": Choice("fp32", "kept")}, RANGES, codes={"a": "0" * 16})
    found = carried(plan)
    assert not found.left
    assert found.plan.choices == {"o.a": Choice(INT8, "fast"), "o.b": Choice("fp32", "kept")}
    assert found.plan.ranges == {f"o.{name}": value for name, value in RANGES.items()}
    assert (found.plan.model_sha256, found.plan.target, found.plan.codes) == (
        "there",
        "openvino:cpu",
        {"o.a": "0" * 16},
    )


def test_what_smoothing_leaves_goes_with_its_tensor() -> None:
    scheme = f"{INT8} smoothed"
    ranges = {smoothed("x"): (0.0, 1.0)}
    plan = Plan("here", {"a": Choice(scheme, "fast")}, ranges, smoothing={"x": "1 2"}, means={"x": "3 4"})
    found = carried(plan).plan
    assert found.ranges == {smoothed("o.x"): (0.0, 1.0)}
    assert (found.smoothing, found.means) == ({"o.x": "1 2"}, {"o.x": "3 4"})
    assert str(found.scheme("o.a")) == scheme


def test_a_scheme_that_needs_factors_is_listed_where_they_are_lost() -> None:
    plan = Plan("here", {"a": Choice(f"{INT8} smoothed", "fast")}, {smoothed("x"): (0.0, 1.0)})
    found = carried(plan)
    assert found.plan.scheme("o.a") == FP32
    assert [left.what for left in found.left] == ["scheme"]


def test_codes_of_unknown_range_are_listed_and_stay_float() -> None:
    found = carried(Plan("here", {"a": Choice(INT8, "fast"), "b": Choice(INT8, "fast")}, {"x": (0.0, 1.0)}))
    assert found.plan.low == {"o.a"}
    assert [(left.what, left.name) for left in found.left] == [("scheme", "o.b")]


def test_only_what_is_read_needs_a_range_where_products_give_floats() -> None:
    here, there = chain(("a",), Kind.CONV), chain(("a",), Kind.CONV, "o.")
    same = correspond(here, there, {"o.a": "a"}, {"o.x": "x"})
    plan = Plan("here", {"a": Choice(INT8, "fast")}, {"x": (0.0, 1.0)})

    def anything(graph: Graph, group: Group, scheme: object) -> str:
        return ""

    assert not carry(plan, Side(there, "there", anything), same).plan.low
    assert carry(plan, Side(there, "there", anything, gives_floats=True), same).plan.low == {"o.a"}


def test_factors_of_weights_alone_go_with_their_tensor() -> None:
    scheme = "w:int4r/g32@0 smoothed"
    plan = Plan("here", {"b": Choice(scheme, "small")}, {}, scaling={"a.out": "1 2"})
    here, there = chain(("a", "b"), width=32), chain(("a", "b"), prefix="o.", width=32)
    found = carried(plan, correspond(here, there, CALLS, VALUES), there)
    assert not found.left
    assert found.plan.scaling == {"o.a.out": "1 2"}
    assert str(found.plan.scheme("o.b")) == scheme
    # Factors of the other sort are none for it.
    lost = carried(replace(plan, scaling={}, smoothing=plan.scaling), correspond(here, there, CALLS, VALUES), there)
    assert lost.plan.scheme("o.b") == FP32


def test_nodes_that_are_kept_are_listed() -> None:
    found = carried(Plan("here", {"a": Choice("bf16", "fast")}, {}, kept=("norm",)))
    assert not found.plan.kept
    assert [(left.what, left.name) for left in found.left] == [("float32", "norm")]


def branched() -> Graph:
    """`THERE` with somebody else who reads what the first product gives."""
    more = Node("o.sum", Kind.OTHER, "ReduceSum", ("o.a.out",), ("o.sum.out",))
    tensors = {**THERE.tensors, "o.sum.out": Tensor("o.sum.out", "float32", (3,))}
    return Graph((*THERE.nodes, more), tensors, THERE.inputs, (*THERE.outputs, "o.sum.out"))


def test_without_scaled_channels_their_ranges_are_of_nothing() -> None:
    plan = Plan(
        "here",
        {"a": Choice(INT8, "fast"), "b": Choice(INT8, "fast")},
        RANGES,
        equalised={"a.out": "1 2"},
        codes={"a": "0" * 16},
    )
    assert carried(plan).plan.equalised == {"o.a.out": "1 2"}
    assert carried(plan).plan.codes
    found = carried(plan, there=branched())
    assert not found.plan.equalised and "o.a.out" not in found.plan.ranges
    assert found.plan.low == {"o.a"}
    assert {(left.what, left.name) for left in found.left} == {
        ("factors", "a.out"),
        ("range", "a.out"),
        ("scheme", "o.b"),
        # What was found for a weight of which the outputs were scaled.
        ("codes", "a"),
    }


def test_places_name_tensors_that_have_no_name_of_their_own() -> None:
    """An exporter leaves out what changes nothing: the operand stands for it."""
    values = {name: source for name, source in VALUES.items() if source != "a.out"}
    assert ("a.out", "o.a.out") in correspond(HERE, THERE, CALLS, values).tensors
    # But where both sides are known by name, a place says nothing new.
    crossed = correspond(HERE, THERE, CALLS, {**VALUES, "o.a.out": "b.out", "o.b.out": "a.out"})
    assert ("a.out", "o.a.out") not in crossed.tensors


def test_a_tensor_that_stands_twice_has_both_ranges_and_is_divided_where_it_can_be() -> None:
    same = Correspondence(SAME.groups, (("a.out", "o.copy"), *SAME.tensors))
    found = carried(Plan("here", {}, {"a.out": (0.0, 1.0)}, equalised={"a.out": "1 2"}), same)
    assert not found.left
    assert found.plan.ranges == {"o.a.out": (0.0, 1.0), "o.copy": (0.0, 1.0)}
    assert found.plan.equalised == {"o.a.out": "1 2"}


@pytest.mark.parametrize("turns", [2, 4])
def test_turned_twice_is_the_same(turns: int) -> None:
    found = SAME
    for _ in range(turns):
        found = found.turned
    assert found == SAME
