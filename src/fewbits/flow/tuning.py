"""tune(): from a trained model and a goal to the best model within it, with the proof."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from pathlib import Path
from time import perf_counter

from fewbits.budget import Budget
from fewbits.costs.place import default_path
from fewbits.data import DataSource, ImageOptions
from fewbits.errors import MetricError
from fewbits.evaluation import Scores
from fewbits.flow.accepting import Decision, accept, decline, refuse
from fewbits.flow.calibrate import calibrate, choose
from fewbits.flow.contest import contest
from fewbits.flow.floats import Floats, time_floats
from fewbits.flow.goals.bounded import bounded, keep, original_misses, original_suffices
from fewbits.flow.goals.effort import Effort, Level
from fewbits.flow.goals.goal import budget_of, objective_of
from fewbits.flow.hardware.simulating import simulate
from fewbits.flow.job import EVALUATION_BATCH, Job, asked
from fewbits.flow.looks import correction
from fewbits.flow.most_accurate import search_most_accurate
from fewbits.flow.placing import place, starts
from fewbits.flow.pricing import price
from fewbits.flow.remedies.correcting import correct
from fewbits.flow.remedies.equalise import equalise
from fewbits.flow.remedies.explaining import explain
from fewbits.flow.remedies.ranging import choose_ranges
from fewbits.flow.remedies.refining import refine
from fewbits.flow.remedies.smooth import smooth
from fewbits.flow.result import Result
from fewbits.flow.saving import parts, write_model
from fewbits.flow.scratch import scratch_folder
from fewbits.flow.screening import Screened, screen, shares
from fewbits.flow.searching import search
from fewbits.flow.serving import parse_isa
from fewbits.flow.setup import Opened, Request, open_request
from fewbits.flow.summing_up import sum_up
from fewbits.flow.time.pace import Work
from fewbits.flow.transferring import other_plan
from fewbits.limits import Limits
from fewbits.measurement import Interval
from fewbits.models import ModelSource
from fewbits.models.protocol import ONNX, TORCH
from fewbits.progress import Progress, Silent
from fewbits.space import Rule
from fewbits.store import Run, RunFile
from fewbits.targets import is_simulated
from fewbits.verify.acceptance import Objective
from fewbits.verify.evaluators import EvaluateFunction, check_repeatable

_SILENT = Silent()
_REPEATED_SAMPLES = 8
_NO_PLAN_RUNS = "no plan in low precision runs: the runtimes refuse the converted model, or die of it"
_FILES = {ONNX: (RunFile.MODEL, RunFile.MODEL_DATA), TORCH: (RunFile.MODULE, RunFile.MODEL_DATA)}
_BEST_FILES = {ONNX: (RunFile.BEST, RunFile.BEST_DATA), TORCH: (RunFile.BEST_MODULE, RunFile.BEST_DATA)}
"""The files of what is served, by its suffix: the model's, and that of weights outside of it."""
_OWN_FORM = {".xml": RunFile.IR, ".bin": RunFile.IR_WEIGHTS}


