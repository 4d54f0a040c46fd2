"""How much a run may take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fewbits.amounts import DURATION
from fewbits.errors import UsageError


class Level(StrEnum):
    """How far remedies go that take time before the search."""

    LOW = "low"
    """Ranges of weights in few bits are clipped; biases stay."""
    MEDIUM = "medium"
    """Codes of such weights are searched for by GPTQ, too, ranges of weights in eight bits are clipped, and biases
    corrected."""
    HIGH = "high"
    """Besides, more forms of four bits, more ways to find codes (HQQ, AWQ, GPTQ for eight bits, AdaRound where a plan
    misses its budget), and ranges chosen tensor by tensor, by what they do to the outputs."""


@dataclass(frozen=True, slots=True)
class Effort:
    """At most so many `trials` (plans that the search evaluates), about so many `seconds` from start to end; ``None``:
    as many as the search is made for, as long as it takes. `level` says how far remedies go."""

    trials: int | None = None
    seconds: float | None = None
    level: Level = Level.MEDIUM

    @classmethod
    def parse(cls, trials: int | None, time: str | float | None, level: str = Level.MEDIUM) -> Effort:
        """Read a number of trials, ``"10m"`` or seconds, and a level. Raises UsageError."""
        if level not in set(Level):
            raise UsageError(f"{level!r} is no effort; choose {', '.join(Level)} for --effort (effort=)")
        if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
            raise UsageError(
                f"the search evaluates at least 1 plan, so --max-trials (max_trials=) cannot be {trials!r}; "
                "give 1 or more, or leave it out"
            )
        return cls(trials, None if time is None else DURATION.parse(time), Level(level))

    @property
    def settings(self) -> dict[str, str]:
        """What a resumed run must share, by name."""
        return {
            "trials": "as usual" if self.trials is None else str(self.trials),
            "effort": str(self.level),
            "time limit": "none" if self.seconds is None else DURATION.text(self.seconds),
        }


FULL: Final = Effort()
