"""Codes for weights in few bits, searched for by the error of each layer's outputs on calibration data.

With eight bits rounding to nearest is as good as anything; with four it is not, and what a search finds costs nothing
when the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from fewbits.codes import Codes, name_of
from fewbits.data.batches import Array
from fewbits.flow.conversions import Conversions
from fewbits.flow.goals.effort import Level
from fewbits.flow.job import Job
from fewbits.flow.remedies.sampled_rows import by_outputs, sampled_rows
from fewbits.flow.remedies.tried import Remedy, added
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import refining_ends
from fewbits.formats.granularity import Group as Block
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import FP32, Scheme
from fewbits.grouping import Group
from fewbits.refine.best_codes import NEAREST, BestCodes, best_codes
from fewbits.refine.gram import Gram
from fewbits.refine.layer import linear_inputs

_FEW_BITS: Final = 4
_SAMPLES: Final = 128
_ROWS: Final = 16384
_APART: Final = 4
"""Every fourth batch is kept apart to judge by."""
_MOMENTS: Final = 1 << 30
"""Bytes of second moments at a time."""


@dataclass(frozen=True, slots=True)
class Search:
    """Codes that were searched for: their name, "" where rounding to nearest is best, the way they were found, and the
    error of the layer with them over that of rounding to nearest."""

    group: str
    scheme: str
    name: str
    by: str
    share: float


def refine(job: Job) -> Job:
    """`job` with codes for the weights whose schemes have few bits and may pay."""
    wanted = {} if job.effort is Level.LOW else _wanted(job)
    if not wanted:
        return job
    kept = dict(job.shelf.read())

    def found() -> list[Search]:
        searched, codes = _found(job, wanted)
        kept.update(codes)
        # Before the step is: what a journal says to be there, is there.
        job.shelf.write(kept)
        return searched

    searched = job.journal.step("codes", "of weights", list[Search], found)
    if any(one.name and one.name not in kept for one in searched):
        found()  # the file is gone, or another plan's; what is found again is the same
    names: dict[str, dict[str, str]] = {}
    for one in searched:
        if one.name:
            names.setdefault(one.group, {})[one.scheme] = one.name
    told = [
        (one.group, Remedy(f"{one.by}, {one.scheme}", one.share, measured=True, taken=True, scheme=one.scheme))
        for one in searched
        if one.name
    ]
    model = job.model.knowing(kept)
    return replace(job, model=model, conversions=Conversions(model), codes=names, remedies=added(job.remedies, told))


def _wanted(job: Job) -> Mapping[str, Sequence[Scheme]]:
    """The schemes of few bits in blocks that may be on the front, by group."""
    found: dict[str, dict[Scheme, None]] = {}
    for site in job.sites:
        for group in job.groups:
            for scheme in site.space.schemes[group.name]:
                if group.is_product and _in_few_bits(scheme) and (job.slower_may_pay or _pays(site, group, scheme)):
                    found.setdefault(group.name, {})[scheme] = None
    return {name: tuple(schemes) for name, schemes in found.items()}


def _in_few_bits(scheme: Scheme) -> bool:
    weight = scheme.weight
    return (
        scheme.is_weight_only
        and isinstance(weight, ScaledFormat)
        and weight.bits <= _FEW_BITS
        and isinstance(weight.granularity, Block)
    )


def _pays(site: Site, group: Group, scheme: Scheme) -> bool:
    costs = site.costs.usable(group.name)
    own, float32 = costs.get(str(scheme)), costs.get(str(FP32))
    return own is not None and float32 is not None and own.total < float32.total


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """Second moments of a tensor's last axis: of the batches that codes are fitted to, and of those kept apart."""

    fitted: Gram
    apart: Gram


def _found(job: Job, wanted: Mapping[str, Sequence[Scheme]]) -> tuple[list[Search], Codes]:
    groups = [group for group in job.groups if group.name in wanted]
    of = sum(map(len, wanted.values()))
    job.progress.stage("find codes for weights", of)
    searched: list[Search] = []
    codes: dict[str, QTensor[Array]] = {}
    for depths in _portions(job, groups):
        moments = _observed(job, depths)
        for group in groups:
            if group.operands[0] not in moments:
                continue
            seen = moments[group.operands[0]]
            for scheme in wanted[group.name]:
                if refining_ends(job, len(searched), of):
                    return searched, codes
                best = job.pace.timed(Work.CODES, partial(_best, job, group, scheme, seen))
                share = best.error / best.plain_error if best.plain_error > 0 else 1.0
                name = "" if best.by == NEAREST else name_of(best.codes)
                if name:
                    codes[name] = best.codes
                searched.append(Search(group.name, str(scheme), name, best.by, share))
                job.progress.advance(f"{group.name} {scheme}: {share:.2f} of the error of rounding, by {best.by}")
    return searched, codes


def _best(job: Job, group: Group, scheme: Scheme, seen: _Moments) -> BestCodes:
    """Codes in the shape of the stored matrix (depth, columns)."""
    weight, format = by_outputs(job, group), scheme.weight
    assert isinstance(format, ScaledFormat) and isinstance(format.granularity, Block)
    # The search has the depth along the last axis, what is stored along the first.
    rows = replace(format, granularity=Block(format.granularity.size, -1))
    found = best_codes(np.ascontiguousarray(weight, np.float32), seen.fitted, seen.apart, rows)
    return replace(found, codes=_stored(found.codes, format))


def _stored(codes: QTensor[Array], format: ScaledFormat) -> QTensor[Array]:
    found, scale, zero = (np.ascontiguousarray(array.T) for array in (codes.codes, codes.scale, codes.zero_point))
    return QTensor(found, scale, zero, codes.tensor_scale, codes.table, format, codes.dtype)


def _observed(job: Job, depths: Mapping[str, int]) -> Mapping[str, _Moments]:
    moments = {tensor: _Moments(Gram.empty(depth), Gram.empty(depth)) for tensor, depth in depths.items()}
    for number, seen in enumerate(sampled_rows(job, tuple(depths), _SAMPLES, _ROWS)):
        for tensor, rows in seen.items():
            before = moments[tensor]
            if number % _APART == _APART - 1:
                moments[tensor] = replace(before, apart=before.apart.update(linear_inputs(rows)))
            else:
                moments[tensor] = replace(before, fitted=before.fitted.update(linear_inputs(rows)))
    return {tensor: one if one.apart.count else replace(one, apart=one.fitted) for tensor, one in moments.items()}


def _portions(job: Job, groups: Sequence[Group]) -> Iterator[Mapping[str, int]]:
    """The tensors that `groups` read and their channels, so many at a time as memory holds moments for."""
    part: dict[str, int] = {}
    for tensor, depth in {group.operands[0]: by_outputs(job, group).shape[1] for group in groups}.items():
        if part and sum(_bytes(one) for one in (*part.values(), depth)) > _MOMENTS:
            yield part
            part = {}
        part[tensor] = depth
    if part:
        yield part


def _bytes(depth: int) -> int:
    """Of both sorts of moments."""
    return 2 * np.dtype(np.float64).itemsize * depth**2
