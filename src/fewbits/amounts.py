"""Amounts with a unit, as a user writes them and as they are written back: ``5ms``, ``20MB``, ``10m``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from fewbits.errors import UsageError


@dataclass(frozen=True, slots=True)
class Measure:
    """One sort of amount. `what` it is called in messages, `units`: unit in lower case → how many of the base unit,
    `shown`: the units that `text` writes, from the smallest, and `forms` that a message offers."""

    what: str
    units: Mapping[str, Decimal]
    shown: tuple[str, ...]
    forms: str

    def parse(self, value: str | float) -> float:
        """The amount in the base unit: a text with a unit, or a number. ``parse(text(amount)) == amount``.

        Raises UsageError on anything else, and on what is not above 0.
        """
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(f"{self.what} cannot be {value!r}; {self.forms}")
        number, unit = self._split(value) if isinstance(value, str) else (Decimal(repr(float(value))), Decimal(1))
        # Decimal, because 5ms and 0.005 must be the same amount.
        if not number.is_finite() or number <= 0:
            raise UsageError(f"{self.what} must be above 0, not {value!r}; {self.forms}")
        return float(number * unit)

    def text(self, amount: float) -> str:
        """`amount` of the base unit in the largest unit that leaves 1 or more of it."""
        exact = Decimal(repr(float(amount)))
        units = [(unit, self.units[unit.lower()]) for unit in self.shown]
        unit, size = next(((unit, size) for unit, size in reversed(units) if exact >= size), units[0])
        return f"{(exact / size).normalize():f}{unit}"

    def _split(self, text: str) -> tuple[Decimal, Decimal]:
        written = text.strip().lower()
        number = written.rstrip("abcdefghijklmnopqrstuvwxyzµμ")
        unit = written[len(number) :].strip()
        if unit not in self.units:
            missing = "it has no unit" if not unit else f"{unit!r} is no unit of it"
            raise UsageError(f"{self.what} cannot be {text!r}: {missing}; {self.forms}")
        try:
            return Decimal(number.strip()), self.units[unit]
        except InvalidOperation as error:
            raise UsageError(f"{self.what} cannot be {text!r}; {self.forms}") from error


def _decimal_and_binary() -> Mapping[str, Decimal]:
    prefixes = "kmgt"
    decimal = {f"{prefix}b": Decimal(1000) ** power for power, prefix in enumerate(prefixes, 1)}
    binary = {f"{prefix}ib": Decimal(1024) ** power for power, prefix in enumerate(prefixes, 1)}
    return {"b": Decimal(1), **decimal, **binary}


LATENCY: Final = Measure(
    "the limit of latency",
    {"ns": Decimal("1e-9"), "us": Decimal("1e-6"), "µs": Decimal("1e-6"), "μs": Decimal("1e-6")}
    | {"ms": Decimal("1e-3"), "s": Decimal(1)},
    ("ns", "us", "ms", "s"),
    "write a time per call with its unit, such as 5ms, 800us or 0.005s; in Python also seconds as a number",
)
"""Seconds per call."""

SIZE: Final = Measure(
    "the limit of size",
    _decimal_and_binary(),
    ("B", "kB", "MB", "GB"),
    "write the size of the file with its unit, such as 20MB, 512kB or 16MiB; in Python also bytes as a number",
)
"""Bytes of a file."""

DURATION: Final = Measure(
    "the time limit",
    {"s": Decimal(1), "m": Decimal(60), "min": Decimal(60), "h": Decimal(3600)},
    ("s",),
    "write a time with its unit, such as 90s, 10m or 2h; in Python also seconds as a number",
)
"""Seconds that work may take."""
