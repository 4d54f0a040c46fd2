"""How much each group's schemes harm the outputs when it alone leaves fp32, measured on the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from fewbits.costs.key import RegionCost
from fewbits.evaluation import Predict
from fewbits.flow.allocating import Costing
from fewbits.flow.calibrate import outputs, search_sample, under
from fewbits.flow.job import EVALUATION_BATCH, Job
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import ranking_ends
from fewbits.formats.scheme import FP32, INT8_TENSOR, UINT8_TENSOR, Scheme
from fewbits.graph import Kind
from fewbits.plan import Choice, Plan
from fewbits.sensitivity.measure import Seen
from fewbits.sensitivity.table import Harm, SensitivityTable

_NOTHING: Final = SensitivityTable({})
_AS_FAST: Final = 1.1
"""Costs that differ by no more than this are not told apart."""

_SAMPLES: Final = 16
_SCORED: Final = 256
"""A score of 0 or 1 says little of one sample."""


def rank(job: Job, site: Site, start: Plan, known: SensitivityTable = _NOTHING) -> SensitivityTable:
    """The harm of every scheme that may pay on `site`, with ranges as in `start`; `known` is not measured again.

    Casts are measured with all groups at once and shared out in proportion to what the groups' codes harm: their
    errors are so small that one group's alone would be lost in the runtime's own rounding.
    """
    used = {name: start.scheme(name) for name in sorted(site.space.free)}
    # What is used first: if the time is too short for all, that is what the search needs to know.
    worth = {name: _first(scheme, _worth_it(job, site, name, scheme)) for name, scheme in used.items()}
    for first, second in Costing(job, site).together:
        either = dict.fromkeys((*worth[first], *worth[second]))
        for name in (first, second):
            worth[name] = tuple(one for one in either if one in site.space.schemes[name])
    wanted = {
        name: tuple(scheme for scheme in schemes if str(scheme) not in known.harm.get(name, {}))
        for name, schemes in worth.items()
    }
    found = harms(
        job, wanted, partial(_plan, job, replace(start, target=site.name, smoothing=job.smoothing, means=job.means))
    )
    return SensitivityTable({name: {**known.harm.get(name, {}), **schemes} for name, schemes in found.harm.items()})


def harms(
    job: Job, wanted: Mapping[str, Sequence[Scheme]], plan_for: Callable[[Mapping[str, Scheme]], Plan]
) -> SensitivityTable:
    """The harm of the schemes that `wanted` names for each group, as `rank` has it; `plan_for` makes the plan in which
    the groups that it is given leave fp32."""
    reference = see(job, job.original)
    alone = [(name, scheme) for name, schemes in wanted.items() for scheme in schemes if not scheme.is_cast]
    # The first scheme of every group before any second one.
    alone.sort(key=lambda one: wanted[one[0]].index(one[1]))
    job.progress.stage("rank groups", len(alone))
    found: dict[str, dict[str, Harm]] = {name: {} for name in wanted}
    for number, (name, scheme) in enumerate(alone):
        if ranking_ends(job, number, len(alone)):
            break
        plan = plan_for({name: scheme})
        key = f"{name} {scheme} {plan.codes.get(name, '')}".rstrip()
        found[name][str(scheme)] = _harm(job, key, plan, reference)
        job.progress.advance(f"{key}: {found[name][str(scheme)].value:.3g}")
    for scheme in dict.fromkeys(scheme for schemes in wanted.values() for scheme in schemes if scheme.is_cast):
        names = [name for name, schemes in wanted.items() if scheme in schemes]
        plan = plan_for(dict.fromkeys(names, scheme))
        whole = _harm(job, f"all {scheme}", plan, reference)
        for name, share in _shares(job, names, found).items():
            found[name][str(scheme)] = Harm(whole.value * share)
    return SensitivityTable(found)


def see(job: Job, predict: Predict) -> Seen:
    """What the job's measure reads of the model behind `predict`."""
    seen = list(outputs(job, predict, search_sample(job, _SAMPLES)))
    if not job.measure.scored:
        return Seen(seen)
    return Seen(seen, job.evaluator(predict, search_sample(job, _SCORED), EVALUATION_BATCH).per_sample)


