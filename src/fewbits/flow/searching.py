"""The accuracy search: the predicted front of the measured tables, and few real evaluations on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from fewbits.benchmark import compare
from fewbits.costs.correction import Correction
from fewbits.evaluation import Scores
from fewbits.flow.climbing import climb
from fewbits.flow.conversions import plan_key
from fewbits.flow.floats import Floats
from fewbits.flow.goals.limited import fits
from fewbits.flow.job import EVALUATION_BATCH, Job, Wish
from fewbits.flow.looks import Look, correction
from fewbits.flow.memory import peaks
from fewbits.flow.names import ORIGINAL
from fewbits.flow.remedies.learning import learn_rounding
from fewbits.flow.sessions import predictor
from fewbits.flow.site import Site
from fewbits.flow.time.deadline import Stage
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import Punctual, acceptance_seconds, most_trials, tell, trials_left
from fewbits.formats.scheme import FP32, Scheme
from fewbits.plan import Plan
from fewbits.record import FrontRow, TrialRow
from fewbits.search.descent import Bracketing
from fewbits.search.problem import Finished, Ladder, Rung, Strategy, Trial
from fewbits.sensitivity.table import SensitivityTable
from fewbits.verify.acceptance import Objective, likely_holds
from fewbits.verify.racing import race
from fewbits.verify.sequential import loss_bounds

_ROUNDS: Final = 8
_ELSEWHERE: Final = "low precision pays in this plan, measured end to end"


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
    """The `job` with the codes that were found on the way; the best plan of the search, its loss on the selection
    split, whether it is within the budget and the limits, all trials, the tables that the front was made from (empty if
    none was needed), the front, and what whole plans corrected the predicted costs by; `why_not` says what no plan
    reached, "" if that is the budget."""

    job: Job
    plan: Plan
    evaluated: Evaluated
    found: bool
    trials: tuple[TrialRow, ...]
    table: SensitivityTable
    front: tuple[FrontRow, ...]
    correction: Correction = field(default_factory=Correction)
    why_not: str = ""


def search(job: Job, site: Site, start: Plan, baseline: Scores, looks: Sequence[Look], floats: Floats) -> Searched:
    """From `start` (the best plan whatever its accuracy) to the best plan within the budget on the selection split.

    Groups are ranked, and the front is traced, only if `start` misses the budget. `looks` are whole plans whose time
    is known; those on this site are rungs like the predicted ones. Where another runtime may have a faster plan that
    harms no more than the one found here, that is tried, too. Of the plans that hold, the fastest end to end wins.
    Plans that do not fit beside the job's limits are no answer, however accurate they are.
    """
    strategy = Punctual(job, most_trials(job))
    job.progress.stage("evaluate plans", strategy.most)
    first = trial(job, start, baseline, 0, "the fastest plan", fits=fits(job, start))
    holds = partial(_holds, job, baseline)
    if holds(first) or strategy.is_over(1):
        known, found = correction(job, site, looks), holds(first) or first.row.within
        return Searched(job, start, first.evaluated, found, (first.row,), SensitivityTable({}), (), known)
    job, harms = learn_rounding(job, site, start)
    climbed = climb(job, site, start, floats, looks, harms)
    ladder, plans = climbed.ladder, climbed.plans
    tell(job, trials_left(job))
    job.progress.stage("evaluate plans", strategy.most)
    job.progress.advance()
    descended = descend(job, ladder, plans, baseline, strategy, [first], holds)
    made, best = descended.made, descended.best
    # Where nothing holds with a margin, what holds without one is the next best.
    found = descended.found or best.row.within
    if descended.found and job.times and not strategy.is_over(len(made)):
        reached = next(rung for rung, plan in zip(ladder, plans, strict=True) if plan is best.plan)
        for plan in _elsewhere(job, site, start, climbed.table, floats, looks, reached):
            why = f"a faster plan on {plan.target}"
            made = [*made, trial(job, plan, baseline, len(made), why, fits=fits(job, plan))]
    seconds = _race(job, floats, [one for one in made if holds(one)])
    if seconds and job.times:
        best = min((one for one in made if one.row.number in seconds), key=lambda one: seconds[one.row.number])
    elif seconds and job.objective is Objective.MEMORY:
        held = [one for one in made if one.row.number in seconds]
        best = held[_least(job, [one.plan for one in held])]
    timed = {id(one.plan): seconds[one.row.number] for one in made if one.row.number in seconds}
    front = front_rows(ladder, descended.history, best.plan, plans, timed)
    rows = tuple(one.row for one in made)
    return Searched(job, best.plan, best.evaluated, found, rows, climbed.table, front, climbed.correction)


def _elsewhere(
    job: Job, site: Site, start: Plan, table: SensitivityTable, floats: Floats, looks: Sequence[Look], reached: Rung
) -> Sequence[Plan]:
    """The most promising plan on another runtime, if there is one: faster than `reached`, the rung that was found on
    `site`, and no more harmful. A runtime whose fastest plan of all is slower is not looked into."""
    found: list[tuple[float, Plan]] = []
    for other in job.sites:
        there = [look for look in looks if look.target == other.name and look.schemes]
        fastest = min(there, key=lambda look: look.seconds, default=None)
        if other.name == site.name or fastest is None or fastest.seconds >= reached.cost:
            continue
        wishes = {name: Wish(Scheme.parse(scheme), _ELSEWHERE) for name, scheme in fastest.schemes.items()}
        begun = job.plan(other, wishes, start.ranges, start.calibration)
        climbed = climb(job, other, begun, floats, looks, table)
        found += [
            (rung.cost, plan)
            for rung, plan in zip(climbed.ladder, climbed.plans, strict=True)
            if plan.low and rung.harm <= reached.harm and rung.cost < reached.cost
        ]
    return [plan for _, plan in sorted(found, key=lambda one: one[0])[:1]]


def likely(job: Job, baseline: Scores, evaluated: Evaluated) -> bool:
    """Whether a plan is within the budget with a margin for its having been picked."""
    return likely_holds(baseline, evaluated.scores, job.budget, job.evaluator.direction)


def _holds(job: Job, baseline: Scores, made: Made) -> bool:
    """Whether a plan is within the limits, and within the budget with a margin."""
    return made.fits and likely(job, baseline, made.evaluated)


@dataclass(frozen=True, slots=True)
class Made:
    """A plan, what its evaluation gave, the row of it in the record, and whether it fits beside the limits."""

    plan: Plan
    evaluated: Evaluated
    row: TrialRow
    fits: bool = True


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
    holds: Callable[[Made], bool] = lambda made: made.row.within,
) -> Descended:
    """Evaluate `plans`, those of the rungs of `ladder`, as far as `strategy` asks; `before` are trials of the first.

    `holds` is what the strategy is told about a trial: whether it is within the budget."""
    state = strategy.init(ladder, job.budget.amount)
    made = list(before)
    history = [Trial(0, one.row.loss, holds(one)) for one in before]
    while True:
        step = strategy.propose(state, history)
        if isinstance(step, Finished):
            break
        plan = plans[step.place]
        one = trial(job, plan, baseline, len(made), step.why, fits=fits(job, plan))
        made.append(one)
        history.append(Trial(step.place, one.row.loss, holds(one)))
        verdict = "within the budget" if one.row.within else "misses the budget" if one.fits else "beyond a limit"
        job.progress.advance(f"{step.why}: loss {one.row.loss:.4g}, {verdict}")
    return Descended(made, history, next(one for one in made if one.plan is plans[step.best.place]), step.found)


def _race(job: Job, floats: Floats, within: Sequence[Made]) -> dict[int, float]:
    """Seconds per call, end to end, by trial number, of the plans that hold; nothing where there is no choice."""
    if len(within) < 2:
        return {}
    rounds = _ROUNDS * (len(within) + 1)
    need = rounds * job.pace.each(Work.ROUND) + acceptance_seconds(job)
    if job.deadline.stops(Stage.RACE, 0, 1, need):
        return {}
    key = ",".join(plan_key(one.plan) for one in within)
    return job.journal.step("finals", key, dict[int, float], lambda: _timed(job, floats, within))


def _timed(job: Job, floats: Floats, within: Sequence[Made]) -> dict[int, float]:
    candidates = [job.candidate(ORIGINAL, job.original_file(floats.fastest), floats.fastest)]
    for one in within:
        file = job.candidate_file(f"final_{one.row.number}", job.conversions.of(one.plan))
        candidates.append(job.candidate(f"trial {one.row.number}", file, one.plan.target))
    comparison = compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress)
    baseline = comparison.latencies[ORIGINAL].median
    # The paired ratio, not the median of its own: drift of the machine cancels.
    return {one.row.number: baseline / comparison.speedups[f"trial {one.row.number}"].value for one in within}


def _least(job: Job, plans: Sequence[Plan]) -> int:
    """The place of the one of `plans` that takes the least memory."""
    candidates = [
        job.candidate(f"plan {place}", job.candidate_file(f"held_{place}", job.conversions.of(plan)), plan.target)
        for place, plan in enumerate(plans)
    ]
    found = job.journal.step(
        "finals", f"memory,{','.join(map(plan_key, plans))}", dict[str, int], lambda: dict(peaks(job, candidates))
    )
    return min(range(len(plans)), key=lambda place: found[f"plan {place}"])


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


def trial(job: Job, plan: Plan, baseline: Scores, number: int, why: str, *, fits: bool) -> Made:
    """Evaluate `plan` on the selection split; `fits` says whether it is within the limits."""
    evaluated = job.journal.step(
        "trial", plan_key(plan), Evaluated, lambda: job.pace.timed(Work.TRIAL, lambda: _score(job, plan, baseline))
    )
    row = TrialRow(
        number=number,
        what=why,
        reverted=len(plan.choices) - len(plan.low),
        score=evaluated.scores.value,
        loss=evaluated.loss,
        within=evaluated.within and fits,
        samples=evaluated.samples,
        seconds=evaluated.seconds,
    )
    return Made(plan, evaluated, row, fits)


def _score(job: Job, plan: Plan, baseline: Scores) -> Evaluated:
    """Evaluate `plan`, no further than is needed to tell that it is hopeless or sure; to the end where the least loss
    is looked for."""
    start = job.pace.clock()
    evaluator, selection = job.evaluator, job.splits.selection
    job.original.rest()
    with job.site(plan.target).target.open(job.conversions.of(plan)) as session:
        predict = predictor(session, job.model.inputs)
        if evaluator.uses_split and job.objective is not Objective.ACCURACY:
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
    return Evaluated(scores, loss, job.budget.holds(loss), scores.samples, job.pace.clock() - start)
