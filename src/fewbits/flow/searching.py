"""The accuracy search: the predicted front of the measured tables, and few real evaluations on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Final

from fewbits.benchmark import Candidate, compare
from fewbits.costs.correction import Correction
from fewbits.evaluation import Scores
from fewbits.flow.allocating import BYTES, SECONDS, Costing
from fewbits.flow.floats import Floats
from fewbits.flow.job import EVALUATION_BATCH, Asked, Job, Wish
from fewbits.flow.names import ORIGINAL
from fewbits.flow.placing import Quick
from fewbits.flow.ranking import rank
from fewbits.flow.sessions import predictor
from fewbits.flow.site import Site
from fewbits.formats.scheme import FP32, Scheme
from fewbits.plan import Plan
from fewbits.record import FrontRow, TrialRow
from fewbits.search.descent import Bracketing, Descent
from fewbits.search.front import trace
from fewbits.search.problem import Finished, Ladder, Rung, Strategy, Trial
from fewbits.search.program import init
from fewbits.sensitivity.table import SensitivityTable
from fewbits.space import Refusal
from fewbits.verify.acceptance import Objective, likely_holds
from fewbits.verify.racing import race
from fewbits.verify.sequential import loss_bounds

_POINTS: Final = 48
_SECONDS: Final = 30.0
_ROUNDS: Final = 8
_WORST: Final = 1e6
"""Harm of a scheme that breaks the model: large, but a number that a solver can add."""
_REVERTED: Final = "fp32 here is what the accuracy budget buys at the least cost, by the predicted front"
_KEPT: Final = "low precision here is worth its predicted harm"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A recorded evaluation, of `samples` samples of the selection split, with the loss on those."""

    scores: Scores
    loss: float
    within: bool
    samples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Searched:
    """The best plan of the search, its loss on the selection split, whether it is within the budget, all trials, the
    tables that the front was made from (empty if none was needed) and the front."""

    plan: Plan
    evaluated: Evaluated
    found: bool
    trials: tuple[TrialRow, ...]
    table: SensitivityTable
    front: tuple[FrontRow, ...]


def search(
    job: Job, site: Site, start: Plan, baseline: Scores, correction: Correction, looks: Sequence[Quick], floats: Floats
) -> Searched:
    """From `start` (the best plan whatever its accuracy) to the best plan within the budget on the selection split.

    Groups are ranked, and the front is traced, only if `start` misses the budget. `looks` are whole plans whose time
    is known; those on this site are rungs like the predicted ones. Of the plans that hold, the fastest end to end wins.
    """
    strategy: Strategy[Bracketing] = Descent(power=job.measure.power)
    job.progress.stage("evaluate plans", strategy.most)
    first = _trial(job, start, baseline, 0, "the fastest plan")
    holds = partial(likely, job, baseline)
    if holds(first.evaluated):
        return Searched(start, first.evaluated, True, (first.row,), SensitivityTable({}), ())
    table = rank(job, site, start)
    predicted = _ladder(job, site, start, table, correction, [look for look in looks if look.target == site.name])
    ladder, plans = _realised(job, site, start, predicted)
    job.progress.stage("evaluate plans", strategy.most)
    job.progress.advance()
    descended = descend(job, ladder, plans, baseline, strategy, [first], holds)
    made, best = descended.made, descended.best
    # Where nothing holds with a margin, what holds without one is the next best.
    found = descended.found or best.row.within
    seconds = _race(job, site, floats, [one for one in made if holds(one.evaluated)])
    if seconds and job.objective is Objective.LATENCY:
        best = min((one for one in made if one.row.number in seconds), key=lambda one: seconds[one.row.number])
    timed = {id(one.plan): seconds[one.row.number] for one in made if one.row.number in seconds}
    front = front_rows(ladder, descended.history, best.plan, plans, timed)
    return Searched(best.plan, best.evaluated, found, tuple(one.row for one in made), table, front)


def likely(job: Job, baseline: Scores, evaluated: Evaluated) -> bool:
    """Whether a plan is within the budget with a margin for its having been picked."""
    return likely_holds(baseline, evaluated.scores, job.budget, job.evaluator.direction)


