"""What `tune` is asked to reach, checked before anything is opened."""

from __future__ import annotations

from fewbits.budget import ANY_LOSS, Budget
from fewbits.errors import UsageError
from fewbits.limits import Limits
from fewbits.targets import SIMULATED, is_simulated
from fewbits.targets.probe import checked_threads
from fewbits.verify.acceptance import Objective

_USUAL = Budget.parse("1%")
_ENERGY = "energy"


def objective_of(text: str) -> Objective:
    """The objective called `text`. Raises UsageError."""
    if text == _ENERGY:
        raise UsageError(
            "energy is not measured on this machine, but what a model of it predicts can be made small: leave the "
            f"objective out and give --target {SIMULATED}:{_ENERGY}"
        )
    try:
        return Objective(text)
    except ValueError as error:
        raise UsageError(f"unknown objective {text!r}; choose {' or '.join(Objective)}") from error


def budget_of(max_loss: str | float | Budget | None, objective: Objective) -> Budget:
    """The allowed loss; what is not said is 1 % of the original's score, or any if the least loss is asked for.

    Raises UsageError.
    """
    if max_loss is not None:
        return Budget.parse(max_loss)
    return ANY_LOSS if objective is Objective.ACCURACY else _USUAL


def streams_of(objective: Objective, streams: int, threads: int) -> int:
    """How many calls run at the same time when `objective` is measured, 0 where they run one after the other: for
    throughput `streams`, or one for each of `threads` (0: every core).

    Raises:
        UsageError: streams where throughput does not count, fewer than one, or more threads than cores.
    """
    if streams < 0:
        raise UsageError(f"{streams} streams asked for; give 1 or more")
    if objective is not Objective.THROUGHPUT:
        if streams:
            raise UsageError(
                f"streams are for the objective throughput; {objective} is measured one call at a time; leave "
                "--streams out, or give --objective throughput"
            )
        return 0
    return streams or checked_threads(threads)


def check_goal(objective: Objective, budget: Budget, limits: Limits, target: str) -> None:
    """Raise UsageError, with what to do, if these do not go together."""
    if is_simulated(target) and (limits.any or objective is Objective.ACCURACY):
        raise UsageError(
            f"{target} is not at hand, so neither a call's time nor a file's size can be measured there; leave "
            "--max-latency, --max-size and --objective accuracy out, or name a runtime as --target"
        )
    if objective is Objective.THROUGHPUT and limits.seconds is not None:
        raise UsageError(
            "calls that run at the same time wait for each other, so a limit of the latency of one says nothing where "
            "throughput is measured; leave --max-latency out, or choose --objective latency"
        )
    if objective is Objective.ACCURACY and not limits.any:
        raise UsageError(
            "the most accurate model is the original unless it may cost less; say how much with --max-latency 5ms or "
            "--max-size 20MB (max_latency=, max_size=), or choose --objective latency or size"
        )
    if objective is not Objective.ACCURACY and not budget.is_limit:
        raise UsageError(
            f"with --objective {objective} the allowed loss needs a limit; give --max-loss 1% (max_loss=), or ask for "
            "--objective accuracy with --max-latency or --max-size"
        )
