from __future__ import annotations

from fewbits.costs.key import RegionCost
from fewbits.costs.measured import Wanted
from fewbits.costs.table import CostTable
from fewbits.flow.probing import probe_in_time
from fewbits.flow.time.deadline import Deadline
from fewbits.flow.time.pace import Pace
from fewbits.formats.scheme import FP32, INT8_DYNAMIC, INT8_STATIC, Scheme
from fewbits.store import Journal
from fewbits.store.journal import MemoryLines

BF16 = Scheme.parse("bf16")
STORED = Scheme.parse("w:int4r/g32@0")
WANTED: Wanted = {"a": [FP32, INT8_STATIC, STORED, INT8_DYNAMIC, BF16], "b": [FP32, INT8_STATIC, BF16]}
SECONDS_EACH = 10.0


class Prober:
    """Every scheme that is new takes ten seconds, on all groups."""

    def __init__(self) -> None:
        self.now = 0.0
        self.known: set[Scheme] = set()

    def __call__(self) -> float:
        return self.now

    def measure(self, wanted: Wanted) -> CostTable:
        offered = {scheme for schemes in wanted.values() for scheme in schemes}
        new, old = offered - self.known, offered & self.known
        self.now += SECONDS_EACH * len(new)
        self.known |= offered
        costs = {
            name: {str(scheme): RegionCost(0.0, 1.0, 0.0, "Kernel", "int8", "", "") for scheme in schemes}
            for name, schemes in wanted.items()
        }
        return CostTable("target", costs, measured=len(new), known=len(old))

    def probe(self, limit: float | None, wanted: Wanted = WANTED) -> tuple[CostTable, Deadline]:
        journal = Journal(MemoryLines())
        deadline = Deadline(journal, Pace(journal, self), 0.0, limit)
        return probe_in_time(deadline, wanted, self.measure), deadline


def refused(table: CostTable) -> dict[str, set[str]]:
    return {name: {text for text, cost in costs.items() if cost.refusal} for name, costs in table.costs.items()}


def test_with_time_enough_all_is_measured() -> None:
    table, deadline = Prober().probe(1000.0)
    assert refused(table) == {"a": set(), "b": set()}
    assert {name: set(costs) for name, costs in table.costs.items()} == {
        name: {str(scheme) for scheme in schemes} for name, schemes in WANTED.items()
    }
    assert (table.measured, table.known) == (5, 0)
    assert deadline.notes == ()


def test_the_likeliest_come_first_and_the_others_are_refused_with_the_reason() -> None:
    """A third of 120 s: fp32 and int8 take 20, bf16 10, and another one would end at the third's end plus 10."""
    table, deadline = Prober().probe(120.0)
    assert refused(table) == {"a": {str(STORED), str(INT8_DYNAMIC)}, "b": set()}
    assert "no time to measure" in table.costs["a"][str(STORED)].refusal
    assert "schemes were measured after 1 of 3" in deadline.notes[0]


def test_where_there_are_no_static_codes_the_likeliest_scheme_is_measured_whatever_the_time() -> None:
    """As on a GPU: a table of fp32 alone leaves nothing to choose."""
    table, _ = Prober().probe(0.001, {"a": [FP32, INT8_DYNAMIC, BF16], "b": [FP32]})
    assert refused(table) == {"a": {str(INT8_DYNAMIC)}, "b": set()}


def test_fp32_and_static_codes_are_measured_whatever_the_time() -> None:
    table, _ = Prober().probe(0.001)
    assert {name: set(costs) - refused(table)[name] for name, costs in table.costs.items()} == {
        name: {str(FP32), str(INT8_STATIC)} for name in WANTED
    }
