"""How much a run may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fewbits.amounts import DURATION
from fewbits.errors import UsageError


@dataclass(frozen=True, slots=True)
class Effort:
    """At most so many `trials` (plans that the search evaluates), about so many `seconds` from start to end; ``None``:
    as many as the search is made for, as long as it takes."""

    trials: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, trials: int | None, time: str | float | None) -> Effort:
        """Read a number of trials, and ``"10m"`` or seconds. Raises UsageError."""
        if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
            raise UsageError(
                f"the search evaluates at least 1 plan, so --max-trials (max_trials=) cannot be {trials!r}; "
                "give 1 or more, or leave it out"
            )
        return cls(trials, None if time is None else DURATION.parse(time))

    @property
    def settings(self) -> dict[str, str]:
        """What a resumed run must share, by name."""
        return {
            "trials": "as usual" if self.trials is None else str(self.trials),
            "time limit": "none" if self.seconds is None else DURATION.text(self.seconds),
        }


FULL: Final = Effort()
