"""tune(): from a trained model and a goal to the fastest or smallest model within it, with the proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from time import perf_counter

from fewbits.budget import Budget
from fewbits.data import DataSource, ImageOptions
from fewbits.errors import MetricError, UsageError
from fewbits.evaluation import Scores
from fewbits.flow.accepting import Decision, accept, decline, refuse
from fewbits.flow.calibrate import calibrate, choose
from fewbits.flow.job import EVALUATION_BATCH, Job
from fewbits.flow.placing import place_variants, variants
from fewbits.flow.result import Result
from fewbits.flow.scratch import scratch_folder
from fewbits.flow.screening import Screened, screen
from fewbits.flow.searching import search
from fewbits.flow.setup import Opened, Request, open_request
from fewbits.flow.summing_up import sum_up
from fewbits.measurement import Interval
from fewbits.models import ModelSource
from fewbits.plan import Plan
from fewbits.progress import Progress, Silent
from fewbits.space import Rule
from fewbits.store import Run, RunFile
from fewbits.verify.acceptance import Objective
from fewbits.verify.evaluators import EvaluateFunction, check_repeatable

_SILENT = Silent()
_REPEATED_SAMPLES = 8


def tune(
    model: ModelSource,
    data: DataSource,
    *,
    calibration: DataSource | None = None,
    evaluate: str | EvaluateFunction = "agreement",
    higher_is_better: bool | None = None,
    max_loss: str | float | Budget = "1%",
    objective: str = "latency",
    target: str = "auto",
    threads: int = 0,
    batch: int = 1,
    calibration_method: str = "auto",
    rules: Sequence[Rule | str] = (),
    images: ImageOptions | None = None,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    seed: int = 0,
    progress: Progress = _SILENT,
) -> Result:
    """Find the fastest (or smallest) mixed-precision form of `model` that stays within `max_loss`.

    Args:
        model: an ONNX model: path, bytes or ``onnx.ModelProto``; it is never changed.
        data: what accuracy is measured on; see `fewbits.data.open_data`.
        calibration: data for the ranges of activations; without it, a part of `data`.
        evaluate: a metric's name, or a function ``evaluate(predict) -> float | per-sample scores``.
        higher_is_better: the direction of your own function (named metrics know theirs).
        max_loss: ``"1%"`` of the original's score, or an absolute difference such as ``0.01``.
        objective: ``"latency"`` or ``"size"``.
        target: the runtime that will serve the model.
        threads: threads of the runtime, 0 for every core.
        batch: samples per call when latency is measured.
        calibration_method: ``auto``, ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        rules: fixed schemes for groups by name, such as ``"conv_1*=fp32"``; the first match wins.
        images: how images of a folder become input.
        out: the run directory; without it nothing is written.
        force: start anew in a directory that holds a run.
        resume: go on with a run that was stopped; no finished step is repeated.
        seed: of the splits.
        progress: told of every step.

    Raises:
        UsageError: what was given cannot be used; the subclass says what.
        ToolError: a file could not be written, or a measuring process died.
    """
    started = perf_counter()
    request = Request(
        data,
        calibration,
        evaluate,
        higher_is_better,
        Budget.parse(max_loss),
        _objective(objective),
        target,
        threads,
        batch,
        calibration_method,
        tuple(Rule.parse(rule) if isinstance(rule, str) else rule for rule in rules),
        images,
        seed,
    )
    with scratch_folder() as scratch:
        opened = open_request(model, request, progress)
        with _run(out, opened, force=force, resume=resume) as run:
            job = opened.job(run.journal, scratch, progress)
            decision = decide(job)
            record = sum_up(job, opened, decision, perf_counter() - started, resumed=run.resumed)
            result = Result(decision.artifact, decision.plan, record, run.path, decision.best, decision.best_plan)
            run.write(RunFile.PLAN, decision.plan.to_json())
            run.write(RunFile.MODEL, decision.artifact.content)
            if decision.best is not None:
                run.write(RunFile.BEST, decision.best.content)
            if decision.best_plan is not None:
                run.write(RunFile.BEST_PLAN, decision.best_plan.to_json())
            run.write(RunFile.REPORT, opened.render(record))
            # Last, because a run with a record is finished.
            run.write(RunFile.RECORD, record.to_json())
    return result


def decide(job: Job) -> Decision:
    """The stages, in order: baseline, calibrate, place, screen, search, accept."""
    if not variants(job):
        return refuse(job)
    baseline = _baseline(job)
    ranges = calibrate(job)
    first = next(iter(ranges))
    placed = place_variants(job, lambda low: job.plan(low, ranges[first], first))
    method = choose(job, ranges, lambda name: job.plan(placed.why, ranges[name], name))
    plan = job.plan(placed.why, ranges[method], method)
    screened = screen(job, plan)
    plan = _without(job, plan, screened.reverted)
    gained = placed.comparison.speedups[placed.name]
    if not plan.low:
        return decline(job, _nothing_ran(screened), placed.comparison, screened)
    if job.objective is Objective.LATENCY and _hopeless(gained) and not screened.reverted:
        return decline(job, _no_gain(gained), placed.comparison, screened)
    searched = search(job, plan, baseline, _gain(job, screened))
    return accept(job, searched, baseline, screened)


def _baseline(job: Job) -> Scores:
    """The original's score on the selection split; its repeatability is checked on the way."""
    job.progress.stage("evaluate the original", 1)
    evaluator, selection = job.evaluator, job.splits.selection

    def measure() -> Scores:
        if not evaluator.uses_split:
            return check_repeatable(evaluator, job.original, selection, EVALUATION_BATCH)
        few = job.splits.search.take(range(min(_REPEATED_SAMPLES, job.splits.search.samples)))
        check_repeatable(evaluator, job.original, few, EVALUATION_BATCH)
        whole = evaluator(job.original, selection, EVALUATION_BATCH)
        if not isfinite(whole.value):
            raise MetricError(f"{evaluator.name} gives {whole.value} for the original model; check labels and data")
        return whole

    scores = job.journal.step("baseline", evaluator.name, Scores, measure)
    job.budget.scale(scores)
    job.progress.advance(f"{evaluator.name} {scores.value:.5g}")
    return scores