@dataclass(frozen=True, slots=True)
class Made:
    """A plan, what its evaluation gave, and the row of it in the record."""

    plan: Plan
    evaluated: Evaluated
    row: TrialRow


@dataclass(frozen=True, slots=True)
class Descended:
    """All trials in order, as the strategy saw them too; the best of them, and whether it is within the budget."""

    made: Sequence[Made]
    history: Sequence[Trial]
    best: Made
    found: bool


def descend(
    job: Job,
    ladder: Ladder,
    plans: Sequence[Plan],
    baseline: Scores,
    strategy: Strategy[Bracketing],
    before: Sequence[Made] = (),
    holds: Callable[[Evaluated], bool] = lambda evaluated: evaluated.within,
) -> Descended:
    """Evaluate `plans`, those of the rungs of `ladder`, as far as `strategy` asks; `before` are trials of the first.

    `holds` is what the strategy is told about a trial: whether it is within the budget."""
    state = strategy.init(ladder, job.budget.amount)
    made = list(before)
    history = [Trial(0, one.row.loss, holds(one.evaluated)) for one in before]
    while True:
        step = strategy.propose(state, history)
        if isinstance(step, Finished):
            break
        trial = _trial(job, plans[step.place], baseline, len(made), step.why)
        made.append(trial)
        history.append(Trial(step.place, trial.row.loss, holds(trial.evaluated)))
        verdict = "within" if trial.row.within else "misses"
        job.progress.advance(f"{step.why}: loss {trial.row.loss:.4g}, {verdict} the budget")
    return Descended(made, history, next(one for one in made if one.plan is plans[step.best.place]), step.found)


def _race(job: Job, site: Site, floats: Floats, within: Sequence[Made]) -> dict[int, float]:
    """Seconds per call, end to end, by trial number, of the plans that hold; nothing where there is no choice."""
    if len(within) < 2:
        return {}
    key = ",".join(_key(one.plan) for one in within)
    return job.journal.step("finals", key, dict[int, float], lambda: _timed(job, site, floats, within))


def _timed(job: Job, site: Site, floats: Floats, within: Sequence[Made]) -> dict[int, float]:
    original = job.candidate_file(ORIGINAL, job.model.original().content)
    candidates = [Candidate(ORIGINAL, original, floats.fastest, job.threads)]
    for one in within:
        file = job.candidate_file(f"final_{one.row.number}", job.conversions.of(one.plan).content)
        candidates.append(Candidate(f"trial {one.row.number}", file, site.name, job.threads))
    comparison = compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress)
    baseline = comparison.latencies[ORIGINAL].median
    # The paired ratio, not the median of its own: drift of the machine cancels.
    return {one.row.number: baseline / comparison.speedups[f"trial {one.row.number}"].value for one in within}


def _ladder(
    job: Job,
    site: Site,
    start: Plan,
    table: SensitivityTable,
    correction: Correction,
    looks: Sequence[Quick],
) -> Ladder:
    """The predicted front and the plans whose time is known, without those that are worse than another in both;
    `start` is the first rung and the original the last one in any case."""
    harm = {
        name: {scheme: min(one, _WORST) for scheme, one in schemes.items()} for name, schemes in table.values.items()
    }
    costing = Costing(job, _ranked(site, harm))
    allocation = costing.allocation(harm, correction)
    resource = BYTES if job.objective is Objective.SIZE else SECONDS
    job.progress.stage("trace the front")
    front = trace(init(allocation), resource, points=_POINTS, seconds=_SECONDS)
    chosen = {name: str(start.scheme(name)) for name in costing.names}
    values = allocation.values(chosen)
    rungs = [Rung(one.choice, one.harm, one.costs[resource]) for one in front.solutions]
    for look in looks:
        if any(scheme not in harm.get(name, {}) for name, scheme in look.schemes.items()):
            continue
        choice = {name: look.schemes.get(name, str(FP32)) for name in costing.names}
        known = allocation.values(choice)
        rungs.append(Rung(choice, known["harm"], look.seconds if resource == SECONDS else known[resource]))
    safer = sorted((rung for rung in rungs if rung.harm < values["harm"]), key=lambda rung: (rung.harm, rung.cost))
    original = dict.fromkeys(costing.names, str(FP32))
    kept = [Rung(original, 0.0, allocation.values(original)[resource])]
    for rung in safer:
        if rung.cost < kept[-1].cost:
            kept.append(rung)
    return [Rung(chosen, values["harm"], values[resource]), *reversed(kept)]


