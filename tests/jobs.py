"""A job to try single stages on: a small model opened as `fewbits.tune` would open it, with its journal in memory."""

from __future__ import annotations

from pathlib import Path

from fewbits.budget import Budget
from fewbits.data import DataSource
from fewbits.flow.job import Job
from fewbits.flow.setup import Opened, Request, open_request
from fewbits.models import ModelSource
from fewbits.progress import Silent
from fewbits.space import Rule
from fewbits.store import Journal
from fewbits.store.journal import MemoryLines
from fewbits.verify.acceptance import Objective
from fewbits.verify.evaluators import EvaluateFunction


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
) -> Opened:
    """What `open_request` makes of these."""
    request = Request(
        data,
        calibration,
        evaluate,
        higher_is_better,
        Budget.parse(max_loss),
        objective,
        "auto",
        threads,
        batch,
        calibration_method,
        rules,
        None,
        seed,
    )
    return open_request(model, request, Silent())


def job(one: Opened, scratch: Path) -> Job:
    """A job with an empty journal."""
    return one.job(Journal(MemoryLines()), scratch, Silent())