def _harm(job: Job, key: str, plan: Plan, reference: Seen) -> Harm:
    """The harm of `plan`, once in a run."""

    def measured() -> Harm:
        return job.measure.harm(reference, under(job, plan, partial(see, job)))

    timed = partial(job.pace.timed, Work.FORM, measured)
    return job.journal.step("sensitivity", f"{job.measure.name} {key}", Harm, timed)


def _worth_it(job: Job, site: Site, name: str, used: Scheme) -> tuple[Scheme, ...]:
    """The schemes of the group `name` that could be on the front, and the one that is `used`.

    Where time counts, one is left out if a more faithful one with all its conversions takes no longer than its
    arithmetic alone: it could only lose. Where nothing was measured, or time does not count, all are kept.
    """
    costs = site.costs.usable(name)
    offered = [scheme for scheme in site.space.schemes[name] if not scheme.is_fp32]
    if job.slower_may_pay or str(FP32) not in costs:
        return tuple(offered)
    kept: list[Scheme] = []
    fastest = costs[str(FP32)].total
    for scheme in sorted(offered, key=_unfaithfulness):
        cost = costs.get(str(scheme))
        if scheme != used and _is_outdone(scheme, costs):
            continue
        # A joint on codes is fused with what is around it: its time between floats says little.
        if cost is None or cost.compute < fastest or scheme.is_static or scheme == used:
            kept.append(scheme)
        fastest = min(fastest, fastest if cost is None else cost.total)
    return tuple(kept)


def _is_outdone(scheme: Scheme, costs: Mapping[str, RegionCost]) -> bool:
    """Whether `scheme` has symmetric codes for its activation though those with a zero point, which fit its range more
    closely, cost no more."""
    if not scheme.is_static or scheme.activation != INT8_TENSOR:
        return False
    closer = costs.get(str(replace(scheme, activation=UINT8_TENSOR)))
    own = costs.get(str(scheme))
    return closer is not None and own is not None and closer.total <= _AS_FAST * own.total


def _unfaithfulness(scheme: Scheme) -> tuple[int, int]:
    """An order of schemes by how much they change: casts, then weights alone, then ranges found anew, then static."""
    sort = (scheme.is_cast, scheme.is_weight_only, scheme.dynamic, scheme.is_static).index(True)
    return sort, -(0 if scheme.weight is None else scheme.weight.bits)


def _first(used: Scheme, schemes: Sequence[Scheme]) -> tuple[Scheme, ...]:
    return (*(one for one in schemes if one == used), *(one for one in schemes if one != used))


def _plan(job: Job, start: Plan, schemes: Mapping[str, Scheme]) -> Plan:
    choices = {name: Choice(str(scheme), "to be ranked") for name, scheme in schemes.items()}
    return replace(start, choices=choices, codes=job.codes_of(choices), scaling=job.scaling_of(choices))


def _shares(job: Job, names: list[str], found: Mapping[str, Mapping[str, Harm]]) -> Mapping[str, float]:
    """How much of the harm of a cast of all `names` each of them has: as its codes' harm, or as its arithmetic."""
    weights = {name: max((one.value for one in found[name].values()), default=0.0) for name in names}
    known = [weight for weight in weights.values() if weight > 0]
    typical = sum(known) / len(known) if known else 1.0
    kinds = {group.name: group.kind for group in job.groups}
    filled = {name: weight or (typical if kinds[name] is not Kind.CONCAT else 0.0) for name, weight in weights.items()}
    whole = sum(filled.values()) or 1.0
    return {name: weight / whole for name, weight in filled.items()}
