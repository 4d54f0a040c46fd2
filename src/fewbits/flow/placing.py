"""Which plan to begin with: promising plans on every runtime, timed end to end.

Per runtime, the plan that the measured costs predict to be best, and the structural variants that experience with
runtimes suggests (docs/design.md, "What is known about the runtimes"): no table of single regions knows what fuses
with what. A quick look at all of them leaves a few, which are timed carefully. The quick look also corrects the costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from fewbits.benchmark import Candidate, compare
from fewbits.costs.correction import Correction
from fewbits.flow.allocating import Costing, aim_of
from fewbits.flow.floats import Floats
from fewbits.flow.goals.limited import foreseen
from fewbits.flow.job import Asked, Job, Wish
from fewbits.flow.looks import Look, baseline, look, originals
from fewbits.flow.memory import peaks
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import finalists_in_time
from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Kind
from fewbits.grouping import Group, attentions
from fewbits.measurement import Comparison
from fewbits.plan import Plan
from fewbits.search.milp import solve
from fewbits.search.program import init

PREDICTED: Final = "best predicted"
_POOLS_AND_SUMS = frozenset({Kind.ADD, Kind.CONCAT, Kind.AVERAGE_POOL, Kind.GLOBAL_AVERAGE_POOL})
_SMOOTHED = ", smoothed"
_SCORES = "weighted products and attention scores"
_ALONE = ("weighted products", "all products", _SCORES)
_WHY = "low precision pays in this plan, measured end to end"
_ROUNDS = 8
_FINALISTS = 4

Planner = Callable[[Site, Asked], Plan]


@dataclass(frozen=True, slots=True)
class Placed:
    """The plan that was best ("" where no plan runs): its name, runtime and schemes, the careful comparison with the
    fastest original (`comparison.baseline`), and every quick look by candidate name."""

    name: str
    target: str
    schemes: Mapping[str, str]
    comparison: Comparison
    looks: Mapping[str, Look]

    @property
    def asked(self) -> Asked:
        """What the plan is made from."""
        return {name: Wish(Scheme.parse(scheme), _WHY) for name, scheme in self.schemes.items()}


def place(job: Job, floats: Floats, planner: Planner) -> Placed:
    """Time the original and every start on every site in turns; `planner` makes a plan of what is asked for."""
    return job.journal.step("placement", "best", Placed, lambda: _run(job, floats, planner))


def starts(job: Job, site: Site) -> Mapping[str, Asked]:
    """Variant name → what it asks for; variants that come to the same plan are left out.

    Empty where nothing can leave fp32.
    """
    found: dict[str, Asked] = {}
    seen: list[Mapping[str, str]] = []
    for name, asked in {**_predicted(job, site), **_structural(job, site), **_uniform(job, site)}.items():
        plan = job.plan(site, asked, {}, "")
        schemes = {group: str(plan.scheme(group)) for group in plan.low}
        if schemes and schemes not in seen:
            found[name] = {group: Wish(Scheme.parse(scheme), _WHY) for group, scheme in schemes.items()}
            seen.append(schemes)
    return found


def _predicted(job: Job, site: Site) -> Mapping[str, Asked]:
    costing = Costing(job, site)
    if not costing.names:
        return {}
    aim, program = aim_of(job), init(costing.allocation({}, Correction()))
    limited = solve(program, foreseen(job, costing), aim=aim, seconds=20.0, gap=1e-3)
    # Costs are predictions: where they say that no plan fits, the best whatever the limits is still worth a look.
    choice = (limited if limited.found else solve(program, aim=aim, seconds=20.0, gap=1e-3)).choice
    return {
        PREDICTED: {name: Wish(Scheme.parse(option), _WHY) for name, option in choice.items() if option != str(FP32)}
    }


def _structural(job: Job, site: Site) -> Mapping[str, Asked]:
    scores = {first for first, _ in attentions(job.graph, job.groups)}

    def weighted_or_scores(group: Group) -> bool:
        return _is_weighted(group) or group.name in scores

    variants = {**_VARIANTS, _SCORES: weighted_or_scores}
    flavours = {"": site.space.coded, ", symmetric": site.space.symmetric, _SMOOTHED: site.space.smoothed}
    return {
        f"{name}{flavour}": {
            group.name: Wish(coded[group.name], _WHY) for group in job.groups if group.name in coded and takes(group)
        }
        for name, takes in variants.items()
        for flavour, coded in flavours.items()
        # What a division costs is the same whatever stands around the products.
        if name in _ALONE or flavour != _SMOOTHED
    }


def _uniform(job: Job, site: Site) -> Mapping[str, Asked]:
    """All products, and whatever else has a weight, in one scheme that needs no calibration, for each that runs."""
    offered = dict.fromkeys(
        scheme
        for group in job.groups
        if _counts(group)
        for scheme in site.space.schemes[group.name]
        if not scheme.is_static and not scheme.is_fp32
    )
    sorts = Counter(scheme.sort for scheme in offered)
    return {
        f"{scheme.sort if scheme.sort != 'stored' and sorts[scheme.sort] == 1 else scheme} products": {
            group.name: Wish(one, _WHY)
            for group in job.groups
            if _counts(group) and (one := _closest(site, group, scheme)) is not None
        }
        for scheme in offered
    }


def _closest(site: Site, group: Group, scheme: Scheme) -> Scheme | None:
    """`scheme` if `group` may have it, or the same without factors of its inputs where those do not pay; else none."""
    offered = site.space.schemes[group.name]
    return next((one for one in (scheme, replace(scheme, smoothed=False)) if one in offered), None)


def _counts(group: Group) -> bool:
    return group.is_product or bool(group.weight)


def _run(job: Job, floats: Floats, planner: Planner) -> Placed:
    wanted = [(site, name, asked) for site in job.sites for name, asked in starts(job, site).items()]
    job.progress.stage("convert plans to begin with", len(wanted))
    first = baseline(job, floats)
    candidates: dict[str, Candidate] = {}
    plans: dict[str, Plan] = {}
    sizes: dict[str, int] = {}
    for number, (site, name, asked) in enumerate(wanted):
        title = name if len(job.sites) == 1 else f"{name} on {site.name}"
        plans[title] = planner(site, asked)
        artifact = job.conversions.of(plans[title])
        sizes[title] = artifact.size
        file = job.candidate_file(f"start_{number}", artifact)
        candidates[title] = job.candidate(title, file, site.name)
        job.progress.advance(title)
    looks = look(job, first, [*originals(job, first), *candidates.values()], plans)
    candidates = {title: one for title, one in candidates.items() if title in looks}
    if not candidates:
        nothing = compare([first], job.inputs, rounds=1, looks=1, progress=job.progress)
        return Placed("", first.target, {}, nothing, looks)
    beyond = {title for title in candidates if not job.limits.hold(looks[title].seconds, sizes[title])}
    if job.times:
        cost: Mapping[str, float] = {title: looks[title].seconds for title in candidates}
    else:
        cost = sizes if job.for_size else peaks(job, list(candidates.values()))
    best_first = sorted(candidates, key=lambda title: (title in beyond, cost[title]))
    finalists = [candidates[title] for title in best_first[: finalists_in_time(job, _FINALISTS, _ROUNDS)]]
    everyone = [first, *finalists]
    comparison = job.pace.timed(
        Work.ROUND,
        lambda: compare(everyone, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress),
        _ROUNDS * len(everyone),
    )
    speeds = {one.name: comparison.speedups[one.name].value for one in finalists}
    best = max(speeds, key=lambda title: (title not in beyond, speeds[title])) if job.times else finalists[0].name
    said = ", ".join(f"{name} {speed:.2f}x" for name, speed in speeds.items())
    job.progress.say(f"plans over the original on {floats.fastest}: {said}")
    plan = plans[best]
    schemes = {name: str(plan.scheme(name)) for name in sorted(plan.low)}
    return Placed(best, plan.target, schemes, comparison, looks)


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
