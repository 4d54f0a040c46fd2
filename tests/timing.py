"""The benchmark without a clock, so that what a run decides does not depend on how busy the machine is.

As a program, ``python timing.py SPEED WORDS...`` is the command line WORDS with every latency made up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial

from fewbits.benchmark import Candidate, compare
from fewbits.costs.cache import CostCache
from fewbits.costs.key import RegionCost
from fewbits.costs.measured import Measuring, Wanted
from fewbits.costs.table import CostTable
from fewbits.data.batches import Array
from fewbits.formats.scheme import Scheme
from fewbits.grouping import Group
from fewbits.measurement import Comparison, Interval, Latency, Measure, MemoryComparison

STAGES = (
    "accepting",
    "placing",
    "screening",
    "searching",
    "benching",
    "floats",
    "looks",
    "goals.limited",
    "most_accurate",
)
_SECOND = 1e-4
_POINTS = 12


def _less_float(candidate: Candidate) -> float:
    """A hundredth for every quantiser, for plans on the front: the more is low, the faster."""
    return candidate.model.read_bytes().count(b"QuantizeLinear") / 100 if candidate.name.startswith("front ") else 0.0


@dataclass
class Timing:
    """Stands in for `fewbits.benchmark.compare`: each candidate but the first is `speed` times as fast as the first,
    those whose name matches one of `speeds` (shell wildcards, the first match counts) as fast as said there, each
    within five percent, times what `targets` says of its runtime. `seconds`, if given, says how long a call of each
    candidate takes instead. `asked` remembers the names of the candidates of each comparison.

    Stands in for `fewbits.costs.measured.cost_table`, too: `costs` has the arithmetic's seconds by the sort of scheme,
    relative to fp32, which takes as long as the group has operands and weights; sorts that it does not name are
    refused. `priced` remembers the targets whose tables were asked for.

    Stands in for `fewbits.memory.compare_memory`, too: `memories` has bytes that a process takes besides on targets
    whose name matches. `remembered` has the names of the candidates of each comparison.
    """

    speed: float = 2.0
    # What screening leaves gains nothing over what was placed.
    speeds: Mapping[str, float] = field(default_factory=lambda: {"screened": 1.0})
    targets: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=lambda: {"codes": 0.5, "dynamic": 1.5, "stored": 2.0})
    seconds: Callable[[Candidate], float] | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)
    priced: list[str] = field(default_factory=list)
    memories: Mapping[str, int] = field(default_factory=dict)
    remembered: list[tuple[str, ...]] = field(default_factory=list)

    def compare(self, candidates: Sequence[Candidate], inputs: Mapping[str, Array], **options: object) -> Comparison:
        """See `fewbits.benchmark.compare`."""
        assert all(candidate.model.is_file() for candidate in candidates)
        assert inputs
        names = tuple(candidate.name for candidate in candidates)
        self.asked.append(names)
        speeds = {
            one.name: (self.speed_of(one.name) + _less_float(one)) * self.targets.get(one.target, 1.0)
            for one in candidates[1:]
        }
        seconds = {names[0]: 0.002, **{name: 0.002 / speed for name, speed in speeds.items()}}
        if self.seconds is not None:
            seconds = {candidate.name: self.seconds(candidate) for candidate in candidates}
            speeds = {name: seconds[names[0]] / seconds[name] for name in names[1:]}
        return Comparison(
            baseline=names[0],
            latencies={name: Latency(name, second, ((second,) * 3,) * 8) for name, second in seconds.items()},
            speedups={name: Interval(speed, speed * 0.95, speed * 1.05) for name, speed in speeds.items()},
            how="made up",
            measure=Measure.THROUGHPUT if candidates[0].streams else Measure.LATENCY,
        )

    def compare_memory(
        self, candidates: Sequence[Candidate], inputs: Mapping[str, Array], rounds: int = 6, **options: object
    ) -> MemoryComparison:
        """See `fewbits.memory.compare_memory`: a fixed cost and the file's size, within a hundredth."""
        assert inputs
        self.remembered.append(tuple(candidate.name for candidate in candidates))
        sizes = {one.name: self.memory_of(one) for one in candidates}
        first = candidates[0].name
        saved = {name: sizes[first] - size for name, size in sizes.items() if name != first}
        return MemoryComparison(
            baseline=first,
            peaks={name: (size,) * rounds for name, size in sizes.items()},
            savings={name: Interval(one, one - 0.01 * abs(one), one + 0.01 * abs(one)) for name, one in saved.items()},
            how="made up",
        )

    def memory_of(self, candidate: Candidate) -> int:
        """What a process of `candidate` takes."""
        extra = next((one for pattern, one in self.memories.items() if fnmatchcase(candidate.target, pattern)), 0)
        return 100 * 2**20 + candidate.model.stat().st_size + extra

    def speed_of(self, name: str) -> float:
        """How fast the candidate `name` is beside the first."""
        return next((speed for pattern, speed in self.speeds.items() if fnmatchcase(name, pattern)), self.speed)

    def cost_table(self, measuring: Measuring, wanted: Wanted, cache: CostCache) -> CostTable:
        """See `fewbits.costs.measured.cost_table`; nothing is run and nothing is kept in `cache`."""
        self.priced.append(measuring.target.name)
        found = {
            group.name: {str(scheme): self.cost_of(group, scheme) for scheme in wanted[group.name]}
            for group in measuring.groups
            if group.name in wanted
        }
        return CostTable(measuring.target.name, found, measured=sum(map(len, found.values())))

    def cost_of(self, group: Group, scheme: Scheme) -> RegionCost:
        """What `group` costs in `scheme`."""
        plain = _SECOND * (len(group.operands) + 2 * bool(group.weight))
        if scheme.is_fp32:
            return RegionCost(0.0, plain, 0.0, "Float", "fp32", "", "2026-01-01")
        if scheme.sort not in self.costs:
            return RegionCost(0.0, 0.0, 0.0, "", "", f"{scheme} is not made up", "2026-01-01")
        edge = _SECOND / 20 if scheme.is_static or scheme.is_cast else 0.0
        return RegionCost(edge, plain * self.costs[scheme.sort], edge, "Low", scheme.sort, "", "2026-01-01")

    def install(self, put: Callable[[str, object], None], *, costs: bool = True) -> Timing:
        """Let every stage measure with this; `put` sets an attribute by its dotted name. The cost table is the real one
        unless `costs` are made up, too."""
        for stage in STAGES:
            put(f"fewbits.flow.{stage}.compare", self.compare)
        for stage in ("accepting", "benching", "memory"):
            put(f"fewbits.flow.{stage}.compare_memory", self.compare_memory)
        if costs:
            put("fewbits.flow.pricing.cost_table", self.cost_table)
        # A coarse front is as good here, and traced in a fourth of the time.
        put("fewbits.flow.climbing._POINTS", _POINTS)
        return self


def hurry(put: Callable[[str, object], None]) -> None:
    """Let every stage measure for real, in blocks so short that nothing can be said about speed."""
    for stage in STAGES:
        put(f"fewbits.flow.{stage}.compare", partial(compare, block_seconds=0.01, looks=1))


def _put_for_good(name: str, value: object) -> None:
    import importlib

    module, _, attribute = name.rpartition(".")
    setattr(importlib.import_module(module), attribute, value)


def run(speed: float, words: Sequence[str], *, costs: bool = True) -> None:
    """The command line `words` with made-up latencies; ends the process."""
    from fewbits.cli import main

    Timing(speed).install(_put_for_good, costs=costs)
    main(words)


if __name__ == "__main__":
    run(float(sys.argv[1]), sys.argv[2:])