def tune(
    model: ModelSource,
    data: DataSource,
    *,
    calibration: DataSource | None = None,
    evaluate: str | EvaluateFunction = "agreement",
    higher_is_better: bool | None = None,
    max_loss: str | float | Budget | None = None,
    objective: str = "latency",
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    max_trials: int | None = None,
    max_seconds: str | float | None = None,
    effort: str = "medium",
    target: str = "auto",
    threads: int = 0,
    batch: int = 1,
    calibration_method: str = "auto",
    sensitivity: str = "auto",
    rules: Sequence[Rule | str] = (),
    images: ImageOptions | None = None,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    seed: int = 0,
    streams: int = 0,
    serve_on: str = "",
    progress: Progress = _SILENT,
) -> Result:
    """Find the fastest (or smallest) mixed-precision form of `model` that stays within `max_loss`, or the most accurate
    one within limits.

    Args:
        model: an ONNX model (path, bytes or ``onnx.ModelProto``) or a PyTorch module; it is never changed.
        data: what accuracy is measured on; see `fewbits.data.open_data`.
        calibration: data for the ranges of activations; without it, a part of `data`.
        evaluate: a metric's name, or a function ``evaluate(predict) -> float | per-sample scores``.
        higher_is_better: the direction of your own function (named metrics know theirs).
        max_loss: ``"1%"`` of the original's score, or an absolute difference such as ``0.01``; without it 1 %, or
            any for the objective ``"accuracy"``.
        objective: ``"latency"``, ``"throughput"``, ``"size"``, ``"memory"``, or ``"accuracy"``: the least loss within
            `max_latency` and `max_size`.
        max_latency: the most that a call may take, end to end: ``"5ms"``, or seconds; not with ``"throughput"``.
        max_size: the largest file: ``"20MB"``, ``"16MiB"``, or bytes.
        max_trials: how many plans the search may evaluate; without it 5 (3 for ``"accuracy"``).
        max_seconds: about how long it may all take: seconds, or ``"10m"``. What can be shortened ends early then, with
            a note; acceptance is never left out.
        effort: how far remedies go that take time: ``"low"`` (clipped ranges for weights in few bits), ``"medium"``
            (codes searched for by GPTQ, too, corrected biases), ``"high"`` (more forms of 4 bits; HQQ, AWQ, AdaRound;
            ranges tensor by tensor).
        target: the runtime that will serve the model; ``simulated:mpic`` emulates hardware that is not at hand and
            makes the cost small that a model of it predicts (`fewbits.costs.plugins.cost_model`). For a module
            ``auto`` is PyTorch, and every runtime for its ONNX export; a runtime for ONNX serves the export.
        threads: threads of the runtime, 0 for every core.
        batch: samples per call when it is timed or its memory is measured.
        calibration_method: ``auto``, ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        sensitivity: what harm is when groups are ranked: ``output`` (relative squared error), ``kl`` (divergence of
            class probabilities), ``loss`` (of the metric, per sample), or ``auto``.
        rules: fixed schemes for groups by name, such as ``"conv_1*=fp32"``; the first match wins.
        images: how images of a folder become input.
        out: the run directory; without it nothing is written.
        force: start anew in a directory that holds a run.
        resume: go on with a run that was stopped; no finished step is repeated.
        seed: of the splits.
        streams: calls that run at the same time when throughput is measured, which share the threads; 0 for as many as
            there are threads.
        serve_on: the CPU that will serve, where it is not like this one: ``avx2`` or ``avx512`` (without VNNI) give
            weights 7 bits where 8-bit products could be cut (`fewbits.saturation`); ``vnni``, ``amx``, ``arm``.
        progress: told of every step.

    Raises:
        UsageError: what was given cannot be used; the subclass says what.
        ToolError: a file could not be written, or a measuring process died.
    """
    started = perf_counter()
    aim = objective_of(objective)
    request = Request(
        data,
        calibration,
        evaluate,
        higher_is_better,
        budget_of(max_loss, aim),
        aim,
        target,
        threads,
        batch,
        calibration_method,
        tuple(Rule.parse(rule) if isinstance(rule, str) else rule for rule in rules),
        images,
        seed,
        default_path(os.environ, Path.home()),
        Limits.parse(max_latency, max_size),
        Effort.parse(max_trials, max_seconds, effort),
        sensitivity,
        streams,
        parse_isa(serve_on),
    )
    with scratch_folder() as scratch:
        opened = open_request(model, request, progress)
        with _run(out, opened, force=force, resume=resume) as run:
            job, decision = contest(opened.jobs(run, scratch, progress, perf_counter, started), decide, _baseline)
            record = sum_up(job, opened, decision, perf_counter() - started, resumed=run.resumed)
            serving = job.target(decision.target)
            other = None if opened.twins is None else other_plan(decision.plan, opened.twins, job.rivals)
            job.shelf.keep({*decision.plan.codes.values(), *(decision.best_plan or decision.plan).codes.values()})
            result = Result(
                decision.artifact,
                decision.plan,
                record,
                run.path,
                serving,
                decision.best,
                decision.best_plan,
                job.shelf.read(),
                other,
            )
            run.write(RunFile.PLAN, decision.plan.to_json())
            write_model(run, decision.artifact, *_FILES[decision.artifact.suffix])
            if other is not None:
                run.write(RunFile.OTHER_PLAN, other.plan.to_json())
            if run.path is not None:
                for suffix, file in serving.files(decision.artifact, scratch).items():
                    run.write(_OWN_FORM[suffix], parts(file))
            if decision.best is not None:
                write_model(run, decision.best, *_BEST_FILES[decision.best.suffix])
            if decision.best_plan is not None:
                run.write(RunFile.BEST_PLAN, decision.best_plan.to_json())
            run.write(RunFile.REPORT, opened.render(record))
            # Last, because a run with a record is finished.
            run.write(RunFile.RECORD, record.to_json())
    return result


