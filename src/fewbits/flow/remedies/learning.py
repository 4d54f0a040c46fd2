"""AdaRound where a plan misses its budget: whether each weight rounds up or down is learnt, for the groups that lose
most; with a high effort only, as one weight takes as long as many that are searched for codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from fewbits.codes import Codes, name_of
from fewbits.data.batches import Array
from fewbits.flow.conversions import Conversions
from fewbits.flow.goals.effort import Level
from fewbits.flow.job import Job
from fewbits.flow.ranking import rank
from fewbits.flow.remedies.few_bits import columns_first, has_codes_of_its_own, is_in_few_bits, rows_first, rows_format
from fewbits.flow.remedies.moments import Moments, key_of, moments_of, weight_rows
from fewbits.flow.remedies.refining import Search, is_as_safe, matters
from fewbits.flow.remedies.tried import Remedy, added
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import learning_ends
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.grouping import Group
from fewbits.plan import Plan
from fewbits.refine.best_codes import BestCodes, Way, judged, learnt_codes
from fewbits.sensitivity.table import SensitivityTable
from fewbits.smoothing import parse

_MOST: Final = 12
_NOTHING: Final = SensitivityTable({})
_Wanted = Sequence[tuple[Group, Scheme]]


def learn_rounding(job: Job, site: Site, start: Plan) -> tuple[Job, SensitivityTable]:
    """`job` with learnt codes for the groups with more than their share of the harm that a scheme does, where these
    lower the error of the layer on inputs apart; and the harms that are known and still hold."""
    if job.effort is not Level.HIGH:
        return job, _NOTHING
    table = rank(job, site, start)
    wanted = _wanted(job, table)
    if not wanted:
        return job, table
    kept = dict(job.shelf.read())

    def found() -> list[Search]:
        searched, codes = _found(job, wanted)
        kept.update(codes)
        job.shelf.write(kept)
        return searched

    searched = job.journal.step("codes", "learnt", list[Search], found)
    if any(one.name and one.name not in kept for one in searched):
        found()
    better = [one for one in searched if one.name]
    names = {group: dict(schemes) for group, schemes in job.codes.items()}
    for one in better:
        names.setdefault(one.group, {})[one.scheme] = one.name
    told = []
    for one in searched:
        what = f"{one.by}, {one.scheme}"
        told.append((one.group, Remedy(what, one.share, measured=True, taken=bool(one.name), scheme=one.scheme)))
    model = job.model.knowing(kept)
    changed = replace(job, model=model, conversions=Conversions(model), codes=names, remedies=added(job.remedies, told))
    gone = {(one.group, one.scheme) for one in better}
    known = {
        group: {scheme: harm for scheme, harm in harms.items() if (group, scheme) not in gone}
        for group, harms in table.harm.items()
    }
    return changed, SensitivityTable(known)


def _wanted(job: Job, table: SensitivityTable) -> _Wanted:
    """Groups and schemes whose codes can be learnt and that do more harm than the mean group in the same scheme, the
    most harmful first."""
    groups = {group.name: group for group in job.groups}
    by_scheme: dict[str, dict[str, float]] = {}
    for name, harms in table.values.items():
        for text, harm in harms.items():
            by_scheme.setdefault(text, {})[name] = harm
    found: list[tuple[float, Group, Scheme]] = []
    for text, harmful in by_scheme.items():
        scheme = Scheme.parse(text)
        for name, harm in harmful.items():
            if harm * len(harmful) > sum(harmful.values()) and has_codes_of_its_own(job.graph, groups[name], scheme):
                found.append((harm, groups[name], scheme))
    return [(group, scheme) for _, group, scheme in sorted(found, key=lambda one: -one[0])[:_MOST]]


def _found(job: Job, wanted: _Wanted) -> tuple[list[Search], Codes]:
    job.progress.stage("learn how weights round", len(wanted))
    searched: list[Search] = []
    codes: dict[str, QTensor[Array]] = {}
    groups = list({group.name: group for group, _ in wanted}.values())
    for moments in moments_of(job, groups):
        for group, scheme in wanted:
            if key_of(group) not in moments:
                continue
            work = weight_rows(job, group).size * moments[key_of(group)].fitted.total.shape[-1] / 1e9
            if learning_ends(job, len(searched), len(wanted), work):
                return searched, codes
            learn = partial(_learnt, job, group, scheme, moments[key_of(group)])
            for one, best in job.pace.timed(Work.ROUNDING, learn, work):
                searched.append(one)
                if one.name:
                    codes[one.name] = best.codes
                job.progress.advance(f"{group.name} {scheme}: {one.share:.2f} of the error of its codes")
    return searched, codes


def _learnt(job: Job, group: Group, scheme: Scheme, moments: Moments) -> Sequence[tuple[Search, BestCodes]]:
    """What is learnt, in the shape in which it is stored; nothing where it could not matter."""
    weight, format = weight_rows(job, group), scheme.weight
    assert isinstance(format, ScaledFormat)
    if scheme.smoothed:
        factors = parse(job.scaling[group.operands[0]])
        weight, moments = (weight * factors).astype(np.float32), moments.divided(factors)
    if not is_in_few_bits(scheme) and not matters(weight, scheme, moments):
        return ()
    name = job.codes.get(group.name, {}).get(str(scheme))
    given = None if name is None else rows_first(job.shelf.read()[name], rows_format(format))
    known = judged(weight, moments.apart, rows_format(format), given)
    found = learnt_codes(weight, moments.fitted, moments.apart, known)
    if scheme.activation is not None and not is_as_safe(weight, found.codes):
        found = known
    share = found.error / known.error if known.error > 0 else 1.0
    stored = replace(found, codes=columns_first(found.codes, format))
    taken = name_of(stored.codes) if found is not known else ""
    return ((Search(group.name, str(scheme), taken, str(Way.ADAROUND), share), stored),)
