"""Ranges for everything that could carry codes, by one method or by the best of several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from math import ceil

from fewbits.calibration.collect import collect, tie
from fewbits.calibration.ranges import METHODS, method
from fewbits.data.batches import Arrays, Batch, Dataset
from fewbits.data.padding import batch_size, pad
from fewbits.evaluation import Predict
from fewbits.flow.job import Job
from fewbits.flow.placing import reachable
from fewbits.flow.sessions import predictor
from fewbits.formats.integer import IntFormat
from fewbits.graph import Graph
from fewbits.grouping import CARRIERS, Group, tied
from fewbits.placement import coded_tensors, formats
from fewbits.plan import Plan
from fewbits.sensitivity.output_error import output_error

_BYTES_PER_BATCH = 64 << 20
_SCORED_SAMPLES = 32
# Ranges settle within some dozens of samples; all four methods on more would only make the user wait.
_COMPARED_SAMPLES = 128

Ranges = Mapping[str, tuple[float, float]]


def calibrate(job: Job) -> dict[str, Ranges]:
    """Method name → ranges of all tensors that could carry codes. One pass over the calibration data."""
    wanted = tuple(METHODS) if job.calibration_method == "auto" else (job.calibration_method,)
    kind = dict[str, dict[str, tuple[float, float]]]
    found = job.journal.step("calibration", ",".join(wanted), kind, lambda: _run(job, wanted))
    return dict(found)


def _run(job: Job, wanted: tuple[str, ...]) -> dict[str, dict[str, tuple[float, float]]]:
    names = reachable(job)
    low = [group for group in job.groups if group.name in names]
    classes = tied(job.graph, job.groups)
    tensors = coded_tensors(job.graph, low, classes)
    codes = _codes(job, low)
    default = next(iter(codes.values()))
    observed = tuple(name for name in tensors if not _follows(job.graph, name, tensors))
    wanted_formats = {name: codes.get(name, default) for name in observed}
    data = job.splits.calibration
    if len(wanted) > 1:
        data = data.take(range(min(_COMPARED_SAMPLES, data.samples)))
    size = _samples_per_batch(job, observed)
    batches = _padded(data, size, batch_size(job.model.inputs, 0))
    observations = job.model.observe(batches, observed)
    methods = [method(name) for name in wanted]
    found = collect(observations, methods, wanted_formats, job.progress, ceil(data.samples / size))
    return {name: _spread(tie(ranges, classes), classes, tensors) for name, ranges in found.items()}


def _codes(job: Job, low: list[Group]) -> dict[str, IntFormat]:
    """The format that each tensor would carry; where readers differ, that of the first."""
    codes: dict[str, IntFormat] = {}
    for group in low:
        first, second = formats(job.space.low[group.name])
        for position, name in enumerate(group.operands):
            codes.setdefault(name, second if position == 1 and group.is_product else first)
        codes.setdefault(group.inner, first)
    return codes


def _follows(graph: Graph, name: str, tensors: tuple[str, ...]) -> bool:
    """Whether `name` only rearranges or drops elements of another of `tensors`, whose range then holds it too."""
    node = graph.producer.get(name)
    return node is not None and node.kind in CARRIERS and node.inputs[0] in tensors


def _spread(
    ranges: Mapping[str, tuple[float, float]], classes: Collection[frozenset[str]], tensors: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """`ranges` with those of tensors that were not observed, from the members of their class."""
    found = dict(ranges)
    for members in classes:
        known = next((ranges[name] for name in members if name in ranges), None)
        if known is not None:
            found.update(dict.fromkeys(members.intersection(tensors), known))
    return found


def _samples_per_batch(job: Job, tensors: tuple[str, ...]) -> int:
    """So many samples that the observed values of one batch stay small, whatever the model."""
    fixed = batch_size(job.model.inputs, 0)
    if fixed:
        return fixed
    per_sample = 4 * sum(job.graph.tensors[name].elements for name in tensors)
    return max(1, min(16, _BYTES_PER_BATCH // max(per_sample, 1)))


def _padded(data: Dataset, size: int, fixed: int) -> Iterator[Batch]:
    return (pad(batch, fixed) if fixed else batch for batch in data.batches(size))


def choose(job: Job, ranges: Mapping[str, Ranges], plan: Callable[[str], Plan]) -> str:
    """The method whose ranges give `plan(method)` the least output error on the search split."""
    if len(ranges) == 1:
        return next(iter(ranges))
    errors = job.journal.step("calibration", "errors", dict[str, float], lambda: _errors(job, ranges, plan))
    return min(errors, key=lambda name: errors[name])


def _errors(job: Job, ranges: Mapping[str, Ranges], plan: Callable[[str], Plan]) -> dict[str, float]:
    job.progress.stage("choose calibration method", len(ranges))
    sample = search_sample(job, _SCORED_SAMPLES)
    reference = list(outputs(job.original, sample))
    errors: dict[str, float] = {}
    for name in ranges:
        errors[name] = plan_error(job, plan(name), sample, reference)
        job.progress.advance(f"{name}: relative output error {errors[name]:.3g}")
    return errors


def search_sample(job: Job, samples: int) -> Dataset:
    """The first samples of the search split."""
    split = job.splits.search
    return split.take(range(min(samples, split.samples)))


def outputs(predict: Predict, data: Dataset) -> Iterator[Arrays]:
    """Outputs of `predict`, one mapping per small batch."""
    return (predict(batch.inputs) for batch in data.batches(8))


def plan_error(job: Job, plan: Plan, sample: Dataset, reference: list[Arrays]) -> float:
    """Relative squared output error of the model under `plan` on `sample`, run on the target."""
    with job.target.open(job.model.converted(plan)) as session:
        return output_error(reference, outputs(predictor(session, job.model.inputs), sample))
