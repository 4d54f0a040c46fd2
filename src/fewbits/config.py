"""What `fewbits.mix_precision.fit` is asked for, as one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fewbits.budget import Budget
from fewbits.errors import UsageError


class OnMissing(StrEnum):
    """What to do where the machine has no instructions for the precision."""

    EMULATE = "emulate"
    """Convert all the same: the numbers are right, it is smaller, and it is slow here."""
    KEEP_FLOAT = "keep_float"
    """Give the model back as it is."""
    ERROR = "error"
    """Raise TargetError."""


class Goal(StrEnum):
    """What the converted model is for."""

    SIZE = "size"
    """As much as possible in few bits: smaller in memory and on disk."""
    LATENCY = "latency"
    """Only what is faster for it, measured; never a slower model."""


@dataclass(frozen=True, slots=True)
class MixedPrecisionConfig:
    """How a model is mixed of float32 and a smaller float.

    Args:
        precision: ``"bf16"`` or ``"fp16"``.
        objective: ``"size"`` converts whatever holds the accuracy; ``"latency"`` only what is faster, measured on the
            machine at hand, and needs data.
        target: the runtime that will serve an ONNX model, or the device of a module (``"torch:cuda"``); ``"auto"``.
        on_missing: ``"emulate"``, ``"keep_float"`` or ``"error"``, where the machine has no instructions for it.
        max_loss: ``"1%"`` of the original's score, or an absolute difference such as ``0.01``.
        max_trials: how many conversions are evaluated at most, besides the original.
        rules: regular expression for a group's whole name → precision (``"fp32"`` or that of above); the first match
            wins, before all lists. Rules that match nothing are reported.
        target_ops: operators that leave float32, by the framework's name (``"linear"``, ``"MatMul"``) or ours
            (``"conv"``); empty for all that can.
        fp32_ops: operators that stay in float32.
        conditional_ops: (operator, attribute, values): it stays in float32 where its attribute has one of the values.
        excluded: names of groups or nodes that stay in float32.
        cast_parameters: weights are stored in the small float; otherwise in float32, and cast at every call.

    Raises:
        UsageError: a value that is none of these.
    """

    precision: str = "bf16"
    objective: str = "size"
    target: str = "auto"
    on_missing: str = "emulate"
    max_loss: str | float = "1%"
    max_trials: int = 5
    rules: Mapping[str, str] = field(default_factory=dict)
    target_ops: tuple[str, ...] = ()
    fp32_ops: tuple[str, ...] = ()
    conditional_ops: tuple[tuple[str, str, tuple[str | int | float, ...]], ...] = ()
    excluded: tuple[str, ...] = ()
    cast_parameters: bool = True

    def __post_init__(self) -> None:
        _choose("precision", self.precision, _PRECISIONS)
        _choose("objective", self.objective, [str(one) for one in Goal])
        _choose("on_missing", self.on_missing, [str(one) for one in OnMissing])
        Budget.parse(self.max_loss)
        if self.max_trials < 1:
            raise UsageError(f"max_trials is {self.max_trials}; at least one conversion is evaluated")
        for pattern, precision in self.rules.items():
            _choose(f"the rule {pattern!r}", precision, ("fp32", self.precision))
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"the rule {pattern!r} is no regular expression: {error}") from error


_PRECISIONS = ("bf16", "fp16")


def _choose(what: str, value: str, choices: tuple[str, ...] | list[str]) -> None:
    if value not in choices:
        raise UsageError(f"{what} is {value!r}; choose {' or '.join(choices)}")


__all__ = ["Goal", "MixedPrecisionConfig", "OnMissing"]
