"""How much worse the tuned model may be."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite

from fewbits.errors import MetricError, UsageError
from fewbits.evaluation import Direction, Scores

# Sums of floats differ in the last digits with the order of the batches.
_DUST = 1e-9
_FORMS = "write a share of the original score such as 1%, or a difference in the metric's unit such as 0.01"


@dataclass(frozen=True, slots=True)
class Budget:
    """The allowed loss: a share of the original score if `relative` (``1%`` is 0.01), else in the metric's unit.

    Raises:
        UsageError: a negative or not finite amount, or more than 100 %.
    """

    amount: float
    relative: bool

    def __post_init__(self) -> None:
        if not isfinite(self.amount) or self.amount < 0:
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
        relative = text.endswith("%")
        try:
            number = Decimal(text.removesuffix("%").strip())
        except InvalidOperation as error:
            raise UsageError(f"the allowed loss cannot be {value!r}; {_FORMS}") from error
        # Decimal, because 7 / 100 and 0.07 must be the same budget.
        return cls(float(number.scaleb(-2) if relative and number.is_finite() else number), relative)

    def __str__(self) -> str:
        """``1%`` or ``0.01``."""
        if not self.relative:
            return repr(float(self.amount))
        percent = Decimal(repr(float(self.amount))).scaleb(2)
        return f"{percent.normalize():f}%"

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
        """Whether `loss` is within the budget; a NaN never is."""
        return loss <= self.amount + _DUST


def _value(score: Scores | float) -> float:
    return score.value if isinstance(score, Scores) else float(score)
