"""Fixtures that several rooms of tests share."""

from __future__ import annotations

import pytest

from timing import Timing


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timing:
    """Every latency is made up: whatever is tuned is twice as fast, unless the test sets another `speed`."""
    return Timing().install(monkeypatch.setattr)
