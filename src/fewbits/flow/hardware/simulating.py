"""The stages for hardware that is not at hand: accuracy is measured by emulation, costs are a model's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fewbits.evaluation import Scores
from fewbits.flow.accepting import Decision, all_float, measure_accuracy, refuse
from fewbits.flow.floats import Floats
from fewbits.flow.hardware.forecast import Forecast, Schemes
from fewbits.flow.hardware.widths import WidthRanges, calibrate_widths
from fewbits.flow.job import Job, Wish
from fewbits.flow.ranking import harms
from fewbits.flow.searching import Searched, descend, front_rows, likely
from fewbits.flow.site import Site
from fewbits.flow.time.schedule import Punctual, most_trials
from fewbits.formats.scheme import FP32, Scheme
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.search.problem import Rung
from fewbits.verify.acceptance import predicted_verdict


@dataclass(frozen=True)
class _Planner:
    """Makes plans for `site`."""

    job: Job
    site: Site
    ranges: WidthRanges

    def plan(self, schemes: Schemes) -> Plan:
        """The groups of `schemes` in them, the rest in fp32."""
        wishes = {name: Wish(scheme, _why(scheme)) for name, scheme in schemes.items()}
        return self.job.plan(self.site, wishes, self.ranges.of(schemes), self.ranges.text)

    def of(self, rung: Rung) -> Plan:
        """The plan of `rung`."""
        return self.plan({name: Scheme.parse(option) for name, option in rung.choice.items()})


def simulate(job: Job, evaluate: Callable[[Job], Scores]) -> Decision:
    """The stages in order: costs, baseline (`evaluate`), calibrate, rank, search, accept. `job` has one site, which is
    simulated."""
    forecast = Forecast.of(job)
    site = forecast.site
    job = replace(job, sites=(site,))
    if not forecast.options:
        return refuse(job, Floats(site.name))
    baseline = evaluate(job)
    planner = _Planner(job, site, calibrate_widths(job, site))
    return _accept(job, forecast, _search(job, forecast, planner, baseline), baseline)


def _search(job: Job, forecast: Forecast, planner: _Planner, baseline: Scores) -> Searched:
    table = harms(job, _low(forecast.options), planner.plan)
    job.progress.stage("trace the front")
    ladder = forecast.ladder(table)
    plans = [planner.of(rung) for rung in ladder]
    strategy = Punctual(job, most_trials(job))
    job.progress.stage("evaluate plans", strategy.most)
    descended = descend(
        job, ladder, plans, baseline, strategy, holds=lambda made: likely(job, baseline, made.evaluated)
    )
    within = [one for one in descended.made if one.row.within]
    best = descended.best
    if not descended.found and within:
        # Too few samples for a margin: the safest then.
        best = min(within, key=lambda one: one.row.loss)
    rows = front_rows(ladder, descended.history, best.plan, plans, {})
    return Searched(
        job,
        best.plan,
        best.evaluated,
        bool(within),
        tuple(one.row for one in descended.made),
        table,
        rows if forecast.knows_original else rows[:-1],
    )


def _low(options: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[Scheme, ...]]:
    return {
        name: tuple(Scheme.parse(option) for option in sorted(offered) if option != str(FP32))
        for name, offered in options.items()
    }


def _accept(job: Job, forecast: Forecast, searched: Searched, baseline: Scores) -> Decision:
    """Measure the accuracy of what the search found by emulation, and decide."""
    site = forecast.site
    artifact = job.conversions.of(searched.plan)
    job.progress.stage("evaluate for acceptance", 1)
    accuracy, evaluations = measure_accuracy(job, site, searched, artifact, baseline)
    job.progress.advance(f"loss {accuracy.loss.value:.4g}")
    costs = forecast.costs({name: searched.plan.scheme(name) for name in searched.plan.low})
    ended = predicted_verdict(accuracy, costs[0])
    outcome, reason = ended.outcome, ended.reason
    if not searched.found:
        outcome = Outcome.BUDGET_UNREACHABLE
        reason = (
            f"On the selection data every plan that was tried loses more than the allowed {job.budget}. "
            f"The closest on the acceptance data: {ended.reason}"
        )
    met, unreachable = outcome is Outcome.MET, outcome is Outcome.BUDGET_UNREACHABLE
    return Decision(
        outcome=outcome,
        reason=reason,
        artifact=artifact if met else job.model.original(),
        plan=searched.plan if met else all_float(job, site, Floats(site.name), reason, searched.plan.choices),
        target=site.name,
        site=site,
        floats=Floats(site.name),
        table=searched.table,
        trials=searched.trials,
        front=searched.front,
        accuracy=accuracy,
        predicted=costs,
        calibration=searched.plan.calibration,
        tuned_bytes=artifact.size,
        most_trials=most_trials(job),
        evaluations=job.baseline_evaluations + len(searched.trials) + evaluations,
        best=artifact if unreachable else None,
        best_plan=searched.plan if unreachable else None,
        notes=_notes(forecast),
    )


def _notes(forecast: Forecast) -> tuple[str, ...]:
    uncounted = ", ".join(forecast.uncounted)
    return (
        f"Costs are predicted by the cost model {forecast.name}, not measured; products alone are counted. Accuracy is "
        "measured, by emulation.",
        "The model of this run is float32 with rounding in it: its own speed and size say nothing about the hardware.",
        "A plan was taken only if its loss on the selection data with one standard error added is within the budget, "
        "where there were samples enough to tell.",
        *((f"Not counted, because they stay in fp32, for which it has no cost: {uncounted}.",) if uncounted else ()),
    )


def _why(scheme: Scheme) -> str:
    if scheme.is_fp32:
        return "fp32 here is what the accuracy budget buys at the least cost, by the predicted front"
    return "the fewest bits here that are worth their predicted harm"
