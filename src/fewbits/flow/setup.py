"""From what the caller gave to a Job: opened, checked, and with settings that a resumed run must share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import perf_counter

from fewbits.budget import Budget
from fewbits.calibration.ranges import method
from fewbits.costs.table import CostTable
from fewbits.data import Dataset, DataSource, ImageOptions, open_data
from fewbits.data.batches import Arrays
from fewbits.data.raw import Raw, look
from fewbits.errors import DataError, ModelError, UsageError
from fewbits.evaluation import Direction, Evaluator
from fewbits.flow.conversions import Conversions
from fewbits.flow.goals.effort import FULL, Effort
from fewbits.flow.goals.goal import check_goal, streams_of
from fewbits.flow.job import Job, refuse_quantised
from fewbits.flow.names import SHARED
from fewbits.flow.real_positions import mask_of
from fewbits.flow.remedies.offering import within_effort
from fewbits.flow.scratch import part_folder
from fewbits.flow.serving import suited
from fewbits.flow.sessions import Original, call_inputs
from fewbits.flow.shelf import Shelf
from fewbits.flow.site import Rival, Site
from fewbits.flow.time.deadline import Deadline
from fewbits.flow.time.pace import Pace
from fewbits.grouping import Group, group
from fewbits.limits import UNLIMITED, Limits
from fewbits.models import ModelSource, is_module, is_torch, open_model, open_twins
from fewbits.models.protocol import Model, Twins
from fewbits.progress import Progress
from fewbits.record import RunRecord
from fewbits.report.text import render
from fewbits.saturation import Isa
from fewbits.sensitivity.measure import AUTO, Measure, measure
from fewbits.sensitivity.output_error import output_error
from fewbits.space import Rule, candidates
from fewbits.store import Journal, Run
from fewbits.targets import SIMULATED, device_of, is_simulated, open_target, open_targets, serves_modules
from fewbits.targets.probe import checked_threads
from fewbits.targets.protocol import Target
from fewbits.verify.acceptance import Objective
from fewbits.verify.evaluators import EvaluateFunction, open_evaluator
from fewbits.verify.splits import Splits, split

Served = Sequence[tuple[Target, Model]]
"""Runtimes, each with the representation of the model that it reads."""

_DISAGREEMENT = 1e-4
"""Relative squared error between two runtimes' fp32 outputs from where one of them computes something else."""


@dataclass(frozen=True)
class Request:
    """What `tune` was asked for, besides the model."""

    data: DataSource
    calibration: DataSource | None
    evaluate: str | EvaluateFunction
    higher_is_better: bool | None
    budget: Budget
    objective: Objective
    target: str
    threads: int
    batch: int
    calibration_method: str
    rules: tuple[Rule, ...]
    images: ImageOptions | None
    seed: int
    cache: Path
    limits: Limits = UNLIMITED
    effort: Effort = FULL
    sensitivity: str = AUTO
    streams: int = 0
    serve_on: Isa | None = None


