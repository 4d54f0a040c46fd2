"""The least loss of accuracy within limits: the predicted front is climbed by what its plans are measured to cost.

Harm falls along the front and cost rises, so the plan to look for is the safest that is within the limits. Where that
is on the front is found by timing single plans (`fewbits.search.ascent`). Because harm is a prediction, its faster
neighbours are timed and evaluated, too, and the one that loses least is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fewbits.benchmark import compare
from fewbits.evaluation import Scores
from fewbits.flow.climbing import climb
from fewbits.flow.floats import Floats
from fewbits.flow.goals.limited import original_figures, quick_seconds
from fewbits.flow.job import Job
from fewbits.flow.looks import Look
from fewbits.flow.searching import Made, Searched, front_rows, trial
from fewbits.flow.site import Site
from fewbits.flow.time.deadline import Stage
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import acceptance_seconds, most_trials, tell, trial_seconds
from fewbits.measurement import Latency
from fewbits.plan import Plan
from fewbits.search.ascent import Ascent
from fewbits.search.problem import Attempt, Finished, Ladder, Trial
from fewbits.verify.within import likely_within

_ROUNDS: Final = 8
_LIMIT: Final = 1.0
"""Costs are shares of the limits."""


def search_most_accurate(
    job: Job, site: Site, start: Plan, baseline: Scores, looks: Sequence[Look], floats: Floats
) -> Searched:
    """From `start` (the fastest plan, or the smallest) to the one within the limits that loses least on the selection
    split. Where none is within the limits, the closest to them, not found."""
    front = climb(job, site, start, floats, looks)
    ladder, plans = front.ladder, front.plans
    climbed = _timed_climb(job, ladder, plans, floats)
    places = _finalists(climbed.best.place, most_trials(job))
    timed = _latencies(job, site, plans, places)
    within = _within(job, plans, places, timed) if climbed.found else []
    tell(job, len(within))
    tried = within or [min(timed, key=lambda place: timed[place].median, default=climbed.best.place)]
    job.progress.stage("evaluate plans", len(tried))
    made: list[tuple[int, Made]] = []
    for place in tried:
        if made and job.deadline.stops(Stage.TRY, len(made), len(tried), trial_seconds(job) + acceptance_seconds(job)):
            break
        why = f"plan {place + 1} of {len(ladder)} on the predicted front, {_said(job, plans[place], timed.get(place))}"
        one = trial(job, plans[place], baseline, len(made), why, fits=bool(within))
        made.append((place, one))
        job.progress.advance(f"{why}: loss {one.row.loss:.4g}")
    place, best = min(made, key=lambda one: (not one[1].row.within, one[1].row.loss, one[0]))
    history = [Trial(at, one.row.loss, one.row.within) for at, one in made]
    seconds = {id(plans[at]): latency.median for at, latency in timed.items()}
    rows = tuple(one.row for _, one in made)
    found = bool(within) and best.row.within
    why_not = "" if within else f"Of the plans that were timed none is within the limits ({job.limits})"
    return Searched(
        job, best.plan, best.evaluated, found, rows, front.table,
        front_rows(ladder, history, best.plan, plans, seconds), front.correction, why_not,
    )  # fmt: skip


def _timed_climb(job: Job, ladder: Ladder, plans: Sequence[Plan], floats: Floats) -> Finished:
    """The safest plan of the front that is within the limits at a quick look; its cost is a share of the limits."""
    original = original_figures(job, floats)
    seconds = 0.0 if original.seconds is None else original.seconds.value
    history = [Trial(len(ladder) - 1, job.limits.use(seconds, original.size), within=False)]
    most = Ascent().most
    state = Ascent().init(ladder, _LIMIT)
    after = trial_seconds(job) + acceptance_seconds(job)
    while isinstance(step := Ascent(most).propose(state, history), Attempt):
        done = len(history) - 1
        if done and job.deadline.stops(Stage.TIME, done, most, job.pace.each(Work.LOOK) + after):
            most = done
            continue
        plan = plans[step.place]
        seconds = 0.0 if job.limits.seconds is None else quick_seconds(job, plan)
        use = job.limits.use(seconds, job.conversions.of(plan).size)
        history.append(Trial(step.place, use, use <= _LIMIT))
        job.progress.say(f"{step.why}: {use:.0%} of the limits")
    return step


def _finalists(best: int, trials: int) -> list[int]:
    """The safest plan and its faster neighbours, and the fastest, which is the last resort."""
    return list(dict.fromkeys([*range(best, max(best - trials, -1), -1), 0]))


def _latencies(job: Job, site: Site, plans: Sequence[Plan], places: Sequence[int]) -> dict[int, Latency]:
    """Careful timings by place; none where no limit asks for them."""
    if job.limits.seconds is None:
        return {}

    def timed() -> dict[int, Latency]:
        candidates = [
            job.candidate(
                f"plan {place + 1}",
                job.candidate_file(f"final_{place}", job.conversions.of(plans[place])),
                site.name,
            )
            for place in places
        ]
        found = compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress).latencies
        return {place: found[f"plan {place + 1}"] for place in places}

    return job.journal.step("finals", ",".join(map(str, places)), dict[int, Latency], timed)


def _within(job: Job, plans: Sequence[Plan], places: Sequence[int], timed: dict[int, Latency]) -> list[int]:
    """Those of `places` to evaluate: within the limits with a margin, or else without one; the safest first."""
    sizes = {place: job.conversions.of(plans[place]).size for place in places}
    if not timed:
        sure = [place for place in places if job.limits.hold(0.0, sizes[place])]
    else:
        sure = [place for place in places if likely_within(job.limits, timed[place], sizes[place])] or [
            place for place in places if job.limits.hold(timed[place].median, sizes[place])
        ]
    return sure[: most_trials(job)]


def _said(job: Job, plan: Plan, latency: Latency | None) -> str:
    size = f"{job.conversions.of(plan).size:,} bytes"
    return size if latency is None else f"{latency.median * 1e3:.4g} ms, {size}"
