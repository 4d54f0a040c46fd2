"""A job to try single stages on: a small model opened as `fewbits.tune` would open it, with its journal in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fewbits.budget import Budget
from fewbits.costs.place import default_path
from fewbits.data import DataSource
from fewbits.flow.goals.effort import FULL, Effort
from fewbits.flow.job import Asked, Job, Wish
from fewbits.flow.pricing import price
from fewbits.flow.remedies.smooth import smooth
from fewbits.flow.setup import Opened, Request, open_request
from fewbits.flow.site import Site
from fewbits.limits import UNLIMITED, Limits
from fewbits.models import ModelSource
from fewbits.progress import Progress, Silent
from fewbits.space import Rule
from fewbits.store import Run
from fewbits.verify.acceptance import Objective
from fewbits.verify.evaluators import EvaluateFunction

_SILENT = Silent()


def opened(
    model: ModelSource,
    data: DataSource,
    *,
    calibration: DataSource | None = None,
    evaluate: str | EvaluateFunction = "cosine",
    higher_is_better: bool | None = None,
    max_loss: str | float = "1%",
    objective: Objective = Objective.LATENCY,
    threads: int = 1,
    batch: int = 1,
    calibration_method: str = "minmax",
    rules: tuple[Rule, ...] = (),
    seed: int = 0,
    target: str = "onnxruntime",
    sensitivity: str = "auto",
    streams: int = 0,
    progress: Progress = _SILENT,
    limits: Limits = UNLIMITED,
    effort: Effort = FULL,
) -> Opened:
    """What `open_request` makes of these; on one runtime, unless `target` is ``auto``."""
    request = Request(
        data,
        calibration,
        evaluate,
        higher_is_better,
        Budget.parse(max_loss),
        objective,
        target,
        threads,
        batch,
        calibration_method,
        rules,
        None,
        seed,
        default_path(os.environ, Path.home()),
        limits,
        effort,
        sensitivity,
        streams,
    )
    return open_request(model, request, progress)


def job(one: Opened, scratch: Path) -> Job:
    """A job with an empty journal."""
    return one.job(Run.in_memory(), scratch, Silent())


def site(one: Job) -> Site:
    """The only runtime of `one`."""
    (only,) = one.sites
    return only


def wishes(one: Job, names: Iterable[str] | None = None, why: str = "it pays", at: Site | None = None) -> Asked:
    """Codes for the groups `names`, or for all that may have them `at` a runtime."""
    coded = (site(one) if at is None else at).space.coded
    return {name: Wish(coded[name], why) for name in (coded if names is None else names)}


def priced(one: Opened, scratch: Path) -> Job:
    """A job whose costs are known: measured, unless a test has made them up (`timing.Timing`)."""
    whole = smooth(job(one, scratch))
    return replace(whole, sites=price(whole))
