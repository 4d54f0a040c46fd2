"""What a finished run says of itself: everything a report needs, without model, data or runtime.

Stored as ``run.json``; unknown keys are refused when it is read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fewbits.errors import RunError
from fewbits.evaluation import Direction
from fewbits.machine import Machine
from fewbits.measurement import Comparison, Interval
from fewbits.outcome import Outcome

# A model that gives NaN has an infinite loss; plain JSON would turn that into null.
_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="constants")
VERSION = 1
_SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The metric on the acceptance split. `loss` is in the budget's unit (a fraction if `relative`),
    positive = worse than the original."""

    metric: str
    direction: Direction
    original: Interval
    tuned: Interval
    loss: Interval
    max_loss: float
    relative: bool
    samples: int

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class SplitUse:
    """How many samples each purpose had, and what was shared for want of data."""

    calibration: int
    search: int
    selection: int
    acceptance: int
    shared: tuple[str, ...]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group in the result. `sensitivity` is the relative output error that its int8 form alone
    causes (NaN-free: negative means not measured); seconds are per call, negative if not attributed."""

    name: str
    kind: str
    scheme: str
    reason: str
    kernel: str
    precision: str
    sensitivity: float
    float_seconds: float
    low_seconds: float

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One full evaluation: which groups were back in fp32, the score, and the loss in the budget's unit."""

    number: int
    what: str
    reverted: int
    score: float
    loss: float
    within: bool
    seconds: float

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run."""

    outcome: Outcome
    reason: str
    model: str
    model_sha256: str
    target: str
    threads: int
    objective: str
    machine: Machine
    calibration: str
    splits: SplitUse
    accuracy: Accuracy | None
    latency: Comparison | None
    original_bytes: int
    tuned_bytes: int
    evaluations: int
    max_evaluations: int
    seconds: float
    groups: tuple[GroupRow, ...]
    trials: tuple[TrialRow, ...]
    kernels: Mapping[str, int]
    notes: tuple[str, ...]
    settings: Mapping[str, str]
    version: int = VERSION

    __pydantic_config__ = _STRICT

    def to_json(self) -> str:
        """Indented JSON; ``RunRecord.from_json`` reads it back to an equal record."""
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> RunRecord:
        """Read a record. Raises RunError if it is not one, or of another version."""
        try:
            # First, because another version may have other keys.
            version = _HEADER.validate_json(text).version
            if version != VERSION:
                raise RunError(
                    f"the run's record has version {version}; this fewbits reads version {VERSION}. "
                    "Use the fewbits that made it, or tune again"
                )
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            found = [
                f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}"
                for one in error.errors(include_url=False)[:_SHOWN_ERRORS]
            ]
            raise RunError(f"not a finished fewbits run ({'; '.join(found)}); give a run's directory") from error


@dataclass(frozen=True, slots=True)
class _Header:
    version: int = VERSION


_HEADER = TypeAdapter(_Header)
_ADAPTER = TypeAdapter(RunRecord)
