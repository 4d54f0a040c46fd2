"""The last stage: the plan that the search found, on data and in a measurement that nothing was chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewbits.attribution import Share
from fewbits.benchmark import Candidate, compare
from fewbits.costs.correction import Correction
from fewbits.evaluation import Scores
from fewbits.flow.floats import Floats
from fewbits.flow.job import EVALUATION_BATCH, Job
from fewbits.flow.names import ORIGINAL, TUNED
from fewbits.flow.remedies.tried import Remedies
from fewbits.flow.screening import Screened, not_executed, profile
from fewbits.flow.searching import Searched
from fewbits.flow.sessions import predictor
from fewbits.flow.site import Site
from fewbits.flow.time.schedule import most_trials, tell
from fewbits.formats.scheme import FP32
from fewbits.measurement import Comparison, MemoryComparison
from fewbits.memory import compare_memory
from fewbits.models.protocol import Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Choice, Plan
from fewbits.record import Accuracy, Explanation, FrontRow, PredictedCost, TrialRow
from fewbits.search.descent import Descent
from fewbits.sensitivity.table import SensitivityTable
from fewbits.verify.acceptance import Objective, compare_accuracy, verdict
from fewbits.verify.within import Figures, Limited


@dataclass(frozen=True)
class Decision:
    """How a run ends: what is returned, under which plan, and the figures that say why.

    `best` is the closest model where no plan was within the budget, with `best_plan`. `tuned_bytes` is the size of
    the converted model that was measured, also where the original is returned. `target` is the runtime that serves
    what is returned, `site` the one that the search was on. `evaluations` counts those of the original, of the trials
    (each counts, however early it was stopped), and of the acceptance; `most_trials` is what the search could take.
    Where the target is simulated, `predicted` has the costs, the one that was made small first. `remedies` are all that
    were tried.
    """

    outcome: Outcome
    reason: str
    artifact: Artifact
    plan: Plan
    target: str
    site: Site
    floats: Floats
    executed: Mapping[str, Share] = field(default_factory=dict)
    original_shares: Mapping[str, Share] = field(default_factory=dict)
    low_shares: Mapping[str, Share] = field(default_factory=dict)
    table: SensitivityTable = field(default_factory=lambda: SensitivityTable({}))
    trials: tuple[TrialRow, ...] = ()
    front: tuple[FrontRow, ...] = ()
    accuracy: Accuracy | None = None
    comparison: Comparison | None = None
    memory: MemoryComparison | None = None
    plans: Comparison | None = None
    correction: Correction = field(default_factory=Correction)
    predicted: tuple[PredictedCost, ...] = ()
    calibration: str = ""
    tuned_bytes: int = 0
    evaluations: int = 0
    most_trials: int = Descent().most
    best: Artifact | None = None
    best_plan: Plan | None = None
    notes: tuple[str, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    remedies: Remedies = field(default_factory=dict)

    @property
    def objective(self) -> str:
        """What was made small on hardware that is not at hand; "" where a runtime is."""
        return next((f"{cost.unit}, predicted by {cost.model}" for cost in self.predicted), "")


def refuse(job: Job, floats: Floats) -> Decision:
    """The original comes back without a search, because no group can leave fp32."""
    site = job.home(floats.fastest)
    return Decision(
        outcome=Outcome.KEPT_ORIGINAL,
        reason=f"no group of this model can leave fp32 on {_listed(job)}{on_fastest(floats)}",
        artifact=job.original_on(floats.fastest),
        plan=job.plan(site, {}, {}, ""),
        target=floats.fastest,
        site=site,
        floats=floats,
        tuned_bytes=job.original_on(floats.fastest).size,
    )


def decline(job: Job, site: Site, floats: Floats, reason: str, comparison: Comparison, screened: Screened) -> Decision:
    """The original comes back without a search, because of `reason`."""
    return Decision(
        outcome=Outcome.KEPT_ORIGINAL,
        reason=f"{reason}{on_fastest(floats)}",
        artifact=job.original_on(floats.fastest),
        plan=all_float(job, site, floats, reason, {}),
        target=floats.fastest,
        site=site,
        floats=floats,
        executed=_original_on_fastest(job, site, floats, screened),
        original_shares=screened.original,
        low_shares=screened.low,
        comparison=comparison,
        tuned_bytes=job.original_on(floats.fastest).size,
        evaluations=job.baseline_evaluations,
    )


def accept(job: Job, site: Site, floats: Floats, searched: Searched, baseline: Scores, screened: Screened) -> Decision:
    """Measure accuracy and latency of what the search found, and decide."""
    artifact = job.conversions.of(searched.plan)
    original = job.original_on(floats.fastest)
    tell(job, 0)
    job.progress.stage("evaluate for acceptance", 1)
    accuracy, evaluations = measure_accuracy(job, site, searched, artifact, baseline)
    job.progress.advance(f"loss {accuracy.loss.value:.4g}")
    comparison = job.journal.step("acceptance", "latency", Comparison, lambda: _latency(job, site, floats, artifact))
    memory = None
    if job.objective is Objective.MEMORY:
        memory = job.journal.step(
            "acceptance",
            "memory",
            MemoryComparison,
            lambda: compare_memory(_candidates(job, site, floats, artifact), job.inputs, progress=job.progress),
        )
    limited = Limited(
        job.limits,
        Figures.of(comparison.latencies[ORIGINAL], original.size),
        Figures.of(comparison.latencies[TUNED], artifact.size),
    )
    ended = verdict(job.objective, accuracy, comparison.speedups[TUNED], original.size, artifact.size, limited, memory)
    outcome, reason = ended.outcome, ended.reason
    if outcome is Outcome.KEPT_ORIGINAL:
        reason = f"{reason.rstrip('.')}{on_fastest(floats)}."
    if not searched.found:
        outcome = Outcome.BUDGET_UNREACHABLE
        why_not = searched.why_not or (
            f"On the selection data every plan that was tried loses more than the allowed {job.budget}"
            f"{f' or is beyond the limits ({job.limits})' if job.limits.any else ''}"
        )
        reason = f"{why_not}. The closest on the acceptance data: {ended.reason}"
    met = outcome is Outcome.MET
    shares = profile(job, site, "accepted", artifact) if met else _original_on_fastest(job, site, floats, screened)
    unmet = not_executed(searched.plan, shares) if met else {}
    unreachable = outcome is Outcome.BUDGET_UNREACHABLE
    return Decision(
        outcome=outcome,
        reason=reason,
        artifact=artifact if met else original,
        plan=searched.plan if met else all_float(job, site, floats, reason, searched.plan.choices),
        target=site.name if met else floats.fastest,
        site=site,
        floats=floats,
        executed=shares,
        original_shares=screened.original,
        low_shares=screened.low,
        table=searched.table,
        trials=searched.trials,
        front=searched.front,
        accuracy=accuracy,
        comparison=comparison,
        memory=memory,
        calibration=searched.plan.calibration,
        tuned_bytes=artifact.size,
        evaluations=job.baseline_evaluations + len(searched.trials) + evaluations,
        best=artifact if unreachable else None,
        best_plan=searched.plan if unreachable else None,
        most_trials=most_trials(job),
        notes=tuple(f"{name}: {why}" for name, why in unmet.items()),
    )


def measure_accuracy(
    job: Job, site: Site, searched: Searched, artifact: Artifact, baseline: Scores
) -> tuple[Accuracy, int]:
    """The accuracy of `artifact` on the acceptance split, and how many evaluations that took."""
    evaluator, split = job.evaluator, job.splits.acceptance
    if not evaluator.uses_split:
        # The function scores its own data: asking again would give the same numbers at the same price.
        name, direction = evaluator.name, evaluator.direction
        return compare_accuracy(name, direction, baseline, searched.evaluated.scores, job.budget), 0

    def tuned() -> Scores:
        job.original.rest()
        with site.target.open(artifact) as session:
            return evaluator(predictor(session, job.model.inputs), split, EVALUATION_BATCH)

    before = job.journal.step("acceptance", ORIGINAL, Scores, lambda: evaluator(job.original, split, EVALUATION_BATCH))
    after = job.journal.step("acceptance", TUNED, Scores, tuned)
    return compare_accuracy(evaluator.name, evaluator.direction, before, after, job.budget), 2


def _latency(job: Job, site: Site, floats: Floats, artifact: Artifact) -> Comparison:
    return compare(_candidates(job, site, floats, artifact), job.inputs, progress=job.progress)


def _candidates(job: Job, site: Site, floats: Floats, artifact: Artifact) -> list[Candidate]:
    return [
        job.candidate(ORIGINAL, job.original_file(floats.fastest), floats.fastest),
        job.candidate(TUNED, job.candidate_file(TUNED, artifact), site.name),
    ]


def _original_on_fastest(job: Job, site: Site, floats: Floats, screened: Screened) -> Mapping[str, Share]:
    """What ran for each group of the original on the runtime that will serve it."""
    if floats.fastest == site.name:
        return screened.original
    if job.home(floats.fastest).name != floats.fastest:
        # Its nodes are those of another graph, which has no groups here.
        return {}
    return profile(job, job.site(floats.fastest), f"original on {floats.fastest}", job.model.original())


def all_float(job: Job, site: Site, floats: Floats, reason: str, tried: Mapping[str, Choice]) -> Plan:
    """Every group in fp32: those that `tried` has there already keep their own reason, the others have `reason`."""
    own = {name: choice.reason for name, choice in tried.items() if choice.scheme == str(FP32)}
    free = site.space.free
    choices = {
        group.name: Choice(
            str(FP32),
            own.get(group.name, reason) if group.name in free else job.why_not(site, group.name, {}),
        )
        for group in job.groups
    }
    return Plan(job.model.sha256, choices, {}, target=floats.fastest)


def _listed(job: Job) -> str:
    return " or ".join(job.runtimes)


def on_fastest(floats: Floats) -> str:
    """What a change of runtime alone gives, where there was a choice."""
    for comparison in floats.comparisons:
        fastest = comparison.latencies[floats.fastest]
        slowest = max(comparison.latencies.values(), key=lambda latency: latency.median)
        gain = slowest.median / fastest.median
        return f". Serve it on {floats.fastest}, where it has {gain:.2f}x its speed on {slowest.name}"
    return ""
