"""What tuning gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fewbits.codes import Codes
from fewbits.data.batches import Arrays
from fewbits.errors import UsageError
from fewbits.measurement import Interval
from fewbits.models.protocol import Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.record import RunRecord
from fewbits.report.text import summary
from fewbits.store import write_file
from fewbits.targets.protocol import Session, Target


@dataclass(frozen=True)
class Result:
    """The model to serve, the plan that made it, and the proof.

    `artifact` is the converted model where the outcome is ``met``, else the original, byte for byte.
    `path` is the run directory, ``None`` if the run was kept in memory, `serving` the runtime to serve it on. Where
    no plan is within the budget, `best` is the closest model and `best_plan` its plan. `codes` has those of weights
    that the plans name.
    """

    artifact: Artifact
    plan: Plan
    record: RunRecord
    path: Path | None
    serving: Target
    best: Artifact | None = None
    best_plan: Plan | None = None
    codes: Codes = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """How it ended; ``outcome.advice`` says what to do next."""
        return self.record.outcome

    @property
    def speedup(self) -> Interval | None:
        """Original over tuned latency, paired; ``None`` if nothing was timed."""
        latency = self.record.latency
        return None if latency is None else next(iter(latency.speedups.values()), None)

    @property
    def target(self) -> str:
        """The runtime to serve the model on."""
        return self.record.target

    def predict(self, inputs: Arrays) -> Arrays:
        """Outputs of the model by name, on the runtime that serves it. Raises DataError if it refuses `inputs`."""
        return self._session(inputs)

    @cached_property
    def _session(self) -> Session:
        return self.serving.open(self.artifact)

    def save(self, path: str | Path) -> Path:
        """Write the model to `path`, whole or not at all: as ONNX, or for a name that ends in ``.xml`` as OpenVINO's
        intermediate representation with its ``.bin`` beside it.

        Raises:
            StorageError: it could not be written.
            UsageError: an ``.xml`` of a model that another runtime serves.
        """
        destination = Path(path)
        if destination.suffix != ".xml":
            write_file(destination, self.artifact.content)
            return destination
        files = self.serving.files(self.artifact)
        if not files:
            raise UsageError(f"{self.target} serves ONNX files; give a name such as {destination.with_suffix('.onnx')}")
        for suffix, content in files.items():
            write_file(destination.with_suffix(suffix), content)
        return destination

    def __str__(self) -> str:
        return summary(self.record)