@dataclass(frozen=True)
class Form:
    """One representation of the model, with the runtimes that could serve it."""

    model: Model
    sites: tuple[Site, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Opened:
    """A request with everything in it opened. `settings` is what makes two runs the same run. A PyTorch module may have
    two `forms`, itself and its ONNX export (`twins`)."""

    request: Request
    name: str
    forms: tuple[Form, ...]
    twins: Twins | None
    evaluator: Evaluator
    original: Original
    measure: Measure
    splits: Splits
    inputs: Arrays
    settings: Mapping[str, str]
    files: tuple[Path, ...]
    mask: str = ""

    @property
    def model(self) -> Model:
        """The first form's."""
        return self.forms[0].model

    @property
    def sites(self) -> tuple[Site, ...]:
        """The first form's."""
        return self.forms[0].sites

    @property
    def groups(self) -> tuple[Group, ...]:
        """The first form's."""
        return self.forms[0].groups

    def job(
        self,
        run: Run,
        scratch: Path,
        progress: Progress,
        clock: Callable[[], float] = perf_counter,
        started: float | None = None,
    ) -> Job:
        """What the stages work on: the first of `jobs`."""
        return self.jobs(run, scratch, progress, clock, started)[0]

    def jobs(
        self,
        run: Run,
        scratch: Path,
        progress: Progress,
        clock: Callable[[], float] = perf_counter,
        started: float | None = None,
    ) -> tuple[Job, ...]:
        """What the stages work on, for every form; time runs from `started`, by default from now, on the `clock`, in
        seconds. Each has steps of its own in the journal, but what the original scores and how fast it is."""
        began, shelf = clock() if started is None else started, Shelf(run)
        parts = [run.journal, *(run.journal.part("other form", SHARED) for _ in self.forms[1:])]
        return tuple(
            self._job(form, journal, shelf, part_folder(scratch, number), progress, Pace(journal, clock), began)
            for number, (form, journal) in enumerate(zip(self.forms, parts, strict=True))
        )

    def _job(
        self, form: Form, journal: Journal, shelf: Shelf, scratch: Path, progress: Progress, pace: Pace, began: float
    ) -> Job:
        others = [other for other in self.forms if other is not form]
        return Job(
            model=form.model,
            conversions=Conversions(form.model),
            sites=form.sites,
            groups=form.groups,
            rivals=tuple(Rival(site.target, other.model.original()) for other in others for site in other.sites),
            evaluator=self.evaluator,
            original=self.original,
            budget=self.request.budget,
            objective=self.request.objective,
            limits=self.request.limits,
            trials=self.request.effort.trials,
            effort=self.request.effort.level,
            pace=pace,
            deadline=Deadline(journal, pace, began, self.request.effort.seconds),
            splits=self.splits,
            inputs=self.inputs,
            calibration_method=self.request.calibration_method,
            measure=self.measure,
            journal=journal,
            shelf=shelf,
            scratch=scratch,
            cache=self.request.cache,
            progress=progress,
            threads=checked_threads(self.request.threads),
            streams=self.streams,
            mask=self.mask,
        )

    @property
    def streams(self) -> int:
        """How many calls run at the same time when they are timed, 0 for one after the other. Raises UsageError."""
        return streams_of(self.request.objective, self.request.streams, self.request.threads)

    @staticmethod
    def render(record: RunRecord) -> str:
        """The text report."""
        return render(record)


def open_request(source: ModelSource, request: Request, progress: Progress) -> Opened:
    """Open and check everything that `request` names. Raises UsageError."""
    if request.calibration_method != "auto":
        method(request.calibration_method)
    if request.batch < 1:
        raise UsageError(f"a call has at least one sample, not {request.batch}; give --batch 1 or more")
    streams = streams_of(request.objective, request.streams, request.threads)
    check_goal(request.objective, request.budget, request.limits, request.target)
    if is_simulated(request.target) and request.objective is not Objective.LATENCY:
        raise UsageError(
            f"what is made small on {request.target} is the cost that its model predicts, so leave --objective out; "
            f"the model for bytes is {SIMULATED}:size"
        )
    progress.stage("open model and data")
    of_torch = is_torch(source)
    targets: Sequence[Target] = open_targets(request.target, request.threads, max(1, streams), torch=of_torch)
    # What a module reads, its data says; what an ONNX model reads, it says itself.
    raw = look(request.data) if is_module(source) else Raw(request.data, ())
    devices = sorted({device_of(target.name) for target in targets}, reverse=True)
    model = open_model(source, raw.items, devices[0] if of_torch else "")
    refuse_quantised(model.graph)
    twins = None
    if of_torch:
        twins, targets = _twins(model, targets, progress, automatic=request.target == "auto")
    for_calibration_only = _is_folder(request.calibration) and not _is_folder(request.data)
    data = open_data(raw.source, model.inputs, images=None if for_calibration_only else request.images)
    calibration = None
    if request.calibration is not None:
        images = request.images if _is_folder(request.calibration) else None
        calibration = open_data(request.calibration, model.inputs, images=images)
    one_call = call_inputs(data, model.inputs, request.batch)
    exported = model if twins is None else twins.onnx
    represented = [(target, model if serves_modules(target.name) else exported) for target in targets]
    served, original = _that_serve(represented, model, one_call, progress)
    evaluator = open_evaluator(request.evaluate, model.inputs, direction=_direction(request), original=original)
    harm = measure(request.sensitivity, original(one_call), evaluator.direction)
    splits = split(data, calibration=calibration, scored=evaluator.uses_split, seed=request.seed)
    forms = tuple(_form(one, [target for target, its in served if its is one], request) for one in _models(served))
    for remark in dict.fromkeys(remark for form in forms for site in form.sites for remark in site.space.remarks):
        progress.say(remark)
    paths = [request.data, request.calibration]
    files = tuple(Path(path) for path in paths if isinstance(path, (str, Path)) and Path(path).exists())
    return Opened(
        request=request,
        name=model.source.name if model.source is not None else "model",
        forms=forms,
        twins=twins,
        evaluator=evaluator,
        original=original,
        measure=harm,
        splits=splits,
        inputs=call_inputs(splits.search, model.inputs, request.batch),
        settings=_settings(request, model, [target for target, _ in served], evaluator, data, calibration),
        files=files if model.source is None else (*files, model.source, *model.original().reads),
        mask=mask_of(served[0][1].graph, original, splits.calibration),
    )


def _twins(
    model: Model, targets: Sequence[Target], progress: Progress, *, automatic: bool
) -> tuple[Twins | None, Sequence[Target]]:
    """The module beside its ONNX export, if some of `targets` read that, and those that are left: an `automatic` choice
    goes on without them where the module has no export. Raises ModelError."""
    of_modules = [target for target in targets if serves_modules(target.name)]
    if len(of_modules) == len(targets):
        return None, targets
    try:
        return open_twins(model), targets
    except ModelError as error:
        if not automatic:
            raise
        progress.say(f"the module is tuned on PyTorch alone: {error}")
        return None, of_modules


def _models(served: Served) -> Sequence[Model]:
    """The representations that are served, each once, in order."""
    return list({id(model): model for _, model in served}.values())


def _form(model: Model, targets: Sequence[Target], request: Request) -> Form:
    groups = group(model.graph)
    return Form(model, tuple(_site(target, model, groups, request) for target in targets), groups)


def _site(target: Target, model: Model, groups: tuple[Group, ...], request: Request) -> Site:
    isa = request.serve_on
    space = candidates(groups, request.rules, lambda one: suited(model, one, target.menu(model.graph, one), isa))
    return Site(target, within_effort(space, request.effort.level), CostTable(target.name, {}))


def _that_serve(
    represented: Sequence[tuple[Target, Model]], model: Model, inputs: Arrays, progress: Progress
) -> tuple[Served, Original]:
    """Those of `represented`, runtimes with what they read of the model, that run it and agree about its outputs, and
    the original on the first of them. An export must agree with its module, whether that is served or not.

    Raises ModelError or DataError, the first one's, if none does.
    """
    served: list[tuple[Target, Model]] = []
    found: list[Original] = []
    expected: dict[str, Arrays] = {}
    refusals: list[ModelError | DataError] = []
    if all(its is not model for _, its in represented):
        expected["the module"] = open_target("torch:cpu", represented[0][0].threads).open(model.original())(inputs)
    for target, its in represented:
        try:
            original = Original(target, its)
            outputs = original(inputs)
            original.rest()
        except (ModelError, DataError) as error:
            refusals.append(error)
            progress.say(f"{target.name} is left out: {error}")
            continue
        whose, first = next(iter(expected.items()), (target.name, outputs))
        differs = _difference(first, outputs)
        if differs > _DISAGREEMENT:
            difference = f"its fp32 outputs differ from {whose}'s ({differs:.2g})"
            refusals.append(ModelError(f"{target.name} does not compute the model: {difference}"))
            progress.say(f"{target.name} is left out: {difference}")
            continue
        expected.setdefault(target.name, outputs)
        served.append((target, its))
        found.append(original)
    if not served:
        raise refusals[0]
    return tuple(served), found[0]


def _difference(first: Arrays, other: Arrays) -> float:
    """Relative squared error of the outputs `other` beside `first`; infinite if they have other names or shapes."""
    if any(name not in other or other[name].shape != values.shape for name, values in first.items()):
        return inf
    return output_error([first], [other]).value


def _is_folder(source: DataSource | None) -> bool:
    return isinstance(source, (str, Path)) and Path(source).is_dir()


def _direction(request: Request) -> Direction | None:
    if request.higher_is_better is None:
        return None
    return Direction.HIGHER if request.higher_is_better else Direction.LOWER


def _settings(
    request: Request,
    model: Model,
    targets: Sequence[Target],
    evaluator: Evaluator,
    data: Dataset,
    calibration: Dataset | None,
) -> dict[str, str]:
    versions = {name: version for target in targets for name, version in target.machine.versions.items()}
    return {
        "model": model.sha256,
        "data": data.digest,
        "calibration data": "part of the data" if calibration is None else calibration.digest,
        "metric": f"{evaluator.name} ({evaluator.direction} is better)",
        "max loss": str(request.budget),
        "objective": str(request.objective),
        "limits": str(request.limits),
        **request.effort.settings,
        "target": ", ".join(target.name for target in targets),
        "threads": str(checked_threads(request.threads)),
        "streams": str(targets[0].streams),
        "batch": str(request.batch),
        "calibration method": request.calibration_method,
        "sensitivity": request.sensitivity,
        "serve on": "this CPU" if request.serve_on is None else str(request.serve_on),
        "rules": "; ".join(str(rule) for rule in request.rules),
        "seed": str(request.seed),
        "CPU": targets[0].machine.cpu,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }
