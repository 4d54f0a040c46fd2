"""What a model may cost at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import UsageError
from fewbits.limits import UNLIMITED, Limits

seconds, sizes = st.floats(1e-9, 1e3), st.integers(1, 10**12)


def test_limits_as_users_give_them() -> None:
    assert Limits.parse("5ms", "20MB") == Limits(0.005, 20_000_000)
    assert Limits.parse(0.005) == Limits(0.005)
    assert Limits.parse(size="1KiB") == Limits(size=1024)
    assert Limits.parse() == UNLIMITED
    assert [str(one) for one in (Limits(0.005, 20_000_000), Limits(size=1024), UNLIMITED)] == [
        "5ms per call, 20MB",
        "1.024kB",
        "none",
    ]


@pytest.mark.parametrize(("latency", "size"), [("5", None), (None, "20"), (-0.1, None), (None, 0), ("20MB", None)])
def test_what_is_no_limit(latency: str | float | None, size: str | float | None) -> None:
    with pytest.raises(UsageError, match="the limit of"):
        Limits.parse(latency, size)


@given(seconds, sizes, st.none() | seconds, st.none() | sizes)
def test_a_model_is_within_them_if_it_is_within_each(
    took: float, bytes_: int, most_seconds: float | None, most_bytes: int | None
) -> None:
    limits = Limits(most_seconds, most_bytes)
    each = (most_seconds is None or took <= most_seconds) and (most_bytes is None or bytes_ <= most_bytes)
    assert limits.hold(took, bytes_) == each == (limits.use(took, bytes_) <= 1)
    assert limits.any == (limits != UNLIMITED)
