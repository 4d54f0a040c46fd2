from __future__ import annotations

import pytest

from fewbits.errors import UsageError
from fewbits.flow.goals.effort import FULL, Effort, Level


def test_as_users_give_it() -> None:
    assert Effort.parse(None, None) == FULL
    assert Effort.parse(3, "10m") == Effort(3, 600.0)
    assert Effort.parse(1, 90) == Effort(1, 90.0)
    assert Effort.parse(None, None, "high") == Effort(level=Level.HIGH)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match="choose low, medium, high"):
        Effort.parse(None, None, "extreme")


@pytest.mark.parametrize(
    ("trials", "time", "says"),
    [
        (0, None, "--max-trials.*cannot be 0; give 1 or more"),
        (-1, None, "--max-trials"),
        (True, None, "--max-trials"),
        (2.5, None, "--max-trials"),
        (None, "10", "it has no unit; .*90s, 10m or 2h"),
        (None, "-1m", "above 0"),
        (None, "soon", "the time limit"),
    ],
)
def test_what_is_no_effort(trials: int | None, time: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Effort.parse(trials, time)
