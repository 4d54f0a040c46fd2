"""Several sessions of one model as one that many threads may call."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from fewbits.data.batches import Arrays
from fewbits.targets.protocol import Session


class SessionPool:
    """Every call goes to one of `sessions` that is idle, and waits where none is. The sessions are closed by whoever
    opened them."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._idle: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            self._idle.put(session)

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by name. Raises as the sessions do."""
        session = self._idle.get()
        try:
            return session(inputs)
        finally:
            self._idle.put(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: what the sessions hold is freed with their last reference."""
