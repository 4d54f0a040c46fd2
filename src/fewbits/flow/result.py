"""What tuning gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewbits.measurement import Interval
from fewbits.models.protocol import Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.record import RunRecord
from fewbits.report.text import summary
from fewbits.store import write_file


@dataclass(frozen=True)
class Result:
    """The model to serve, the plan that made it, and the proof.

    `artifact` is the converted model where the outcome is ``met``, else the original, byte for byte.
    `path` is the run directory, ``None`` if the run was kept in memory. Where no plan is within the budget, `best` is
    the closest model and `best_plan` its plan.
    """

    artifact: Artifact
    plan: Plan
    record: RunRecord
    path: Path | None
    best: Artifact | None = None
    best_plan: Plan | None = None

    @property
    def outcome(self) -> Outcome:
        """How it ended; ``outcome.advice`` says what to do next."""
        return self.record.outcome

    @property
    def speedup(self) -> Interval | None:
        """Original over tuned latency, paired; ``None`` if nothing was timed."""
        latency = self.record.latency
        return None if latency is None else next(iter(latency.speedups.values()), None)

    def save(self, path: str | Path) -> Path:
        """Write the model to `path`, whole or not at all. Raises StorageError."""
        destination = Path(path)
        write_file(destination, self.artifact.content)
        return destination

    def __str__(self) -> str:
        return summary(self.record)
