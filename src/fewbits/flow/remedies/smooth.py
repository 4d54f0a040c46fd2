"""Factors of smoothing for the tensors that products by a matrix read, from what they carry on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from fewbits.data.batches import Arrays
from fewbits.flow.job import Job
from fewbits.flow.observing import observed_with_positions
from fewbits.flow.remedies.sampled_rows import batch_of, by_outputs, finite_rows
from fewbits.flow.remedies.strata import Strata
from fewbits.flow.remedies.tried import SMOOTHED, Remedy, added
from fewbits.flow.site import Site
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT8_CHANNEL, UINT8_TENSOR
from fewbits.grouping import Group
from fewbits.plan import smoothed
from fewbits.refine.smoothing import search_smoothing
from fewbits.smoothing import parse, text
from fewbits.space import Refusal

_SAMPLES: Final = 64
_ROWS: Final = 512
_PEAKS: Final = 32
"""Of the rows, so many are those with the largest values, on which the range depends."""
_STRENGTHS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_GAIN: Final = 0.5
"""Factors that do not lower the squared error of the layers to this share are not worth trying out on the model."""
_Found = dict[str, tuple[str, float]]
_NO_GAIN: Final = "smoothing would not lower the error of its codes"


def smooth(job: Job) -> Job:
    """`job` with factors for the tensors whose channels differ so much that smoothing lowers the error of the layers
    that read them, and without smoothed schemes for all other groups."""
    # What is equalised already needs no factors of its own.
    wanted = [
        group
        for group in job.groups
        if any(_offers(site, group) for site in job.sites) and group.operands[0] not in job.equalised
    ]
    if not wanted and not job.equalised:
        return job
    tried = job.journal.step("smoothing", "factors", _Found, lambda: _factors(job, wanted)) if wanted else {}
    found = {tensor: factors for tensor, (factors, _) in tried.items() if factors}
    told = [
        (group.name, Remedy("SmoothQuant", share, measured=True, taken=bool(factors), scheme=SMOOTHED))
        for group in wanted
        if group.operands[0] in tried
        for factors, share in [tried[group.operands[0]]]
    ]
    sites = tuple(_narrowed(job, site, found) for site in job.sites)
    return replace(job, smoothing=found, sites=sites, remedies=added(job.remedies, told))


def with_smoothed(observations: Iterable[Arrays], smoothing: Mapping[str, str]) -> Iterator[Arrays]:
    """Each of `observations` with what smoothing leaves of the tensors that `smoothing` has factors for."""
    inverse = {name: 1 / parse(factors) for name, factors in smoothing.items()}
    for observation in observations:
        yield {**observation, **{smoothed(name): observation[name] * factors for name, factors in inverse.items()}}


def _offers(site: Site, group: Group) -> bool:
    return any(scheme.smoothed and not scheme.is_weight_only for scheme in site.space.schemes[group.name])


def _narrowed(job: Job, site: Site, found: Mapping[str, str]) -> Site:
    without = {group.name for group in job.groups if group.operands and group.operands[0] not in found}
    refused = {
        name: [Refusal(scheme, _NO_GAIN) for scheme in schemes if scheme.smoothed and not scheme.is_weight_only]
        for name, schemes in site.space.schemes.items()
        if name in without
    }
    return replace(site, space=site.space.without(refused))


def _factors(job: Job, groups: Sequence[Group]) -> _Found:
    """Tensor → factors, "" for none, and the error of the layers with the best factors over that without."""
    readers: dict[str, list[Group]] = {}
    for group in groups:
        readers.setdefault(group.operands[0], []).append(group)
    job.progress.stage("find channels to smooth", len(readers))
    rows = _observed(job, tuple(readers))
    found: _Found = {}
    for tensor, wanted in readers.items():
        weight = np.concatenate([by_outputs(job, group) for group in wanted])
        sample, counts = rows[tensor].sample
        best = search_smoothing(weight, sample, INT8_CHANNEL, _read_in(job, wanted), _STRENGTHS, counts)
        share = best.error / best.plain_error if best.plain_error > 0 else 1.0
        found[tensor] = (text(best.factors) if share < _GAIN else "", share)
        job.progress.advance(tensor)
    return found


def _read_in(job: Job, readers: Sequence[Group]) -> ScaledFormat:
    """The format in which `readers` of one tensor may read what smoothing leaves of it: the plainest, as there is one
    set of factors for all."""
    offered = (scheme for site in job.sites for group in readers for scheme in site.space.schemes[group.name])
    formats = [one.activation for one in offered if one.smoothed and isinstance(one.activation, ScaledFormat)]
    return UINT8_TENSOR if UINT8_TENSOR in formats else formats[0]


def _observed(job: Job, tensors: Sequence[str]) -> Mapping[str, Strata]:
    """Some rows of each tensor."""
    found: dict[str, Strata] = {}
    for seen, real in observed_with_positions(job, tensors, _SAMPLES, batch_of(job)):
        for tensor in tensors:
            rows = finite_rows(seen[tensor], real)
            found[tensor] = found.get(tensor, Strata(rows.shape[-1], _ROWS, _PEAKS)).update(rows)
    return found
