"""The decision as a file: which group computes in which scheme, with which ranges, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fewbits import __about__
from fewbits.errors import PlanError, SchemeError
from fewbits.formats.scheme import FP32, Scheme

VERSION = 2
_STRICT = ConfigDict(extra="forbid")
_SHOWN_ERRORS = 3


def smoothed(tensor: str) -> str:
    """The name of what smoothing leaves of `tensor`."""
    return f"{tensor}.smoothed"


def scaled(tensor: str) -> str:
    """The name of what scaling leaves of `tensor`."""
    return f"{tensor}.scaled"


@dataclass(frozen=True, slots=True)
class Choice:
    """The scheme of one group, as text, and why."""

    scheme: str
    reason: str

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Plan:
    """Group name → choice, and tensor name → range (low, high) of its real values, finite, low <= high.

    A group that is not named stays in fp32. `smoothing` has the factors of the tensors that groups with a smoothed
    scheme of both operands read (`fewbits.smoothing`); the range of what is left of tensor ``t`` is that of
    ``t.smoothed``. `scaling` has those of the tensors that groups with a smoothed scheme of the weight alone read.
    `codes` names what the weights of some groups become, where that was searched for (`fewbits.codes`); others round to
    nearest. `equalised` has the factors by which channels between products are divided before all else; ranges are
    of what that leaves. `means` has those of the channels that biases are corrected by (`fewbits.means`). Around groups
    that are cast, what is no group follows them, but for the nodes that are `kept` in fp32; `wide_weights` leaves the
    weights of such groups in fp32, to be cast at every call.
    `model_sha256` says for which model the plan was made, `target` and `machine` where it was measured to be good.
    Raises PlanError if a range is not one.
    """

    model_sha256: str
    choices: Mapping[str, Choice]
    ranges: Mapping[str, tuple[float, float]]
    target: str = ""
    machine: str = ""
    calibration: str = ""
    smoothing: Mapping[str, str] = field(default_factory=dict)
    scaling: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)
    equalised: Mapping[str, str] = field(default_factory=dict)
    means: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    wide_weights: bool = False
    made_by: str = f"fewbits {__about__.VERSION}"
    version: int = VERSION
    notes: tuple[str, ...] = field(default=())

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not (isfinite(low) and isfinite(high) and low <= high):
                raise PlanError(
                    f"the range of the tensor {name} is {low} to {high}, not two finite numbers in ascending order; "
                    "calibrate again"
                )

    def scheme(self, group: str) -> Scheme:
        """The scheme of `group`."""
        choice = self.choices.get(group)
        return FP32 if choice is None else Scheme.parse(choice.scheme)

    @property
    def low(self) -> frozenset[str]:
        """Names of the groups that leave fp32."""
        return frozenset(name for name in self.choices if not self.scheme(name).is_fp32)

    def reverted(self, groups: Mapping[str, str]) -> Plan:
        """The same plan with each of `groups` (name → reason) back in fp32."""
        changed = {name: Choice(str(FP32), reason) for name, reason in groups.items()}
        return replace(self, choices={**self.choices, **changed})

    def to_json(self) -> str:
        """Indented JSON; ``Plan.from_json`` reads it back to an equal plan."""
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read a plan. Raises PlanError if it is not one, or of another version."""
        try:
            # First, because another version may have other keys.
            version = _HEADER.validate_json(text).version
            if version != VERSION:
                raise PlanError(
                    f"the plan has version {version}; this fewbits reads version {VERSION}. "
                    "Use the fewbits that made it, or tune again"
                )
            plan = _ADAPTER.validate_json(text)
        except ValidationError as error:
            found = [
                f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}"
                for one in error.errors(include_url=False)[:_SHOWN_ERRORS]
            ]
            raise PlanError(f"not a fewbits plan ({'; '.join(found)}); give the plan.json of a run") from error
        for name, choice in plan.choices.items():
            try:
                Scheme.parse(choice.scheme)
            except SchemeError as error:
                raise PlanError(f"the plan's scheme for the group {name} cannot be read: {error}") from error
        return plan

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read the plan at `path`. Raises PlanError."""
        try:
            return cls.from_json(path.read_bytes())
        except OSError as error:
            raise PlanError(f"cannot read the plan {path}: {error.strerror}") from error


def diff(a: Plan, b: Plan) -> dict[str, tuple[Scheme, Scheme]]:
    """Groups whose scheme differs between `a` and `b`, with both schemes, in name order."""
    names = sorted({*a.choices, *b.choices})
    pairs = {name: (a.scheme(name), b.scheme(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True, slots=True)
class _Header:
    version: int = VERSION


_HEADER = TypeAdapter(_Header)
_ADAPTER = TypeAdapter(Plan)
