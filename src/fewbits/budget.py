"""How much worse the tuned model may be."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import inf, isfinite
from typing import Final

from fewbits.errors import MetricError, UsageError
from fewbits.evaluation import Direction, Scores

# Sums of floats differ in the last digits with the order of the batches.
_DUST = 1e-9
_ANY = "any"
_FORMS = "write a share of the original score such as 1%, or a difference in the metric's unit such as 0.01"


@dataclass(frozen=True, slots=True)
class Budget:
    """The allowed loss: a share of the original score if `relative` (``1%`` is 0.01), else in the metric's unit; an
    infinite one allows any (`ANY_LOSS`).

    Raises:
        UsageError: a negative amount or none at all, or more than 100 %.
    """

    amount: float
    relative: bool

    def __post_init__(self) -> None:
        if not self.amount >= 0 or (self.relative and not isfinite(self.amount)):
            raise UsageError(f"the allowed loss must be 0 or more, not {self.amount}; {_FORMS}")
        if self.relative and self.amount > 1:
            raise UsageError(f"the allowed loss must be at most 100%, not {self}; {_FORMS}")

    @classmethod
    def parse(cls, value: str | float | Budget) -> Budget:
        """Read ``"1%"`` (relative), ``"0.01"`` or ``0.01`` (absolute). ``parse(str(budget)) == budget``.

        Raises UsageError on anything else.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(f"the allowed loss cannot be {value!r}; {_FORMS}")
        text = str(value).strip()
        if text == _ANY:
            return ANY_LOSS
        relative = text.endswith("%")
        try:
            number = Decimal(text.removesuffix("%").strip())
        except InvalidOperation as error:
            raise UsageError(f"the allowed loss cannot be {value!r}; {_FORMS}") from error
        if not number.is_finite():
            raise UsageError(f"the allowed loss must be 0 or more, not {value}; {_FORMS}")
        # Decimal, because 7 / 100 and 0.07 must be the same budget.
        return cls(float(number.scaleb(-2) if relative else number), relative)

    def __str__(self) -> str:
        """``1%``, ``0.01`` or ``any``."""
        if not self.is_limit:
            return _ANY
        if not self.relative:
            return repr(float(self.amount))
        percent = Decimal(repr(float(self.amount))).scaleb(2)
        return f"{percent.normalize():f}%"

    @property
    def is_limit(self) -> bool:
        """Whether a loss can be too large."""
        return isfinite(self.amount)

    def loss(self, reference: Scores | float, candidate: Scores | float, direction: Direction) -> float:
        """How much worse `candidate` is than `reference`, in the budget's unit; negative if it is better.

        Raises:
            MetricError: a relative budget and an original score of 0.
        """
        original, tuned = _value(reference), _value(candidate)
        worse = original - tuned if direction is Direction.HIGHER else tuned - original
        return worse / self.scale(original)

    def scale(self, reference: Scores | float) -> float:
        """What a difference of scores is divided by: the size of the original score if relative, else 1.

        Raises:
            MetricError: a relative budget and an original score of 0.
        """
        if not self.relative:
            return 1.0
        original = abs(_value(reference))
        if original == 0:
            raise MetricError(
                f"the original model scores 0, so a loss of {self} relative to it is undefined; check the labels and "
                "the preprocessing, or give an absolute loss such as --max-loss 0.01"
            )
        return original

    def holds(self, loss: float) -> bool:
        """Whether `loss` is within the budget; NaN and an infinite loss never are."""
        return loss < inf and loss <= self.amount + _DUST


ANY_LOSS: Final = Budget(inf, relative=False)
"""For whoever asks for the least loss and not for a small one."""


def _value(score: Scores | float) -> float:
    return score.value if isinstance(score, Scores) else float(score)