def _without(job: Job, plan: Plan, names: Mapping[str, str]) -> Plan:
    if not names:
        return plan
    low = {name: plan.choices[name].reason for name in plan.low if name not in names}
    return job.plan(low, plan.ranges, plan.calibration).reverted(names)


def _gain(job: Job, screened: Screened) -> dict[str, float]:
    """What each group saves in low precision: bytes of its weight if the file's size counts, else seconds per call."""
    if job.objective is Objective.SIZE:
        weights = {group.name: group.weight for group in job.groups if group.weight}
        return {name: 3.0 * job.graph.tensors[weight].elements for name, weight in weights.items()}
    original = screened.original
    return {name: original[name].seconds - share.seconds for name, share in screened.low.items() if name in original}


def _hopeless(speedup: Interval) -> bool:
    return speedup.high <= 1


def _no_gain(speedup: Interval) -> str:
    return (
        "no placement of low precision is faster than the original: the best has "
        f"{speedup.value:.2f}x its speed (interval {speedup.low:.2f} to {speedup.high:.2f})"
    )


def _nothing_ran(screened: Screened) -> str:
    name, why = next(iter(screened.reverted.items()))
    return f"no group can stay in low precision, for example {name}: {why}"


def _run(out: str | Path | None, opened: Opened, *, force: bool, resume: bool) -> Run:
    if out is None:
        return Run.in_memory()
    return Run.create(Path(out), opened.settings, force=force, resume=resume, reads=opened.files)


def _objective(text: str) -> Objective:
    try:
        return Objective(text)
    except ValueError as error:
        raise UsageError(f"unknown objective {text!r}; choose {' or '.join(Objective)}") from error
