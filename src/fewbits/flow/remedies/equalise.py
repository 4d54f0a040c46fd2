"""Cross-layer equalisation: channels of tensors between products get similar ranges before anything is quantised.

It costs nothing when the model runs, and changes nothing about what it computes in float; but behind a clip, a channel
that was stretched is cut from half as much again on as it showed on the calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.flow.conversions import Conversions
from fewbits.flow.job import Job
from fewbits.flow.observing import observed, observed_with_positions, samples_per_batch
from fewbits.flow.real_positions import without_padding
from fewbits.flow.remedies.sampled_rows import by_outputs
from fewbits.flow.remedies.tried import Remedy, added
from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.refine.balance import balanced_factors
from fewbits.refine.layer import Layer
from fewbits.rescaling import Junction, junctions
from fewbits.sensitivity.output_error import output_error
from fewbits.smoothing import text

_SAMPLES: Final = 128
_CHECKED: Final = 8
_GAIN: Final = 0.7
"""Factors that are not expected to lower the squared error to this share are not worth having."""
_Found = dict[str, tuple[str, float]]
_SAME: Final = 1e-6
"""Relative squared error of the outputs in float from where equalisation is no longer what it should be."""


def equalise(job: Job) -> Job:
    """`job` with a model whose channels are equalised where that is expected to lower the error of static codes."""
    between = junctions(job.graph, job.groups)
    wanted = [one for one in between if any(job.may_have_codes(reader) for reader in one.readers)]
    if not wanted:
        return job
    found = job.journal.step("equalisation", "factors", _Found, lambda: _factors(job, wanted))
    tried = [
        (reader.name, Remedy("cross-layer equalisation", share, measured=False, taken=bool(factors)))
        for one in wanted
        if one.tensor in found
        for factors, share in [found[one.tensor]]
        for reader in one.readers
    ]
    job = replace(job, remedies=added(job.remedies, tried))
    factors = {tensor: factors for tensor, (factors, _) in found.items() if factors}
    if not factors:
        return job
    model = job.model.equalised(factors)
    return replace(job, model=model, conversions=Conversions(model), equalised=factors)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Of every channel: the largest magnitude, the sum of squares over `count` places; the tensor's lowest value."""

    peak: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: int
    low: float

    def with_more(self, values: Array, axis: int) -> _Seen:
        rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return self
        return _Seen(
            np.maximum(self.peak, np.abs(rows).max(axis=0)),
            self.squares + np.square(rows, dtype=np.float64).sum(axis=0),
            self.count + len(rows),
            min(self.low, float(rows.min())),
        )


def _factors(job: Job, wanted: Sequence[Junction]) -> _Found:
    """Tensor → factors, "" for none, and the expected error with them over that without."""
    job.progress.stage("even out channels", len(wanted))
    seen = _observed(job, wanted)
    found: _Found = {}
    for junction in wanted:
        one = seen[junction.tensor]
        limit = _limit(job, junction)
        if not one.count or limit is None:
            job.progress.advance()
            continue
        best = balanced_factors(
            one.peak,
            one.squares / one.count,
            [_layer(job, reader) for reader in junction.readers],
            steps=255 if one.low >= 0 else 127,
            limit=limit,
        )
        share = best.error / best.plain_error if best.plain_error > 0 else 1.0
        found[junction.tensor] = (text(best.factors) if share < _GAIN else "", share)
        job.progress.advance(f"{junction.tensor}: {share:.2f} of the expected error")
    factors = {tensor: factors for tensor, (factors, _) in found.items() if factors}
    if factors and (difference := _difference(job, factors)) > _SAME:
        job.progress.say(f"channels stay as they are: evening them out changes the outputs in float ({difference:.1g})")
        return {tensor: ("", share) for tensor, (_, share) in found.items()}
    return found


def _observed(job: Job, wanted: Sequence[Junction]) -> Mapping[str, _Seen]:
    found: dict[str, _Seen] = {}
    tensors = [one.tensor for one in wanted]
    for seen, real in observed_with_positions(job, tensors, _SAMPLES, samples_per_batch(job, tensors)):
        for one in wanted:
            values = without_padding(seen[one.tensor], real) if one.axis == -1 else seen[one.tensor]
            channels = values.shape[one.axis]
            nothing = _Seen(np.zeros(channels), np.zeros(channels), 0, 0.0)
            found[one.tensor] = found.get(one.tensor, nothing).with_more(values, one.axis)
    return found


def _limit(job: Job, junction: Junction) -> float | None:
    """Where the activation of `junction` clips; ``None`` if it does so below in another way than a Relu."""
    if not junction.clip:
        return inf
    node = job.graph.node[junction.clip]
    low, high = (*node.inputs[1:], "", "")[:2]
    ends = [float(job.model.weight(name)) if name else None for name in (low, high)]
    # What a module's own call clips by are numbers and no tensors.
    for place, names in enumerate((("min_val", "min"), ("max_val", "max"))):
        numbers = [node.attributes[name] for name in names if name in node.attributes]
        ends[place] = next((float(one) for one in numbers if isinstance(one, int | float)), ends[place])
    if ends[0] != 0.0:
        return None
    return inf if ends[1] is None else ends[1]


def _layer(job: Job, group: Group) -> Layer:
    weight = job.model.weight(group.weight) if group.kind is Kind.CONV else by_outputs(job, group)
    groups = job.graph.node[group.name].attributes.get("group", 1)
    assert isinstance(groups, int)
    return Layer(weight, np.zeros(len(weight), np.float32), groups)


def _difference(job: Job, factors: Mapping[str, str]) -> float:
    """Relative squared error of the outputs in float."""
    outputs = [tensor.name for tensor in job.model.outputs]
    other = replace(job, model=job.model.equalised(factors))
    return output_error(list(observed(job, outputs, _CHECKED)), list(observed(other, outputs, _CHECKED))).value
