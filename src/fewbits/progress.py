"""What long work says while it runs: one small protocol, and the null object that says nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by every stage; shown by whoever started the work."""

    def stage(self, title: str, total: int | None = None) -> None:
        """A new stage of `total` steps begins (unknown if ``None``)."""

    def advance(self, note: str = "") -> None:
        """One step of the stage is done; `note` says what came out of it."""

    def say(self, text: str) -> None:
        """A line that stays on the screen."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, total: int | None = None) -> None:
        """See Progress."""

    def advance(self, note: str = "") -> None:
        """See Progress."""

    def say(self, text: str) -> None:
        """See Progress."""
