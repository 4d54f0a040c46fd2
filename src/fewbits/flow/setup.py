"""From what the caller gave to a Job: opened, checked, and with settings that a resumed run must share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.budget import Budget
from fewbits.calibration.ranges import method
from fewbits.data import Dataset, DataSource, ImageOptions, open_data
from fewbits.data.batches import Arrays
from fewbits.errors import UsageError
from fewbits.evaluation import Direction, Evaluator, Predict
from fewbits.flow.conversions import Conversions
from fewbits.flow.job import Job, refuse_quantised
from fewbits.flow.sessions import call_inputs, predictor
from fewbits.grouping import Group, group
from fewbits.models import ModelSource, open_model
from fewbits.models.protocol import Model
from fewbits.progress import Progress
from fewbits.record import RunRecord
from fewbits.report.text import render
from fewbits.space import Rule, Space, candidates
from fewbits.store import Journal
from fewbits.targets import open_target
from fewbits.targets.protocol import Target
from fewbits.verify.acceptance import Objective
from fewbits.verify.evaluators import EvaluateFunction, open_evaluator
from fewbits.verify.splits import Splits, split


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


@dataclass(frozen=True)
class Opened:
    """A request with everything in it opened. `settings` is what makes two runs the same run."""

    request: Request
    name: str
    model: Model
    target: Target
    groups: tuple[Group, ...]
    space: Space
    evaluator: Evaluator
    original: Predict
    splits: Splits
    inputs: Arrays
    settings: Mapping[str, str]
    files: tuple[Path, ...]

    def job(self, journal: Journal, scratch: Path, progress: Progress) -> Job:
        """What the stages work on."""
        return Job(
            model=self.model,
            conversions=Conversions(self.model),
            target=self.target,
            groups=self.groups,
            space=self.space,
            evaluator=self.evaluator,
            original=self.original,
            budget=self.request.budget,
            objective=self.request.objective,
            splits=self.splits,
            inputs=self.inputs,
            calibration_method=self.request.calibration_method,
            journal=journal,
            scratch=scratch,
            progress=progress,
        )

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
    progress.stage("open model and data")
    target = open_target(request.target, request.threads)
    model = open_model(source)
    refuse_quantised(model.graph)
    for_calibration_only = _is_folder(request.calibration) and not _is_folder(request.data)
    data = open_data(request.data, model.inputs, images=None if for_calibration_only else request.images)
    calibration = None
    if request.calibration is not None:
        images = request.images if _is_folder(request.calibration) else None
        calibration = open_data(request.calibration, model.inputs, images=images)
    original = predictor(target.open(model.original()), model.inputs)
    evaluator = open_evaluator(request.evaluate, model.inputs, direction=_direction(request), original=original)
    splits = split(data, calibration=calibration, scored=evaluator.uses_split, seed=request.seed)
    groups = group(model.graph)
    space = candidates(groups, request.rules, lambda one: target.menu(model.graph, one))
    for remark in space.remarks:
        progress.say(remark)
    paths = [request.data, request.calibration]
    files = tuple(Path(path) for path in paths if isinstance(path, (str, Path)) and Path(path).exists())
    return Opened(
        request=request,
        name=model.source.name if model.source is not None else "model",
        model=model,
        target=target,
        groups=groups,
        space=space,
        evaluator=evaluator,
        original=original,
        splits=splits,
        inputs=call_inputs(splits.search, model.inputs, request.batch),
        settings=_settings(request, model, target, evaluator, data, calibration),
        files=files if model.source is None else (*files, model.source),
    )


def _is_folder(source: DataSource | None) -> bool:
    return isinstance(source, (str, Path)) and Path(source).is_dir()


def _direction(request: Request) -> Direction | None:
    if request.higher_is_better is None:
        return None
    return Direction.HIGHER if request.higher_is_better else Direction.LOWER


def _settings(
    request: Request, model: Model, target: Target, evaluator: Evaluator, data: Dataset, calibration: Dataset | None
) -> dict[str, str]:
    return {
        "model": model.sha256,
        "data": data.digest,
        "calibration data": "part of the data" if calibration is None else calibration.digest,
        "metric": f"{evaluator.name} ({evaluator.direction} is better)",
        "max loss": str(request.budget),
        "objective": str(request.objective),
        "target": target.name,
        "threads": str(target.threads),
        "batch": str(request.batch),
        "calibration method": request.calibration_method,
        "rules": "; ".join(str(rule) for rule in request.rules),
        "seed": str(request.seed),
        "CPU": target.machine.cpu,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(target.machine.versions.items())),
    }
