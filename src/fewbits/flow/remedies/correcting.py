"""Bias correction: whether it lowers the error of the outputs, and the means of channels that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from fewbits.flow.calibrate import errors_of
from fewbits.flow.goals.effort import Level
from fewbits.flow.job import Job
from fewbits.flow.observing import observed_with_positions, samples_per_batch
from fewbits.flow.real_positions import without_padding
from fewbits.flow.remedies.smooth import with_smoothed
from fewbits.flow.remedies.tried import Remedy, added
from fewbits.graph import Kind
from fewbits.grouping import LAYERS, channels_last
from fewbits.means import text
from fewbits.plan import Plan, smoothed
from fewbits.refine.channel_mean import ChannelMean

_SAMPLES: Final = 64
_WITH: Final = "with biases corrected"
_WITHOUT: Final = "with biases as they are"


def correct(job: Job, plan: Callable[[Job], Plan]) -> Job:
    """`job` with means that biases are corrected by, if that lowers the output error of the plan that `plan` makes."""
    if job.effort is Level.LOW or not any(scheme.is_static for scheme in map(plan(job).scheme, plan(job).low)):
        return job
    means = dict(job.journal.step("bias correction", "means", dict[str, str], lambda: _means(job)))
    other = replace(job, means=means)
    if not means or not plan(other).means:
        return job
    errors = errors_of(job, (_WITHOUT, _WITH), lambda name: plan(other if name == _WITH else job), "biases")
    share = errors[_WITH] / errors[_WITHOUT] if errors[_WITHOUT] > 0 else 1.0
    chosen = other if share < 1 else job
    remedy = Remedy("bias correction, of the whole model", share, measured=True, taken=share < 1)
    told = [(group.name, remedy) for group in job.groups if group.weight and group.kind in LAYERS]
    return replace(chosen, remedies=added(job.remedies, told))


def _means(job: Job) -> dict[str, str]:
    """Tensor → means of its channels, of what weighted products read that may have codes."""
    axes = {
        group.operands[0]: 1 if group.kind is Kind.CONV else -1
        for group in job.groups
        if group.weight and group.kind in LAYERS and group.operands and channels_last(job.graph, group)
        if job.may_have_codes(group)
    }
    axes |= {smoothed(tensor): -1 for tensor in job.smoothing if tensor in axes}
    found: dict[str, ChannelMean] = {}
    own = [tensor for tensor in axes if tensor in job.graph.tensors]
    size = samples_per_batch(job, own)
    for seen, real in observed_with_positions(job, own, _SAMPLES, size):
        (values,) = with_smoothed([seen], job.smoothing)
        for tensor, axis in axes.items():
            array = without_padding(values[tensor], real) if axis == -1 else values[tensor]
            found[tensor] = found.get(tensor, ChannelMean.empty(array.shape[axis])).update(array, axis)
    return {tensor: text(mean.mean) for tensor, mean in found.items() if np.isfinite(mean.total).all()}
