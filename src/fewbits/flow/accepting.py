"""The last stage: the plan that the search found, on data and in a measurement that nothing was chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewbits.attribution import Share
from fewbits.benchmark import Candidate, compare
from fewbits.evaluation import Scores
from fewbits.flow.job import EVALUATION_BATCH, Job
from fewbits.flow.placing import ORIGINAL
from fewbits.flow.screening import Screened, not_executed, profile
from fewbits.flow.searching import Searched
from fewbits.flow.sessions import predictor
from fewbits.formats.scheme import FP32
from fewbits.measurement import Comparison
from fewbits.models.protocol import Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Choice, Plan
from fewbits.record import Accuracy, TrialRow
from fewbits.verify.acceptance import compare_accuracy, verdict

TUNED = "tuned"


@dataclass(frozen=True)
class Decision:
    """How a run ends: what is returned, under which plan, and the figures that say why.

    `best` is the closest model where no plan was within the budget, with `best_plan`. `tuned_bytes` is the size of
    the converted model that was measured, also where the original is returned. `evaluations` counts full ones: of
    the original, of the trials, and of the acceptance.
    """

    outcome: Outcome
    reason: str
    artifact: Artifact
    plan: Plan
    low_groups: int
    executed: Mapping[str, Share] = field(default_factory=dict)
    original_shares: Mapping[str, Share] = field(default_factory=dict)
    low_shares: Mapping[str, Share] = field(default_factory=dict)
    harm: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[TrialRow, ...] = ()
    accuracy: Accuracy | None = None
    comparison: Comparison | None = None
    calibration: str = ""
    tuned_bytes: int = 0
    evaluations: int = 0
    best: Artifact | None = None
    best_plan: Plan | None = None
    notes: tuple[str, ...] = ()


def refuse(job: Job) -> Decision:
    """The original comes back without any measurement, because no group can leave fp32."""
    return Decision(
        outcome=Outcome.KEPT_ORIGINAL,
        reason="no group of this model can leave fp32 on this target",
        artifact=job.model.original(),
        plan=job.plan(dict.fromkeys(job.space.low, ""), {}, ""),
        low_groups=0,
        tuned_bytes=job.model.original().size,
    )


def decline(job: Job, reason: str, comparison: Comparison, screened: Screened) -> Decision:
    """The original comes back without a search, because of `reason`."""
    return Decision(
        outcome=Outcome.KEPT_ORIGINAL,
        reason=reason,
        artifact=job.model.original(),
        plan=_all_float(job, reason, {}),
        low_groups=0,
        executed=screened.original,
        original_shares=screened.original,
        low_shares=screened.low,
        comparison=comparison,
        tuned_bytes=job.model.original().size,
        evaluations=job.baseline_evaluations,
    )


def accept(job: Job, searched: Searched, baseline: Scores, screened: Screened) -> Decision:
    """Measure accuracy and latency of what the search found, and decide."""
    artifact = job.conversions.of(searched.plan)
    original = job.model.original()
    job.progress.stage("evaluate for acceptance", 1)
    accuracy, evaluations = _accuracy(job, searched, artifact, baseline)
    job.progress.advance(f"loss {accuracy.loss.value:.4g}")
    comparison = job.journal.step("acceptance", "latency", Comparison, lambda: _latency(job, artifact))
    ended = verdict(job.objective, accuracy, comparison.speedups[TUNED], original.size, artifact.size)
    outcome, reason = ended.outcome, ended.reason
    if not searched.found:
        outcome = Outcome.BUDGET_UNREACHABLE
        reason = (
            f"On the selection data every plan that was tried loses more than the allowed {job.budget}. "
            f"The closest on the acceptance data: {ended.reason}"
        )
    met = outcome is Outcome.MET
    shares = profile(job, "accepted", artifact) if met else screened.original
    unmet = not_executed(searched.plan, shares) if met else {}
    unreachable = outcome is Outcome.BUDGET_UNREACHABLE
    return Decision(
        outcome=outcome,
        reason=reason,
        artifact=artifact if met else original,
        plan=searched.plan if met else _all_float(job, reason, searched.plan.choices),
        low_groups=searched.start_groups,
        executed=shares,
        original_shares=screened.original,
        low_shares=screened.low,
        harm=searched.harm,
        trials=searched.trials,
        accuracy=accuracy,
        comparison=comparison,
        calibration=searched.plan.calibration,
        tuned_bytes=artifact.size,
        evaluations=job.baseline_evaluations + len(searched.trials) + evaluations,
        best=artifact if unreachable else None,
        best_plan=searched.plan if unreachable else None,
        notes=tuple(f"{name}: {why}" for name, why in unmet.items()),
    )


def _accuracy(job: Job, searched: Searched, artifact: Artifact, baseline: Scores) -> tuple[Accuracy, int]:
    evaluator, split = job.evaluator, job.splits.acceptance
    if not evaluator.uses_split:
        # The function scores its own data: asking again would give the same numbers at the same price.
        name, direction = evaluator.name, evaluator.direction
        return compare_accuracy(name, direction, baseline, searched.scores, job.budget), 0

    def tuned() -> Scores:
        with job.target.open(artifact) as session:
            return evaluator(predictor(session, job.model.inputs), split, EVALUATION_BATCH)

    before = job.journal.step("acceptance", ORIGINAL, Scores, lambda: evaluator(job.original, split, EVALUATION_BATCH))
    after = job.journal.step("acceptance", TUNED, Scores, tuned)
    return compare_accuracy(evaluator.name, evaluator.direction, before, after, job.budget), 2


def _latency(job: Job, artifact: Artifact) -> Comparison:
    target, threads = job.target.name, job.target.threads
    files = {
        ORIGINAL: job.candidate_file(ORIGINAL, job.model.original().content),
        TUNED: job.candidate_file(TUNED, artifact.content),
    }
    candidates = [Candidate(name, file, target, threads) for name, file in files.items()]
    return compare(candidates, job.inputs, progress=job.progress)


def _all_float(job: Job, reason: str, tried: Mapping[str, Choice]) -> Plan:
    """Every group in fp32: those that `tried` has there already keep their own reason, the others have `reason`."""
    own = {name: choice.reason for name, choice in tried.items() if choice.scheme == str(FP32)}
    choices = {
        group.name: Choice(
            str(FP32), own.get(group.name, reason) if group.name in job.space.low else job.why_not(group.name, {})
        )
        for group in job.groups
    }
    return Plan(job.model.sha256, choices, {}, target=job.target.name)
