"""What a finished run says of itself: everything a report needs, without model, data or runtime.

Stored as ``run.json``; unknown keys are refused when it is read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fewbits.errors import RunError
from fewbits.evaluation import Direction
from fewbits.limits import UNLIMITED, Limits
from fewbits.machine import Machine
from fewbits.measurement import Comparison, Interval, MemoryComparison
from fewbits.outcome import Outcome

# A model that gives NaN has an infinite loss; plain JSON would turn that into null.
_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="constants")
VERSION = 2
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
class SchemeRow:
    """What one scheme of a group costs on the target: seconds for getting in, computing and getting out, measured on
    the group alone; the harm that it alone does to the outputs with its standard error (negative: not measured); why
    it is refused, "" if it is not."""

    scheme: str
    entry: float
    compute: float
    exit: float
    harm: float
    harm_error: float
    kernel: str
    refusal: str

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class FrontRow:
    """One plan of the predicted front, from the fastest to the safest: predicted harm and cost (seconds or bytes), how
    many groups leave fp32, the loss on the selection split if it was `measured`, and the seconds per call of the whole
    model if those were (negative: not)."""

    harm: float
    cost: float
    low: int
    loss: float
    measured: bool
    seconds: float
    chosen: bool

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Prediction:
    """How well the cost table foretold whole plans: how many were timed, and the rank correlation (Spearman) of
    predicted and measured times before and after the table was corrected by them."""

    plans: int
    before: float
    after: float

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class PredictedCost:
    """What the cost `model` says of the original and of the tuned model, in `unit`, on hardware that is not at hand;
    `widest` has every group in the most bits that the model has a cost for. Negative: it has none."""

    model: str
    unit: str
    original: float
    widest: float
    tuned: float

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group in the result. `sensitivity` is the harm that its scheme in the plan, or else the first that was
    ranked, alone does (negative: not measured); seconds are per call in the whole model, negative if
    not attributed. `schemes` is what it could have had. `codes` says how the codes of its weight were found, "" if it
    rounds to nearest, and `codes_share` the squared error of the layer with them over that of rounding to nearest."""

    name: str
    kind: str
    scheme: str
    reason: str
    kernel: str
    precision: str
    sensitivity: float
    float_seconds: float
    low_seconds: float
    schemes: tuple[SchemeRow, ...] = ()
    codes: str = ""
    codes_share: float = 1.0

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class RemedyRow:
    """A remedy that was tried where a group loses accuracy: the squared error after it over that before (`share`;
    `measured` on outputs of the layer or model, otherwise expected), and whether the result has it."""

    remedy: str
    share: float
    measured: bool
    used: bool

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a group loses accuracy in `scheme`: its `share` of the harm of all groups, the likeliest cause, what it was
    seen from (see `fewbits.refine.diagnosis.Diagnosis`), what was tried, and the scheme that the result has."""

    group: str
    kind: str
    scheme: str
    share: float
    cause: str
    seen: Mapping[str, float]
    remedies: tuple[RemedyRow, ...]
    result: str

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One evaluation: how many groups were in fp32, the score and the loss (in the budget's unit) on `samples` samples
    of the selection split; fewer than all if the loss was surely beyond or within the budget before."""

    number: int
    what: str
    reverted: int
    score: float
    loss: float
    within: bool
    samples: int
    seconds: float

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run. `target` serves the result, with `threads` shared by `streams` calls at the same time (0: one
    after the other). `memory` is measured where it is the objective. `floats` compares the original on all
    runtimes, `plans` the plans that were begun with; ``None`` where there was nothing to compare.

    `limits` is what the model to serve may cost. Where the target is simulated, nothing is timed: `predicted` has the
    costs by models of the hardware, the one that was made small first, and the costs of schemes and of the front are in
    its unit. `measure` is the one of harm, by its name in `fewbits.sensitivity.measure`. `explanations`
    has the groups with more than their share of it, the worst first."""

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
    floats: Comparison | None
    plans: Comparison | None
    original_bytes: int
    tuned_bytes: int
    evaluations: int
    max_evaluations: int
    seconds: float
    groups: tuple[GroupRow, ...]
    trials: tuple[TrialRow, ...]
    front: tuple[FrontRow, ...]
    prediction: Prediction
    kernels: Mapping[str, int]
    notes: tuple[str, ...]
    settings: Mapping[str, str]
    predicted: tuple[PredictedCost, ...] = ()
    streams: int = 0
    memory: MemoryComparison | None = None
    limits: Limits = UNLIMITED
    measure: str = "output"
    explanations: tuple[Explanation, ...] = ()
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
