"""What tuning gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fewbits.codes import Codes
from fewbits.data.batches import Arrays
from fewbits.errors import UsageError
from fewbits.flow.saving import parts, save
from fewbits.flow.scratch import scratch_folder
from fewbits.measurement import Interval
from fewbits.models.protocol import Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.record import RunRecord
from fewbits.report.text import summary
from fewbits.store import write_files
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
        """Write the model to `path`, whole or not at all: as ONNX, with the weights in ``NAME.data`` beside it where
        they are too large for one piece or were given so; or for a name that ends in ``.xml`` as OpenVINO's
        intermediate representation with its ``.bin`` beside it.

        Raises:
            StorageError: it could not be written.
            UsageError: an ``.xml`` of a model that another runtime serves, or a file that the original needs.
            ModelError: weights of the original are not where they were any more.
        """
        destination = Path(path)
        if destination.suffix != ".xml":
            save(self.artifact, destination)
            return destination
        with scratch_folder() as folder:
            files = self.serving.files(self.artifact, folder)
            if not files:
                name = destination.with_suffix(".onnx")
                raise UsageError(f"{self.target} serves ONNX files; give a name such as {name}")
            write_files({destination.with_suffix(suffix): parts(file) for suffix, file in files.items()})
        return destination

    def __str__(self) -> str:
        return summary(self.record)
