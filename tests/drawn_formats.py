"""Formats for tests by law: every kind, drawn at random."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from fewbits.errors import FormatError
from fewbits.formats.floating import E8M0, FP32, FloatFormat, Specials
from fewbits.formats.granularity import Channel, Group, Tensor, Tile, Token
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat, TernaryRule
from fewbits.formats.scaled import REAL, Format, NestedScale, PowerOfTwoScale, ScaledFormat, ScaleRule


def _possible(make: Callable[[], Format]) -> Format | None:
    """The format, or nothing where its fields contradict each other."""
    try:
        return make()
    except FormatError:
        return None


integers = st.one_of(
    st.builds(IntFormat, st.integers(2, 16), st.just(False), st.just(False), st.integers(0, 64)),
    st.builds(IntFormat, st.integers(2, 16), st.just(True), st.booleans(), st.integers(0, 64)),
)
floats = (
    st.tuples(
        st.integers(1, 8),
        st.integers(0, 23),
        st.integers(-130, 150) | st.integers(0, 16),
        st.sampled_from(Specials),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    )
    .map(lambda fields: _possible(lambda: FloatFormat(*fields)))
    .filter(lambda found: found is not None)
)
codebooks = st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=2, max_size=9, unique=True).map(
    lambda values: CodebookFormat(tuple(sorted(values)))
)
levels = st.one_of(
    st.just(BinaryFormat()),
    st.builds(TernaryFormat, st.sampled_from(TernaryRule)),
    st.builds(KMeansFormat, st.integers(1, 8)),
    codebooks,
)
elements = st.one_of(integers, floats, levels)
granularities = st.one_of(
    st.just(Tensor()),
    st.builds(Channel, st.integers(-4, 4)),
    st.just(Token()),
    st.builds(Group, st.sampled_from([1, 16, 32, 128]), st.sampled_from([-1, -2, 0, 3])),
    st.lists(st.integers(1, 128), min_size=1, max_size=3).map(lambda sizes: Tile(tuple(sizes))),
)
scales = st.one_of(
    st.just(REAL),
    st.builds(PowerOfTwoScale, st.sampled_from(ScaleRule), st.sampled_from([E8M0, FP32])),
    st.builds(NestedScale, floats),
)
scaled = (
    st.tuples(elements, granularities, scales, st.sampled_from([None, True, False]))
    .map(lambda parts: _possible(lambda: ScaledFormat(*parts)))
    .filter(lambda found: found is not None)
)
formats = st.one_of(elements, scaled)
