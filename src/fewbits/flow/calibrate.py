"""Ranges for everything that could carry codes, by one method or by the best of several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import ceil
from typing import TypeVar

from fewbits.calibration.collect import collect, tie
from fewbits.calibration.ranges import METHODS, method
from fewbits.data.batches import Arrays, Dataset
from fewbits.evaluation import Predict
from fewbits.flow.job import Job
from fewbits.flow.observing import padded, samples_per_batch
from fewbits.flow.real_positions import real_positions, without_padding
from fewbits.flow.remedies.smooth import with_smoothed
from fewbits.flow.sessions import predictor
from fewbits.formats.integer import IntFormat
from fewbits.formats.scheme import Scheme
from fewbits.graph import Graph
from fewbits.grouping import CARRIERS, Group, tied
from fewbits.models.protocol import Artifact
from fewbits.placement import coded_tensors, formats, operand_formats
from fewbits.plan import Plan, smoothed
from fewbits.sensitivity.output_error import output_error

_SCORED_SAMPLES = 32
_BATCH = 4
# Ranges settle within some dozens of samples; all four methods on more would only make the user wait.
_COMPARED_SAMPLES = 128

Ranges = Mapping[str, tuple[float, float]]
T = TypeVar("T")


def calibrate(job: Job) -> dict[str, Ranges]:
    """Method name → ranges of all tensors that could carry codes. One pass over the calibration data."""
    return calibrate_for(job, {name: scheme for site in job.sites for name, scheme in site.space.coded.items()})


def calibrate_for(job: Job, coded: Mapping[str, Scheme], what: str = "") -> dict[str, Ranges]:
    """Method name → ranges of all tensors that carry codes if the groups of `coded` have these static schemes; `what`
    tells them from other schemes in the journal."""
    wanted = tuple(METHODS) if job.calibration_method == "auto" else (job.calibration_method,)
    kind = dict[str, dict[str, tuple[float, float]]]
    key = f"{','.join(wanted)} {what}".strip()
    return dict(job.journal.step("calibration", key, kind, lambda: _run(job, wanted, coded)))


def _run(job: Job, wanted: tuple[str, ...], coded: Mapping[str, Scheme]) -> dict[str, dict[str, tuple[float, float]]]:
    low = [group for group in job.groups if group.name in coded]
    if not low:
        # Nothing carries codes: casts and formats of weights need no ranges.
        return {wanted[0]: {}}
    classes = tied(job.graph, job.groups)
    tensors = coded_tensors(job.graph, low, classes)
    codes = _codes(job.graph, low, coded)
    default = next(iter(codes.values()))
    observed = tuple(name for name in tensors if name in job.smoothing or not _follows(job.graph, name, tensors))
    wanted_formats = {name: codes.get(name, default) for name in observed}
    wanted_formats |= {smoothed(name): wanted_formats[name] for name in observed if name in job.smoothing}
    data = job.splits.calibration
    if len(wanted) > 1:
        data = data.take(range(min(_COMPARED_SAMPLES, data.samples)))
    size = samples_per_batch(job, observed)
    observations = with_smoothed(job.observe(padded(job, data, size), observed), job.smoothing)
    methods = [method(name) for name in wanted]
    found = collect(observations, methods, wanted_formats, job.progress, ceil(data.samples / size))
    return {name: _spread(tie(ranges, classes), classes, tensors) for name, ranges in found.items()}


def _codes(graph: Graph, low: list[Group], coded: Mapping[str, Scheme]) -> dict[str, IntFormat]:
    """The format that each tensor would carry; where readers differ, that of the first."""
    codes: dict[str, IntFormat] = {}
    for group in low:
        for name, format in operand_formats(graph, group, coded[group.name]):
            codes.setdefault(name, format)
        codes.setdefault(group.inner, formats(coded[group.name])[0])
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


def choose(job: Job, ranges: Mapping[str, Ranges], plan: Callable[[str], Plan], what: str = "") -> str:
    """The method whose ranges give `plan(method)` the least output error on the search split; `what` tells these plans
    from others in the journal."""
    first = next(iter(ranges))
    if len(ranges) == 1 or not any(one.is_static for one in _schemes(plan(first))):
        return first
    errors = errors_of(job, tuple(ranges), plan, what)
    return min(errors, key=lambda name: errors[name])


def errors_of(job: Job, names: Sequence[str], plan: Callable[[str], Plan], what: str = "") -> Mapping[str, float]:
    """The relative squared output error of ``plan(name)`` for each of `names` on the search split; `what` tells these
    plans from others in the journal."""
    key = f"errors {what}".strip()
    return job.journal.step("calibration", key, dict[str, float], lambda: _errors(job, names, plan, what))


def _schemes(plan: Plan) -> list[Scheme]:
    return [plan.scheme(name) for name in plan.low]


def _errors(job: Job, names: Sequence[str], plan: Callable[[str], Plan], what: str) -> dict[str, float]:
    job.progress.stage(f"choose {what or 'calibration method'}", len(names))
    sample = search_sample(job, _SCORED_SAMPLES)
    reference = list(outputs(job, job.original, sample))
    errors: dict[str, float] = {}
    for name in names:
        changed = kept_under(job, plan(name), lambda predict: list(outputs(job, predict, sample)))
        errors[name] = output_error(reference, changed).value
        job.progress.advance(f"{name}: relative output error {errors[name]:.3g}")
    return errors


def search_sample(job: Job, samples: int) -> Dataset:
    """The first samples of the search split."""
    split = job.splits.search
    return split.take(range(min(samples, split.samples)))


def outputs(job: Job, predict: Predict, data: Dataset) -> Iterator[Arrays]:
    """Outputs of `predict`, one mapping per small batch, without those at padded positions."""
    for batch in data.batches(_BATCH):
        real = real_positions(batch.inputs, job.mask)
        yield {name: without_padding(array, real) for name, array in predict(batch.inputs).items()}


def under(job: Job, plan: Plan, work: Callable[[Predict], T]) -> T:
    """What `work` makes of the model under `plan`, one of many that are not needed again, run on the plan's target; for
    errors of outputs, not for scores that are promised: what it compiles is not compiled."""
    return _run_as(job, plan, job.model.converted(plan), work)


def kept_under(job: Job, plan: Plan, work: Callable[[Predict], T]) -> T:
    """The same for a plan that later stages may need."""
    return _run_as(job, plan, job.conversions.of(plan), work)


def _run_as(job: Job, plan: Plan, artifact: Artifact, work: Callable[[Predict], T]) -> T:
    job.original.rest()
    with job.site(plan.target).target.open_once(artifact) as session:
        return work(predictor(session, job.model.inputs))
