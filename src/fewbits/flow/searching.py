"""The accuracy search on real evaluations: rank, bisect, take back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from fewbits.evaluation import Scores
from fewbits.flow.calibrate import outputs, plan_error, search_sample
from fewbits.flow.job import EVALUATION_BATCH, Job
from fewbits.flow.sessions import predictor
from fewbits.plan import Choice, Plan
from fewbits.record import TrialRow
from fewbits.search.bisection import Bisection, Ranking
from fewbits.search.problem import Finished, Strategy, Trial
from fewbits.sensitivity.table import SensitivityTable

_RANKED_SAMPLES = 16
_REASON = "reverted for accuracy"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A recorded full evaluation."""

    scores: Scores
    seconds: float


@dataclass(frozen=True, slots=True)
class Searched:
    """The best plan of the search with its scores, whether it is within the budget, all trials, the
    ranking (empty if it was not needed), and how many groups there were to begin with."""

    plan: Plan
    scores: Scores
    found: bool
    trials: tuple[TrialRow, ...]
    harm: Mapping[str, float]
    start_groups: int


def search(job: Job, start: Plan, baseline: Scores, gain: Mapping[str, float]) -> Searched:
    """From `start` (everything that pays in low precision) to a plan within the budget on the selection split.

    `gain` is what each group saves, in seconds or bytes. Groups are ranked only if `start` misses the budget.
    """
    strategy: Strategy[Ranking] = Bisection()
    trials: list[TrialRow] = []
    history: list[Trial] = []
    table = SensitivityTable({}, {})
    job.progress.stage("evaluate plans", strategy.most(len(start.low)))
    while True:
        if len(history) == 1 and not history[0].within and not table.harm:
            table = SensitivityTable(rank(job, start), gain)
            job.progress.stage("evaluate plans", strategy.most(len(start.low)))
        step = strategy.propose(strategy.init(table), history)
        if isinstance(step, Finished):
            best, found = _best(job, start, step, history)
            plan = reverted(job, start, best.reverted)
            scores = _evaluated(job, plan).scores
            return Searched(plan, scores, found, tuple(trials), table.harm, len(start.low))
        plan = reverted(job, start, step.reverted)
        if not plan.low:
            # What was left had no neighbour to stay low with: this is the original, whose score is known.
            history.append(Trial(step.reverted, 0.0, within=True))
            continue
        row = _evaluate(job, plan, baseline, len(trials), step.why)
        trials.append(row)
        history.append(Trial(step.reverted, row.loss, row.within))
        verdict = "within" if row.within else "misses"
        job.progress.advance(f"{step.why}: {job.evaluator.name} {row.score:.5g}, {verdict} the budget")


def _best(job: Job, start: Plan, end: Finished, history: Sequence[Trial]) -> tuple[Trial, bool]:
    """The trial to go on with and whether it is within the budget; never one that comes to the original."""
    if reverted(job, start, end.best.reverted).low:
        return end.best, end.found
    real = [trial for trial in history if reverted(job, start, trial.reverted).low]
    return min(real, key=lambda trial: trial.loss), False


def reverted(job: Job, start: Plan, names: frozenset[str]) -> Plan:
    """`start` with `names` back in fp32, and with the joints that lose their neighbours by that."""
    if not names:
        return start
    low = {name: start.choices[name].reason for name in start.low - names}
    plan = job.plan(low, start.ranges, start.calibration)
    changed = {
        name: Choice(choice.scheme, _REASON if name in names else start.choices[name].reason)
        for name, choice in plan.choices.items()
        if name not in plan.low and name not in low
    }
    return Plan(
        plan.model_sha256,
        {**plan.choices, **changed},
        plan.ranges,
        target=plan.target,
        calibration=plan.calibration,
    )


def rank(job: Job, plan: Plan) -> dict[str, float]:
    """Relative output error on the search split, on the runtime, that each low group of `plan` causes alone."""
    sample = search_sample(job, _RANKED_SAMPLES)
    reference = list(outputs(job.original, sample))
    job.progress.stage("rank groups", len(plan.low))
    harm: dict[str, float] = {}
    for name in sorted(plan.low):
        alone = Plan(plan.model_sha256, {name: plan.choices[name]}, plan.ranges)
        harm[name] = job.journal.step("sensitivity", name, float, partial(plan_error, job, alone, sample, reference))
        job.progress.advance(f"{name}: {harm[name]:.3g}")
    return harm


def _evaluate(job: Job, plan: Plan, baseline: Scores, number: int, why: str) -> TrialRow:
    evaluated = _evaluated(job, plan)
    loss = job.budget.loss(baseline, evaluated.scores, job.evaluator.direction)
    return TrialRow(
        number=number,
        what=why,
        reverted=len(plan.choices) - len(plan.low),
        score=evaluated.scores.value,
        loss=loss,
        within=job.budget.holds(loss),
        seconds=evaluated.seconds,
    )


def _evaluated(job: Job, plan: Plan) -> Evaluated:
    return job.journal.step("trial", _key(plan), Evaluated, lambda: _score(job, plan))


def _score(job: Job, plan: Plan) -> Evaluated:
    start = perf_counter()
    with job.target.open(job.conversions.of(plan)) as session:
        scores = job.evaluator(predictor(session, job.model.inputs), job.splits.selection, EVALUATION_BATCH)
    return Evaluated(scores, perf_counter() - start)


def _key(plan: Plan) -> str:
    """The same for plans that convert to the same model."""
    text = "\n".join([plan.calibration, *(f"{name}={plan.scheme(name)}" for name in sorted(plan.low))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
