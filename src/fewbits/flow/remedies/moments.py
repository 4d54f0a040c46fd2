"""Second moments of what weights read on calibration data, so many at a time as memory holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fewbits.data.batches import Array
from fewbits.data.padding import batch_size
from fewbits.flow.job import Job
from fewbits.flow.observing import observed_with_positions
from fewbits.flow.remedies.products import as_product
from fewbits.flow.remedies.sampled_rows import sampled_rows
from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.refine.channel_mean import ChannelMean
from fewbits.refine.gram import Gram
from fewbits.refine.layer import as_matrices, linear_inputs

_SAMPLES: Final = 128
_ROWS: Final = 16384
_APART: Final = 4
"""Every fourth batch is kept apart to judge by."""
_BYTES: Final = 1 << 30
"""Of second moments at a time."""
_IMAGES: Final = 16
_IMAGES_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Second moments of the inputs that codes are fitted to, and of those kept apart; the mean magnitude of each input,
    of the first, and the lowest and highest value of all."""

    fitted: Gram
    apart: Gram
    magnitude: ChannelMean
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def empty(cls, features: int, groups: int) -> Moments:
        """Of nothing yet."""
        return cls(Gram.empty(features, groups), Gram.empty(features, groups), ChannelMean.empty(features))

    def with_more(self, inputs: Array, *, apart: bool) -> Moments:
        """With more `inputs` (groups, samples, features)."""
        if not inputs.size:
            return self
        low, high = min(self.low, float(inputs.min())), max(self.high, float(inputs.max()))
        if apart:
            return replace(self, apart=self.apart.update(inputs), low=low, high=high)
        magnitude = self.magnitude.update(np.abs(inputs), axis=-1)
        return Moments(self.fitted.update(inputs), self.apart, magnitude, low, high)

    @property
    def complete(self) -> Moments:
        """Judged by what is fitted to where too few inputs were seen to keep some apart."""
        return self if self.apart.count else replace(self, apart=self.fitted)

    def divided(self, factors: Array) -> Moments:
        """Of the inputs divided by `factors`, one for each."""
        both = 1 / np.multiply.outer(factors, factors).astype(np.float64)
        fitted, apart = (replace(gram, total=gram.total * both) for gram in (self.fitted, self.apart))
        magnitude = replace(self.magnitude, total=self.magnitude.total / factors)
        return Moments(fitted, apart, magnitude, self.low, self.high)


def weight_rows(job: Job, group: Group) -> Array:
    """The weight of `group`, a product by a constant, as float32 with its outputs first."""
    weight = job.model.weight(group.weight)
    node = job.graph.node[group.name]
    rows = weight if group.kind is Kind.CONV or node.attributes.get("transB", 0) else np.moveaxis(weight, -1, 0)
    return np.ascontiguousarray(rows, np.float32)


def key_of(group: Group) -> str:
    """Groups with the same key read the same inputs in the same way: matrices that multiply one tensor."""
    return group.name if group.kind is Kind.CONV else group.operands[0]


def features(job: Job, group: Group) -> tuple[int, int]:
    """Groups of a convolution (1 for a matrix), and features of each."""
    count = job.graph.node[group.name].attributes.get("group", 1) if group.kind is Kind.CONV else 1
    assert isinstance(count, int)
    return count, as_matrices(weight_rows(job, group), count).shape[2]


def moments_of(job: Job, groups: Sequence[Group]) -> Iterator[Mapping[str, Moments]]:
    """The moments of what `groups` read by `key_of`, in portions."""
    for portion in _portions(job, groups):
        yield _observed(job, portion)


def _portions(job: Job, groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
    part: dict[str, tuple[Group, int]] = {}
    for group in {key_of(group): group for group in groups}.values():
        count, size = features(job, group)
        needed = 2 * np.dtype(np.float64).itemsize * count * size**2
        if part and needed + sum(known for _, known in part.values()) > _BYTES:
            yield [known for known, _ in part.values()]
            part = {}
        part[key_of(group)] = group, needed
    if part:
        yield [known for known, _ in part.values()]


def _observed(job: Job, groups: Sequence[Group]) -> Mapping[str, Moments]:
    found = {}
    for group in groups:
        count, size = features(job, group)
        found[key_of(group)] = Moments.empty(size, count)
    matrices = [group.operands[0] for group in groups if group.kind is not Kind.CONV]
    if matrices:
        for number, seen in enumerate(sampled_rows(job, matrices, _SAMPLES, _ROWS)):
            for tensor, rows in seen.items():
                found[tensor] = found[tensor].with_more(linear_inputs(rows), apart=_is_apart(number))
    convolutions = [group for group in groups if group.kind is Kind.CONV]
    if convolutions:
        tensors = list(dict.fromkeys(group.operands[0] for group in convolutions))
        at_once = batch_size(job.model.inputs, _IMAGES_AT_ONCE)
        for number, (values, _) in enumerate(observed_with_positions(job, tensors, _IMAGES, at_once)):
            for group in convolutions:
                inputs = as_product(job.model, group, values).inputs
                whole = inputs[:, np.isfinite(inputs).all(axis=(0, 2))]
                found[group.name] = found[group.name].with_more(whole, apart=_is_apart(number))
    return {key: one.complete for key, one in found.items()}


def _is_apart(number: int) -> bool:
    return number % _APART == _APART - 1
