"""Fixtures that several rooms of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from timing import Timing


@pytest.fixture(scope="session", autouse=True)
def shared_costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Measured costs are kept in a folder of this session, never in the user's; processes that are started inherit it.

    Shared, so that the same region is measured once for all tests. Those that look at the cache set their own folder.
    """
    folder = tmp_path_factory.mktemp("costs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWBITS_CACHE", str(folder))
        yield folder


@pytest.fixture
def own_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of measured costs of one test, which begins without any."""
    monkeypatch.setenv("FEWBITS_CACHE", str(tmp_path / "costs"))
    return tmp_path / "costs" / "costs.sqlite"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timing:
    """Every latency is made up: whatever is tuned is twice as fast, unless the test sets another `speed`; so are the
    seconds of the cost table."""
    return Timing().install(monkeypatch.setattr)
