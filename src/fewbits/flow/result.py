"""What tuning gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fewbits.codes import Codes
from fewbits.data.batches import Arrays
from fewbits.errors import UsageError
from fewbits.flow.saving import parts, save
from fewbits.flow.scratch import scratch_folder
from fewbits.measurement import Interval
from fewbits.models import open_module
from fewbits.models.protocol import TORCH, Artifact
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.record import RunRecord
from fewbits.report.text import summary
from fewbits.store import write_files
from fewbits.targets.protocol import Session, Target
from fewbits.transfer import Carried

if TYPE_CHECKING:
    from fewbits.models import Module


@dataclass(frozen=True)
class Result:
    """The model to serve, the plan that made it, and the proof.

    `artifact` is the converted model where the outcome is ``met``, else the original, byte for byte.
    `path` is the run directory, ``None`` if the run was kept in memory, `serving` the runtime to serve it on. Where
    no plan is within the budget, `best` is the closest model and `best_plan` its plan. `codes` has those of weights
    that the plans name. Of a PyTorch module whose ONNX export was tuned, too, `other` has the plan for the one of both
    that is not served, and what of `plan` is not in it.
    """

    artifact: Artifact
    plan: Plan
    record: RunRecord
    path: Path | None
    serving: Target
    best: Artifact | None = None
    best_plan: Plan | None = None
    codes: Codes = field(default_factory=dict)
    other: Carried | None = None

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

    @property
    def is_module(self) -> bool:
        """Whether what is served is a PyTorch module, and not an ONNX model."""
        return self.artifact.suffix == TORCH

    @cached_property
    def module(self) -> Module:
        """The converted module, called like the original. Raises UsageError where an ONNX model is served."""
        if not self.is_module:
            raise UsageError(
                f"what is served is an ONNX model, on {self.target}: use predict() or save(); `other` has the plan for "
                "the module, if there is one, for fewbits.convert"
            )
        return open_module(self.artifact)

    def save(self, path: str | Path) -> Path:
        """Write the model to `path`, whole or not at all: as ONNX, with the weights in ``NAME.data`` beside it where
        they are too large for one piece or were given so; for a name that ends in ``.xml`` as OpenVINO's intermediate
        representation with its ``.bin`` beside it; a module as ``.pt`` (or ``.pth``), which `fewbits.open_module` and
        ``torch.load`` read. A name without a suffix gets that of what is served, unless it is there already.

        Raises:
            StorageError: it could not be written.
            UsageError: an ``.xml`` of a model that another runtime serves; ``.onnx`` for a module, or the reverse; a
                file that the original needs.
            ModelError: weights of the original are not where they were any more.
        """
        given = Path(path)
        destination = given if given.suffix or given.exists() else given.with_suffix(self.artifact.suffix)
        modules, models = (".pt", ".pth"), (".onnx", ".xml")
        if destination.suffix in (models if self.is_module else modules):
            what = "a PyTorch module" if self.is_module else "an ONNX model"
            name = destination.with_suffix(self.artifact.suffix)
            raise UsageError(f"{self.target} serves {what}; give a name such as {name}")
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
