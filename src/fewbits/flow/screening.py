"""Groups whose low form did not run as such, or is slower than fp32 where it stands, go back to fp32.

Slower groups stay low where bytes count. Times come from the runtime's own profile of
the whole model, so fusions and boundaries are those that are served; because such figures do not add
up exactly, the screened plan must win end to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.attribution import Share, attribute
from fewbits.benchmark import compare
from fewbits.flow.job import Job, asked
from fewbits.flow.site import Site
from fewbits.flow.time.pace import Work
from fewbits.flow.time.schedule import screening_fits
from fewbits.formats.scheme import Scheme
from fewbits.models.protocol import Artifact
from fewbits.plan import Plan
from fewbits.verify.acceptance import is_faster

_PROFILED_CALLS = 20
_MARGIN = 1.15
_ROUNDS = 8
_FLOATS = ("fp16", "tf32", "fp32", "fp64")


@dataclass(frozen=True, slots=True)
class Screened:
    """What screening found: group → share of both profiles, the groups to revert, and why."""

    original: Mapping[str, Share]
    low: Mapping[str, Share]
    reverted: Mapping[str, str]


def profile(job: Job, site: Site, name: str, artifact: Artifact) -> Mapping[str, Share]:
    """Group → what ran for it when `artifact` is called on `site`."""
    return job.journal.step(
        "profile",
        name,
        dict[str, Share],
        lambda: job.pace.timed(Work.PROFILE, lambda: _profile(job, site, artifact)),
    )


def screen(job: Job, site: Site, plan: Plan) -> Screened:
    """Compare the profiles of the original and of `plan`; keep what they suggest if it is faster end to end."""
    job.progress.stage("profile groups", 2)
    original = profile(job, site, "original", job.model.original())
    job.progress.advance()
    low = profile(job, site, "placed", job.conversions.of(plan))
    job.progress.advance()
    ignored = not_executed(plan, low)
    slower = {} if job.slower_may_pay else _slower(plan, original, low, ignored)
    fits = bool(slower) and screening_fits(job, _ROUNDS)
    pays = fits and job.journal.step("profile", "screened is faster", bool, lambda: _pays(job, site, plan, slower))
    return Screened(original, low, {**ignored, **slower} if pays else ignored)


def shares(job: Job, site: Site, plan: Plan) -> Screened:
    """Both profiles for a `plan` that came about on another runtime than what was screened; nothing is reverted."""
    original = profile(job, site, f"original on {site.name}", job.model.original())
    return Screened(original, profile(job, site, f"low on {site.name}", job.conversions.of(plan)), {})


def _slower(
    plan: Plan, original: Mapping[str, Share], low: Mapping[str, Share], ignored: Mapping[str, str]
) -> Mapping[str, str]:
    """The groups whose profile shows them slower in low precision, and by how much."""
    return {
        name: f"slower in low precision: {low[name].seconds * 1e6:.0f} us against {original[name].seconds * 1e6:.0f} us"
        for name in sorted(plan.low)
        if name not in ignored
        and name in low
        and name in original
        and low[name].seconds > _MARGIN * original[name].seconds > 0
    }


def not_executed(plan: Plan, shares: Mapping[str, Share]) -> Mapping[str, str]:
    """The groups that `plan` has in low precision but the runtime ran in float, with the kernel that it used."""
    return {
        name: f"the runtime ran it in {shares[name].precision} ({shares[name].kernel}), against the plan"
        for name in sorted(plan.low)
        if name in shares and not _as_planned(plan.scheme(name), shares[name].precision)
    }


def _as_planned(scheme: Scheme, precision: str) -> bool:
    """A weight in codes alone is multiplied in floats; anything else in wider floats than its own is against the plan.
    Where codes have ranges beforehand, what is between bf16 layers may run in bf16."""
    if scheme.is_weight_only or str(scheme) == precision:
        return True
    return precision not in (*_FLOATS, *(() if scheme.is_static else ("bf16",)))


def _pays(job: Job, site: Site, plan: Plan, slower: Mapping[str, str]) -> bool:
    screened = job.plan(site, asked(plan, slower), plan.ranges, plan.calibration)
    if not screened.low:
        # Without them it is the original, which the placement was timed against already.
        return False
    count = "1 group looks" if len(slower) == 1 else f"{len(slower)} groups look"
    job.progress.say(f"{count} slower in low precision; timing the model without")
    files = {
        "placed": job.candidate_file("placed", job.conversions.of(plan)),
        "screened": job.candidate_file("screened", job.conversions.of(screened)),
    }
    candidates = [job.candidate(name, file, site.name) for name, file in files.items()]
    comparison = compare(candidates, job.inputs, rounds=_ROUNDS, looks=1, progress=job.progress)
    return is_faster(comparison.speedups["screened"])


def _profile(job: Job, site: Site, artifact: Artifact) -> dict[str, Share]:
    job.original.rest()
    executed = site.target.executed(artifact, job.inputs, _PROFILED_CALLS)
    return dict(attribute(job.graph, job.groups, executed))
