"""The ladder that the search climbs: plans on one runtime from the fastest to the safest, by measured tables and by
whole plans whose time is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fewbits.costs.correction import Correction
from fewbits.flow.allocating import SECONDS, Costing, aim_of
from fewbits.flow.conversions import plan_key
from fewbits.flow.floats import Floats
from fewbits.flow.goals.limited import fits_file, foreseen
from fewbits.flow.job import Asked, Job, Wish
from fewbits.flow.looks import Look, baseline, correction, look, originals
from fewbits.flow.ranking import rank
from fewbits.flow.site import Site
from fewbits.flow.time.deadline import Stage
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import acceptance_seconds, trace_seconds, trial_seconds
from fewbits.flow.unranked import completed
from fewbits.formats.scheme import FP32, Scheme
from fewbits.plan import Plan
from fewbits.search.front import trace
from fewbits.search.problem import Ladder, Rung
from fewbits.search.program import init
from fewbits.sensitivity.table import SensitivityTable
from fewbits.space import Refusal

_POINTS: Final = 48
_LOOKS: Final = 8
_NOTHING: Final = SensitivityTable({})
_WORST: Final = 1e6
"""Harm of a scheme that breaks the model: large, but a number that a solver can add."""
_REVERTED: Final = "fp32 here is what the accuracy budget buys at the least cost, by the predicted front"
_KEPT: Final = "low precision here is worth its predicted harm"


@dataclass(frozen=True, slots=True)
class Climb:
    """The harms that the front was made from, the rungs of `ladder` with the plan of each, and what the looks at whole
    plans corrected the costs by."""

    table: SensitivityTable
    ladder: Ladder
    plans: Sequence[Plan]
    correction: Correction


def climb(
    job: Job, site: Site, start: Plan, floats: Floats, looks: Sequence[Look], known: SensitivityTable = _NOTHING
) -> Climb:
    """The ladder on `site` from `start` to the original; groups are ranked first, but for harms that are `known`.

    Where time counts, some of the predicted plans are timed end to end, and the front is traced again with costs that
    these looks correct: what fuses with what no table of single groups knows.
    """
    table = rank(job, site, start, known)
    first = _climbed(job, site, start, table, correction(job, site, looks), looks)
    places = _spread(len(first.plans) - 1)
    need = len(places) * job.pace.each(Work.LOOK) + trial_seconds(job) + acceptance_seconds(job)
    if not job.times or len(first.plans) < 3 or job.deadline.stops(Stage.LOOK, 0, len(places), need):
        return first
    key = f"{site.name} {','.join(plan_key(first.plans[place]) for place in places)}"
    job.progress.stage("time plans on the predicted front")
    seen = job.journal.step(
        "looks", key, list[Look], lambda: _look(job, site, floats, [first.plans[place] for place in places])
    )
    complete = [*looks, *seen]
    return _climbed(job, site, start, table, correction(job, site, complete), complete)


def _spread(count: int) -> list[int]:
    """At most `_LOOKS` of the places from 0 to `count` - 1, evenly."""
    steps = min(_LOOKS, count)
    return sorted({round(step * (count - 1) / max(steps - 1, 1)) for step in range(steps)})


def _look(job: Job, site: Site, floats: Floats, plans: Sequence[Plan]) -> list[Look]:
    """The looks at `plans`, and at the original on `site`."""
    first = baseline(job, floats)
    named = {f"front {number}": plan for number, plan in enumerate(plans)}
    candidates = [one for one in originals(job, first) if one.target == site.name]
    for name, plan in named.items():
        file = job.candidate_file(name.replace(" ", "_"), job.conversions.of(plan))
        candidates.append(job.candidate(name, file, site.name))
    return [one for one in look(job, first, candidates, named).values() if one.target == site.name]


def _climbed(
    job: Job, site: Site, start: Plan, table: SensitivityTable, corrected: Correction, looks: Sequence[Look]
) -> Climb:
    predicted = _ladder(job, site, start, table, corrected, [one for one in looks if one.target == site.name])
    ladder, plans = _realised(job, site, start, predicted)
    return Climb(table, ladder, plans, corrected)


def _ladder(
    job: Job,
    site: Site,
    start: Plan,
    table: SensitivityTable,
    correction: Correction,
    looks: Sequence[Look],
) -> Ladder:
    """The predicted front and the plans whose time is known, without those that are worse than another in both;
    `start` is the first rung and the original the last one in any case."""
    ranked = {
        name: {scheme: min(one, _WORST) for scheme, one in schemes.items()} for name, schemes in table.values.items()
    }
    harm = completed(ranked, start)
    costing = Costing(job, _ranked(site, harm))
    allocation = costing.allocation(harm, correction)
    resource = aim_of(job)
    limits = foreseen(job, costing)
    job.progress.stage("trace the front")
    front = trace(init(allocation), resource, points=_POINTS, limits=limits, seconds=trace_seconds(job))
    chosen = {name: str(start.scheme(name)) for name in costing.names}
    values = allocation.values(chosen)
    rungs = [Rung(one.choice, one.harm, one.costs[resource]) for one in front.solutions]
    for seen in looks:
        if any(scheme not in harm.get(name, {}) for name, scheme in seen.schemes.items()):
            continue
        choice = {name: seen.schemes.get(name, str(FP32)) for name in costing.names}
        known = allocation.values(choice)
        if any(known[name] > limit for name, limit in limits.items()):
            continue
        rungs.append(Rung(choice, known["harm"], seen.seconds if resource == SECONDS else known[resource]))
    safer = sorted((rung for rung in rungs if rung.harm < values["harm"]), key=lambda rung: (rung.harm, rung.cost))
    original = dict.fromkeys(costing.names, str(FP32))
    timed = [seen.seconds for seen in looks if not seen.schemes and resource == SECONDS]
    kept = [Rung(original, 0.0, timed[-1] if timed else allocation.values(original)[resource])]
    for rung in safer:
        if rung.cost < kept[-1].cost:
            kept.append(rung)
    return [Rung(chosen, values["harm"], values[resource]), *reversed(kept)]


def _ranked(site: Site, harm: Mapping[str, Mapping[str, float]]) -> Site:
    """`site` with those schemes alone whose harm is known: the others would pass for harmless."""
    unknown = {
        name: [
            Refusal(scheme, "it could only lose, so it was not ranked")
            for scheme in schemes
            if not scheme.is_fp32 and str(scheme) not in harm.get(name, {})
        ]
        for name, schemes in site.space.schemes.items()
    }
    return replace(site, space=site.space.without(unknown))


def _realised(job: Job, site: Site, start: Plan, predicted: Ladder) -> tuple[Ladder, list[Plan]]:
    """The rungs of `predicted` that come to different plans with files that are not too large, and these plans.

    A rung whose groups have no neighbour left to stay low with comes to the original, which is the last rung already.
    """
    ladder, plans = [predicted[0]], [start]
    for rung in predicted[1:-1]:
        plan = _plan(job, site, start, rung)
        if plan.low and all(plan_key(plan) != plan_key(other) for other in plans) and fits_file(job, plan):
            ladder.append(rung)
            plans.append(plan)
    return [*ladder, predicted[-1]], [*plans, _plan(job, site, start, predicted[-1])]


def _plan(job: Job, site: Site, start: Plan, rung: Rung) -> Plan:
    wishes: Asked = {
        name: Wish(Scheme.parse(option), _REVERTED if option == str(FP32) else _KEPT)
        for name, option in rung.choice.items()
        if option != str(FP32) or name in start.low
    }
    return job.plan(site, wishes, start.ranges, start.calibration)