def decide(job: Job, to_beat: float = 0.0) -> Decision:
    """The stages, in order: baseline, costs, calibrate, place, screen, search, accept. Where no plan could be `to_beat`
    times as fast as the fastest original, there is no search."""
    if any(is_simulated(site.name) for site in job.sites):
        return simulate(job, _baseline)
    if not any(starts(job, site) for site in job.sites):
        floats = time_floats(job)
        return bounded(job, floats, refuse(job, floats))
    # Before anything that takes long: a metric that does not work is the likeliest mistake.
    baseline = _baseline(job)
    floats = time_floats(job)
    if original_suffices(job, floats):
        return keep(job, floats)
    job = smooth(equalise(job))
    job = replace(job, sites=price(job))
    if not any(starts(job, site) for site in job.sites):
        return bounded(job, floats, replace(refuse(job, floats), evaluations=job.baseline_evaluations))
    job = refine(job)
    ranges = calibrate(job)
    first = next(iter(ranges))
    placed = place(job, floats, lambda site, asked: job.plan(site, asked, ranges[first], first))
    site = job.site(placed.target)
    if not placed.schemes:
        nothing = Screened({}, {}, {})
        return bounded(job, floats, decline(job, site, floats, _NO_PLAN_RUNS, placed.comparison, nothing))
    gained = placed.comparison.speedups[placed.name]
    if _beaten(job, floats, gained, to_beat):
        nothing = Screened({}, {}, {})
        return bounded(job, floats, decline(job, site, floats, _slower(gained, to_beat), placed.comparison, nothing))
    method = choose(job, ranges, lambda name: job.plan(site, placed.asked, ranges[name], name))
    job = correct(job, lambda job: job.plan(site, placed.asked, ranges[method], method))
    plan = job.plan(site, placed.asked, ranges[method], method)
    if job.effort is Level.HIGH:
        plan = choose_ranges(job, plan, ranges)
    screened = screen(job, site, plan)
    if screened.reverted:
        plan = job.plan(site, asked(plan, screened.reverted), plan.ranges, plan.calibration)
    looks = tuple(placed.looks.values())
    learned = correction(job, site, looks)
    if not plan.low:
        decision = decline(job, site, floats, _nothing_ran(screened), placed.comparison, screened)
    elif _hopeless(job, floats, gained) and not screened.reverted:
        decision = decline(job, site, floats, _no_gain(gained), placed.comparison, screened)
    else:
        find = search_most_accurate if job.objective is Objective.ACCURACY else search
        searched = find(job, site, plan, baseline, looks, floats)
        job = searched.job
        if searched.plan.target != site.name:
            site = job.site(searched.plan.target)
            screened = shares(job, site, searched.plan)
        learned = searched.correction
        decision = accept(job, site, floats, searched, baseline, screened)
    ended = replace(bounded(job, floats, decision), plans=placed.comparison, correction=learned)
    return replace(ended, explanations=explain(job, plan, ended), remedies=job.remedies)


def _baseline(job: Job) -> Scores:
    """The original's score on the selection split; its repeatability is checked on the way."""
    job.progress.stage("evaluate the original", 1)
    evaluator, selection = job.evaluator, job.splits.selection

    def measure() -> Scores:
        if not evaluator.uses_split:
            twice = partial(check_repeatable, evaluator, job.original, selection, EVALUATION_BATCH)
            return job.pace.timed(Work.EVALUATION, twice, 2)
        few = job.splits.search.take(range(min(_REPEATED_SAMPLES, job.splits.search.samples)))
        check_repeatable(evaluator, job.original, few, EVALUATION_BATCH)
        whole = job.pace.timed(Work.EVALUATION, lambda: evaluator(job.original, selection, EVALUATION_BATCH))
        if not isfinite(whole.value):
            raise MetricError(f"{evaluator.name} gives {whole.value} for the original model; check labels and data")
        return whole

    scores = job.journal.step("baseline", evaluator.name, Scores, measure)
    job.budget.scale(scores)
    if job.measure.scored and not scores.per_sample:
        raise MetricError(
            f"sensitivity by {job.measure.name} needs one score per sample, and {evaluator.name} gives one for all; "
            "return one per sample, or measure it by output"
        )
    job.progress.advance(f"{evaluator.name} {scores.value:.5g}")
    return scores


def _hopeless(job: Job, floats: Floats, speedup: Interval) -> bool:
    """Whether the fastest plan gains nothing: it is slower than the original, which is no reason to keep one that
    misses a limit."""
    return job.times and speedup.high <= 1 and not original_misses(job, floats)


def _beaten(job: Job, floats: Floats, speedup: Interval, to_beat: float) -> bool:
    """Whether another representation of the model has an answer that no plan of this one could beat."""
    return job.times and speedup.high <= to_beat and (to_beat > 1 or not original_misses(job, floats))


def _slower(speedup: Interval, to_beat: float) -> str:
    return (
        f"the fastest plan has {speedup.value:.2f}x the speed of the fastest original, whatever its accuracy; "
        f"there is one with {to_beat:.2f}x already"
    )


def _no_gain(speedup: Interval) -> str:
    return (
        "no plan in low precision is faster than the original: the best has "
        f"{speedup.value:.2f}x its speed (interval {speedup.low:.2f} to {speedup.high:.2f})"
    )


def _nothing_ran(screened: Screened) -> str:
    name, why = next(iter(screened.reverted.items()))
    return f"no group can stay in low precision, for example {name}: {why}"


def _run(out: str | Path | None, opened: Opened, *, force: bool, resume: bool) -> Run:
    if out is None:
        return Run.in_memory()
    return Run.create(Path(out), opened.settings, force=force, resume=resume, reads=opened.files)
