"""Which groups leave fp32 to begin with: variants of the placement, timed end to end, the fastest wins.

Whether a joint or a product of two activations pays in low precision depends on the runtime and the
neighbours; per-node rules of thumb are wrong on half of the models (design.md, "What is known about
the runtimes"), so whole models are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fewbits.benchmark import Candidate, compare
from fewbits.flow.job import Job
from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.measurement import Comparison
from fewbits.plan import Plan

ORIGINAL = "original"
_ROUNDS = 8
_POOLS_AND_SUMS = frozenset({Kind.ADD, Kind.CONCAT, Kind.AVERAGE_POOL, Kind.GLOBAL_AVERAGE_POOL})
_WHY = "low precision pays in this placement, measured end to end"


@dataclass(frozen=True, slots=True)
class Placed:
    """The variant that was fastest: its name, its groups, and the comparison that says so."""

    name: str
    low: tuple[str, ...]
    comparison: Comparison

    @property
    def why(self) -> Mapping[str, str]:
        """Group → reason for being low."""
        return dict.fromkeys(self.low, _WHY)


def place_variants(job: Job, plan: Callable[[Mapping[str, str]], Plan]) -> Placed:
    """Time the original and every variant in turns; `plan` makes a plan from group → reason."""
    return job.journal.step("placement", "fastest", Placed, lambda: _run(job, plan))


def variants(job: Job) -> Mapping[str, tuple[str, ...]]:
    """Variant name → groups, the smallest set first; variants that come to the same are left out.

    Empty where no group can stay low, because none has a neighbour that computes on integers.
    """
    found: dict[str, tuple[str, ...]] = {}
    seen: list[frozenset[str]] = []
    for name, takes in _VARIANTS.items():
        low = tuple(group.name for group in job.groups if group.name in job.space.low and takes(group))
        stays = job.plan(dict.fromkeys(low, _WHY), {}, "").low
        if stays and stays not in seen:
            found[name] = low
            seen.append(stays)
    return found


def reachable(job: Job) -> frozenset[str]:
    """The groups that are low in some variant: only they need ranges."""
    plans = (job.plan(dict.fromkeys(low, _WHY), {}, "") for low in variants(job).values())
    return frozenset[str]().union(*(plan.low for plan in plans))


def _run(job: Job, plan: Callable[[Mapping[str, str]], Plan]) -> Placed:
    job.progress.stage("convert placements")
    plans = {name: plan(dict.fromkeys(low, _WHY)) for name, low in variants(job).items()}
    target, threads = job.target.name, job.target.threads
    candidates = [Candidate(ORIGINAL, job.candidate_file(ORIGINAL, job.model.original().content), target, threads)]
    for number, (name, made) in enumerate(plans.items()):
        file = job.candidate_file(f"placement_{number}", job.conversions.of(made).content)
        candidates.append(Candidate(name, file, target, threads))
    comparison = compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress)
    best = max(comparison.speedups, key=lambda name: comparison.speedups[name].value)
    speedups = ", ".join(f"{name} {interval.value:.2f}x" for name, interval in comparison.speedups.items())
    job.progress.say(f"placements over the original: {speedups}")
    return Placed(best, tuple(sorted(plans[best].low)), comparison)


def _is_weighted(group: Group) -> bool:
    return group.is_product and bool(group.weight)


_VARIANTS: Mapping[str, Callable[[Group], bool]] = {
    "weighted products": _is_weighted,
    "weighted products, sums and pools": lambda group: _is_weighted(group) or group.kind in _POOLS_AND_SUMS,
    "weighted products and all joints": lambda group: _is_weighted(group) or not group.is_product,
    "all products": lambda group: group.is_product,
    "all products, sums and pools": lambda group: group.is_product or group.kind in _POOLS_AND_SUMS,
    "everything": lambda group: True,
}
