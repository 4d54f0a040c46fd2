"""Codes for weights, searched for by the error of each layer's outputs on calibration data.

With eight bits rounding to nearest is mostly as good as anything; with four it is not, and what a search finds costs
nothing when the model runs. Which ways are tried, the effort says: clipped ranges; GPTQ, too; or all. Factors of inputs
(AWQ) may cost a multiplication, so they are schemes of their own, left only where they pay by the error of the layer.
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
from fewbits.flow.remedies.few_bits import columns_first, is_in_few_bits, rows_format, wanted_schemes
from fewbits.flow.remedies.moments import Moments, key_of, moments_of, weight_rows
from fewbits.flow.remedies.tried import Remedy, added
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import refining_ends
from fewbits.formats.granularity import Group as Block
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import fake_quantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.grouping import Group
from fewbits.refine.awq import search_factors
from fewbits.refine.best_codes import ALL, BestCodes, Way, best_codes, judged
from fewbits.refine.gram import output_errors
from fewbits.saturation import may_saturate
from fewbits.smoothing import parse, text
from fewbits.space import Refusal

_CLIPPED: Final = frozenset({Way.CLIPPED})
_SOLVED: Final = _CLIPPED | {Way.GPTQ, Way.GPTQ_CLIPPED}
_FEW: Final[Mapping[Level, frozenset[Way]]] = {Level.LOW: _CLIPPED, Level.MEDIUM: _SOLVED, Level.HIGH: ALL}
"""What is tried for weights of few bits."""
_MANY: Final[Mapping[Level, frozenset[Way]]] = {Level.LOW: frozenset(), Level.MEDIUM: _CLIPPED, Level.HIGH: _SOLVED}
"""What is tried for weights of eight bits, or seven."""
_GAIN: Final = 0.9
"""Factors of inputs that do not lower the squared error of a layer to this share of that of its best codes without are
not worth a multiplication."""
_NO_GAIN: Final = "factors of its inputs would not lower the error of its codes"
_NOT_LOOKED_FOR: Final = "no factors of its inputs were looked for"


@dataclass(frozen=True, slots=True)
class Search:
    """Codes that were searched for: their name, "" where rounding to nearest is best, the way they were found, and the
    error of the layer with them over that of rounding to nearest, without factors; `factors` of its inputs if it has
    any."""

    group: str
    scheme: str
    name: str
    by: str
    share: float
    factors: str = ""


def refine(job: Job) -> Job:
    """`job` with codes for the weights whose schemes may pay, and without schemes with factors where these do not."""
    wanted = wanted_schemes(job, channels=job.effort is not Level.LOW, blocks=job.effort is Level.HIGH)
    if not wanted:
        return _narrowed(job, [])
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
        (one.group, Remedy(f"{_words(one)}, {one.scheme}", one.share, measured=True, taken=True, scheme=one.scheme))
        for one in searched
        if one.name
    ]
    tensors = {group.name: group.operands[0] for group in job.groups if group.operands}
    scaling = {tensors[one.group]: one.factors for one in searched if one.factors}
    model = job.model.knowing(kept)
    changed = replace(
        job,
        model=model,
        conversions=Conversions(model),
        codes=names,
        scaling=scaling,
        remedies=added(job.remedies, told),
    )
    return _narrowed(changed, searched)


def _words(one: Search) -> str:
    return f"AWQ, then {one.by}" if one.factors else one.by


def _narrowed(job: Job, searched: Sequence[Search]) -> Job:
    """`job` without the schemes with factors for the weight alone, but for those where they lower the error enough."""
    shares = {(one.group, one.scheme): one.share for one in searched}
    refused: dict[str, list[Refusal]] = {}
    for group, scheme in _with_factors(job.sites):
        share, plain = shares.get((group, str(scheme))), shares.get((group, str(replace(scheme, smoothed=False))))
        if share is None or plain is None:
            refused.setdefault(group, []).append(Refusal(scheme, _NOT_LOOKED_FOR))
        elif share >= _GAIN * plain:
            refused.setdefault(group, []).append(Refusal(scheme, _NO_GAIN))
    if not refused:
        return job
    return replace(job, sites=tuple(replace(site, space=site.space.without(refused)) for site in job.sites))


def _with_factors(sites: Sequence[Site]) -> Sequence[tuple[str, Scheme]]:
    return list(
        dict.fromkeys(
            (group, scheme)
            for site in sites
            for group, schemes in site.space.schemes.items()
            for scheme in schemes
            if scheme.is_weight_only and scheme.smoothed
        )
    )


def _found(job: Job, wanted: Mapping[str, Sequence[Scheme]]) -> tuple[list[Search], Codes]:
    groups = [group for group in job.groups if group.name in wanted]
    of = sum(map(len, wanted.values()))
    job.progress.stage("find codes for weights", of)
    searched: list[Search] = []
    codes: dict[str, QTensor[Array]] = {}
    for moments in moments_of(job, groups):
        here = [group for group in groups if key_of(group) in moments]
        factors = _factors(job, here, wanted, moments)
        for group in here:
            for one, best in _searched(job, group, wanted[group.name], moments[key_of(group)], factors):
                searched.append(one)
                if one.name:
                    codes[one.name] = best.codes
                job.progress.advance(
                    f"{group.name} {one.scheme}: {one.share:.2f} of the error of rounding, by {_words(one)}"
                )
                if refining_ends(job, len(searched), of):
                    return searched, codes
    return searched, codes


def _searched(
    job: Job, group: Group, schemes: Sequence[Scheme], moments: Moments, factors: Mapping[str, str]
) -> Iterator[tuple[Search, BestCodes]]:
    """What is found for each of `schemes`, those without factors first."""
    plain: dict[str, float] = {}
    for scheme in sorted(schemes, key=lambda one: one.smoothed):
        if scheme.smoothed and group.operands[0] not in factors:
            continue
        found = factors[group.operands[0]] if scheme.smoothed else ""
        best = job.pace.timed(Work.CODES, partial(_best, job, group, scheme, moments, found))
        without = str(replace(scheme, smoothed=False))
        error = plain.setdefault(without, best.plain_error)
        share = best.error / error if error > 0 else 1.0
        # With factors even codes that round to nearest are kept: they are not those of the weight itself.
        name = "" if best.by is Way.NEAREST and not found else name_of(best.codes)
        yield Search(group.name, str(scheme), name, str(best.by), share, found), best


def _best(job: Job, group: Group, scheme: Scheme, moments: Moments, factors: str) -> BestCodes:
    """Codes in the shape in which they are stored."""
    weight, format = weight_rows(job, group), scheme.weight
    assert isinstance(format, ScaledFormat)
    ways = (_FEW if is_in_few_bits(scheme) else _MANY)[job.effort]
    if factors:
        by = parse(factors)
        weight, moments = (weight * by).astype(np.float32), moments.divided(by)
    if not is_in_few_bits(scheme) and not matters(weight, scheme, moments):
        ways = frozenset()
    found = best_codes(weight, moments.fitted, moments.apart, rows_format(format), ways)
    if scheme.activation is not None and not is_as_safe(weight, found.codes):
        found = judged(weight, moments.apart, rows_format(format), None)
    return replace(found, codes=columns_first(found.codes, format))


def is_as_safe(weight: Array, codes: QTensor[Array]) -> bool:
    """Whether sums of two products with `codes` fit into 16 bits wherever those with the nearest codes of `weight` do:
    whether a CPU may serve was decided by those (`fewbits.flow.serving`)."""
    assert isinstance(codes.format, ScaledFormat)
    found, nearest = (_by_inputs(one.codes) for one in (codes, quantize(weight, codes.format)))
    return not (may_saturate(found).any() and not may_saturate(nearest).any())


def _by_inputs(codes: Array) -> Array:
    """Codes (outputs, inputs, *kernel) with neighbouring inputs beside each other: the order in which kernels sum."""
    return np.moveaxis(codes, 1, -1).reshape(-1, codes.shape[1])


def matters(weight: Array, scheme: Scheme, moments: Moments) -> bool:
    """Whether rounding the weight costs more than rounding what it meets, which no codes of the weight make up for."""
    if scheme.activation is None:
        return True
    assert isinstance(scheme.weight, ScaledFormat)
    own = output_errors(fake_quantize(weight, rows_format(scheme.weight)).astype(np.float64) - weight, moments.apart)
    step = float(of_range(moments.low, moments.high, integer(scheme.activation)).scale)
    # Errors of rounding are spread evenly over a step.
    return float(own.sum()) > step**2 / 12 * float(np.square(weight, dtype=np.float64).sum())


def _factors(
    job: Job, groups: Sequence[Group], wanted: Mapping[str, Sequence[Scheme]], moments: Mapping[str, Moments]
) -> Mapping[str, str]:
    """Tensor → factors of its channels for readers whose weight alone is in codes, where AWQ finds any; by the format
    in which most inputs share a scale, since it needs them most."""
    readers: dict[str, list[Group]] = {}
    for group in groups:
        if any(scheme.smoothed for scheme in wanted[group.name]):
            readers.setdefault(group.operands[0], []).append(group)
    found = {}
    for tensor, reading in readers.items():
        formats = [scheme.weight for one in reading for scheme in wanted[one.name] if scheme.smoothed]
        longest = max((one for one in formats if isinstance(one, ScaledFormat)), key=_block)
        weight = np.concatenate([weight_rows(job, one) for one in reading])
        seen = moments[tensor]
        best = search_factors(weight, seen.fitted, seen.magnitude.mean, rows_format(longest))
        if best.error < best.plain_error:
            found[tensor] = text(best.factors)
    return found


def _block(format: ScaledFormat) -> int:
    return format.granularity.size if isinstance(format.granularity, Block) else 0
