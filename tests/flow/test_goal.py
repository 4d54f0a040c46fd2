"""What can be asked for together, and what is said where it cannot."""

from __future__ import annotations

import pytest

import builders
import fewbits
from fewbits.budget import ANY_LOSS, Budget
from fewbits.errors import UsageError
from fewbits.flow.goals.goal import budget_of, check_goal
from fewbits.limits import UNLIMITED, Limits
from fewbits.verify.acceptance import Objective


def test_what_may_be_lost_where_nothing_is_said() -> None:
    assert budget_of(None, Objective.LATENCY) == budget_of(None, Objective.SIZE) == Budget.parse("1%")
    assert budget_of(None, Objective.ACCURACY) == ANY_LOSS
    assert budget_of("2%", Objective.ACCURACY) == Budget.parse("2%")


@pytest.mark.parametrize(
    ("objective", "max_loss", "limits", "target", "says"),
    [
        (Objective.ACCURACY, None, UNLIMITED, "auto", "--max-latency 5ms or --max-size 20MB"),
        (Objective.LATENCY, "any", UNLIMITED, "auto", "give --max-loss 1%"),
        (Objective.SIZE, "any", Limits(size=10), "auto", "--objective accuracy"),
        (Objective.THROUGHPUT, "1%", Limits(0.005, 10), "auto", "leave --max-latency out"),
        (Objective.LATENCY, "1%", Limits(0.005), "simulated:mpic", "leave --max-latency, --max-size"),
        (Objective.ACCURACY, None, Limits(size=10), "simulated:size", "name a runtime as --target"),
    ],
)
def test_what_does_not_go_together(
    objective: Objective, max_loss: str | None, limits: Limits, target: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_goal(objective, budget_of(max_loss, objective), limits, target)


@pytest.mark.parametrize("objective", list(Objective))
def test_limits_go_with_every_objective(objective: Objective) -> None:
    latency = None if objective is Objective.THROUGHPUT else 0.005
    check_goal(objective, Budget.parse("1%"), Limits(latency, 10**6), "auto")


@pytest.mark.parametrize(
    "options",
    [
        {"max_latency": "5"},
        {"max_latency": -0.001},
        {"max_latency": "5 parsecs"},
        {"max_size": "20"},
        {"max_size": 0},
        {"objective": "accuracy"},
        {"objective": "accuracy", "max_latency": "5ms", "max_loss": "-1%"},
    ],
)
def test_wrong_use_is_refused_before_anything_is_opened(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        fewbits.tune("absent.onnx", builders.images(8), **options)  # type: ignore[arg-type]