def _ranked(site: Site, harm: Mapping[str, Mapping[str, float]]) -> Site:
    """`site` with those schemes alone whose harm is known: the others would pass for harmless."""
    unknown = {
        name: [
            Refusal(scheme, "it could only lose, so it was not ranked")
            for scheme in schemes
            if not scheme.is_fp32 and str(scheme) not in harm.get(name, {})
        ]
        for name, schemes in site.space.schemes.items()
    }
    return replace(site, space=site.space.without(unknown))


def _realised(job: Job, site: Site, start: Plan, predicted: Ladder) -> tuple[Ladder, list[Plan]]:
    """The rungs of `predicted` that come to different plans, and these plans.

    A rung whose groups have no neighbour left to stay low with comes to the original, which is the last rung already.
    """
    ladder, plans = [predicted[0]], [start]
    for rung in predicted[1:-1]:
        plan = _plan(job, site, start, rung)
        if plan.low and all(_key(plan) != _key(other) for other in plans):
            ladder.append(rung)
            plans.append(plan)
    return [*ladder, predicted[-1]], [*plans, _plan(job, site, start, predicted[-1])]


def _plan(job: Job, site: Site, start: Plan, rung: Rung) -> Plan:
    wishes: Asked = {
        name: Wish(Scheme.parse(option), _REVERTED if option == str(FP32) else _KEPT)
        for name, option in rung.choice.items()
        if option != str(FP32) or name in start.low
    }
    return job.plan(site, wishes, start.ranges, start.calibration)


def front_rows(
    ladder: Ladder, history: Sequence[Trial], chosen: Plan, plans: Sequence[Plan], timed: Mapping[int, float]
) -> tuple[FrontRow, ...]:
    """The rungs of `ladder` for the record; `timed` has the seconds of plans by their identity."""
    losses = {trial.place: trial for trial in history}
    return tuple(
        FrontRow(
            harm=rung.harm,
            cost=rung.cost,
            low=sum(option != str(FP32) for option in rung.choice.values()),
            loss=losses[place].loss if place in losses else -1.0,
            measured=place in losses,
            seconds=timed.get(id(plans[place]), -1.0),
            chosen=plans[place] is chosen,
        )
        for place, rung in enumerate(ladder)
    )


def _trial(job: Job, plan: Plan, baseline: Scores, number: int, why: str) -> Made:
    evaluated = job.journal.step("trial", _key(plan), Evaluated, lambda: _score(job, plan, baseline))
    row = TrialRow(
        number=number,
        what=why,
        reverted=len(plan.choices) - len(plan.low),
        score=evaluated.scores.value,
        loss=evaluated.loss,
        within=evaluated.within,
        samples=evaluated.samples,
        seconds=evaluated.seconds,
    )
    return Made(plan, evaluated, row)


def _score(job: Job, plan: Plan, baseline: Scores) -> Evaluated:
    """Evaluate `plan`, no further than is needed to tell that it is hopeless or sure."""
    start = perf_counter()
    evaluator, selection = job.evaluator, job.splits.selection
    with job.site(plan.target).target.open(job.conversions.of(plan)) as session:
        predict = predictor(session, job.model.inputs)
        if evaluator.uses_split:
            raced = race(
                lambda part: evaluator(predict, selection.take(part), EVALUATION_BATCH),
                baseline,
                job.budget,
                evaluator.direction,
                bounds=loss_bounds(evaluator),
            )
            scores, loss = raced.scores, raced.judgement.loss
        else:
            scores = evaluator(predict, selection, EVALUATION_BATCH)
            loss = job.budget.loss(baseline, scores, evaluator.direction)
    return Evaluated(scores, loss, job.budget.holds(loss), scores.samples, perf_counter() - start)


def _key(plan: Plan) -> str:
    """The same for plans that convert to the same model."""
    text = "\n".join([plan.target, plan.calibration, *(f"{name}={plan.scheme(name)}" for name in sorted(plan.low))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
