"""How well costs of single groups foretell whole plans: ``python benchmarks/cost_prediction.py [--only NAME]``.

For each model of the set and each runtime: the cost table; then plans drawn at random (each with its own share of
groups in each scheme that the runtime runs), predicted and timed end to end, one process each in rotating blocks.
Writes ``benchmarks/results/cost_prediction.json``: predicted and measured seconds of every plan, and their rank
correlation (Spearman) before and after a correction by the plans that tuning begins with and as many others as it looks
at on the front. The plans that are predicted had no part in the correction. ``--quick`` is a smoke run: few plans,
nothing stored.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scipy.stats import spearmanr

import minilm
import results
from fewbits.benchmark import Candidate, compare
from fewbits.budget import Budget
from fewbits.console import stderr_progress
from fewbits.costs.correction import Correction
from fewbits.costs.place import default_path
from fewbits.flow.allocating import Costing
from fewbits.flow.calibrate import calibrate
from fewbits.flow.floats import time_floats
from fewbits.flow.job import Job, Wish
from fewbits.flow.looks import Look, correction
from fewbits.flow.placing import place
from fewbits.flow.pricing import price
from fewbits.flow.remedies.smooth import smooth
from fewbits.flow.scratch import scratch_folder
from fewbits.flow.setup import Request, open_request
from fewbits.flow.site import Site
from fewbits.formats.scheme import FP32, Scheme
from fewbits.plan import Plan
from fewbits.progress import Progress
from fewbits.store import Run
from fewbits.targets import TARGETS
from fewbits.targets.probe import this_machine
from fewbits.verify.acceptance import Objective
from results import Foretold, Prediction, Taken
from suite import SUITE, THREADS, Member

PLANS = 12
LOOKS = 8
"""As many as tuning takes at plans on the predicted front."""


def measure(member: Member, target: str, folder: Path, count: int, progress: Progress) -> Prediction:
    """`count` random plans of `member` on `target`."""
    request = Request(
        data=member.data(folder),
        calibration=member.calibration(folder),
        evaluate="cosine",
        higher_is_better=None,
        budget=Budget.parse(1.0),
        objective=Objective.LATENCY,
        target=target,
        threads=THREADS,
        batch=1,
        calibration_method="minmax",
        rules=(),
        images=None,
        seed=0,
        cache=default_path({}, Path.home()),
    )
    with scratch_folder() as scratch:
        opened = open_request(member.model(folder), request, progress)
        job = opened.job(Run.in_memory(), scratch, progress)
        job = smooth(job)
        job = replace(job, sites=price(job))
        (site,) = job.sites
        ranges = calibrate(job)["minmax"]
        placed = place(job, time_floats(job), lambda one, asked: job.plan(one, asked, ranges, "minmax"))
        drawn = [_drawn(job, site, ranges, seed) for seed in range(count + LOOKS)]
        times = _timed(job, site, drawn, progress)
        seen = [_looked(plan, seconds) for plan, seconds in zip(drawn[count:], times[count:], strict=True)]
        corrected = correction(job, site, [*placed.looks.values(), *seen])
        plans, measured = drawn[:count], times[:count]
        costing = Costing(job, site)
        foretold = tuple(
            _foretold(costing, plan, seconds, corrected) for plan, seconds in zip(plans, measured, strict=True)
        )
    return Prediction(
        name=member.name,
        title=member.title,
        target=target,
        regions=site.costs.measured + site.costs.known,
        corrected_by=corrected.plans,
        plain=_rank([one.plain for one in foretold], measured),
        corrected=_rank([one.corrected for one in foretold], measured),
        plans=foretold,
        taken=Taken.now(this_machine(results.PACKAGES)),
    )


def _drawn(job: Job, site: Site, ranges: Mapping[str, tuple[float, float]], seed: int) -> Plan:
    """A plan whose schemes have shares of their own, so that plans differ in time as they would in a search."""
    draw = random.Random(seed)
    options = dict.fromkeys(str(scheme) for schemes in site.space.schemes.values() for scheme in schemes)
    # fp16 and formats of weights alone, where they are many times slower, would hide what the others do.
    weight = {option: draw.expovariate(1.0) * (1.0 if _common(option) else 0.05) for option in options}
    together = {second: first for first, second in Costing(job, site).together}
    drawn: dict[str, str] = {}
    for name in sorted(site.space.free):
        offered = [str(scheme) for scheme in site.space.schemes[name]]
        (drawn[name],) = draw.choices(offered, [weight[one] for one in offered])
    for second, first in together.items():
        if drawn[first] in map(str, site.space.schemes[second]):
            drawn[second] = drawn[first]
    asked = {name: Wish(Scheme.parse(one), "drawn") for name, one in drawn.items() if one != str(FP32)}
    return job.plan(site, asked, ranges, "minmax")


def _common(option: str) -> bool:
    scheme = Scheme.parse(option)
    return scheme.is_fp32 or scheme.is_static or scheme.dynamic or option == "bf16"


def _timed(job: Job, site: Site, plans: list[Plan], progress: Progress) -> list[float]:
    candidates = [
        Candidate(f"plan {number}", job.candidate_file(f"plan_{number}", job.conversions.of(plan)), site.name, THREADS)
        for number, plan in enumerate(plans)
    ]
    comparison = compare(candidates, job.inputs, rounds=6, looks=1, block_seconds=0.15, progress=progress)
    baseline = comparison.latencies["plan 0"].median
    ratios = [1.0, *(comparison.speedups[one.name].value for one in candidates[1:])]
    return [baseline / ratio for ratio in ratios]


def _looked(plan: Plan, seconds: float) -> Look:
    return Look(plan.target, {name: str(plan.scheme(name)) for name in sorted(plan.low)}, seconds)


def _foretold(costing: Costing, plan: Plan, measured: float, correction: Correction) -> Foretold:
    choice = {name: str(plan.scheme(name)) for name in costing.names}
    counts: dict[str, int] = {}
    for option in choice.values():
        counts[option] = counts.get(option, 0) + 1
    plain = costing.seconds(Correction()).value(choice)
    return Foretold(counts, plain, costing.seconds(correction).value(choice), measured)


def _rank(predicted: list[float], measured: list[float]) -> float:
    return float(spearmanr(predicted, measured).statistic)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Predicted against measured times of random plans.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where models.py put them (%(default)s)")
    parser.add_argument("--only", choices=tuple(SUITE), action="append", help="only this model; may be repeated")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this runtime; may be repeated")
    parser.add_argument("--quick", action="store_true", help="smoke run: four plans, nothing stored")
    options = parser.parse_args()
    for name in options.only or SUITE:
        for target in options.target or TARGETS:
            with stderr_progress() as progress:
                row = measure(SUITE[name], target, options.dir, 4 if options.quick else PLANS, progress)
            print(f"{row.title} on {target}: rank correlation {row.plain:.2f}, corrected {row.corrected:.2f}")
            if not options.quick:
                results.add_prediction(row)


if __name__ == "__main__":
    main()
