"""The named formats: one name for each, one format for each name, and the figures that their sources print."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fewbits.formats import catalog, floating
from fewbits.formats.catalog import CATALOGUE, SCALED
from fewbits.formats.floating import FLOATS, FloatFormat
from fewbits.formats.granularity import Group
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import NestedScale, PowerOfTwoScale


def test_no_format_has_two_names() -> None:
    assert len(set(CATALOGUE.values())) == len(CATALOGUE)


@pytest.mark.parametrize("module", [catalog, floating])
def test_no_name_is_given_twice(module: object) -> None:
    """A dict would keep the last one without a word."""
    tree = ast.parse(Path(str(vars(module)["__file__"])).read_text())
    for table in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
        names = [key.value for key in table.keys if isinstance(key, ast.Constant)]
        assert len(names) == len(set(names))
    assert not set(FLOATS) & set(SCALED)


def test_everything_with_a_name_is_in_the_catalogue() -> None:
    assert set(CATALOGUE) >= set(FLOATS) | set(SCALED)


@pytest.mark.parametrize(
    ("name", "bits", "largest", "smallest_normal", "smallest"),
    [
        # OCP FP8 v1.0, table 1
        ("fp8_e5m2", 8, 57344, 2.0**-14, 2.0**-16),
        ("fp8_e4m3", 8, 448, 2.0**-6, 2.0**-9),
        # OCP MX v1.0, tables 4 and 5
        ("fp6_e3m2", 6, 28, 0.25, 0.0625),
        ("fp6_e2m3", 6, 7.5, 1, 0.125),
        ("fp4_e2m1", 4, 6, 1, 0.5),
        # IEEE 754-2019, table 3.5
        ("fp16", 16, 65504, 2.0**-14, 2.0**-24),
        ("fp32", 32, (2 - 2.0**-23) * 2.0**127, 2.0**-126, 2.0**-149),
        # arXiv 2206.02915
        ("fp8_e4m3fnuz", 8, 240, 2.0**-7, 2.0**-10),
        ("fp8_e5m2fnuz", 8, 57344, 2.0**-15, 2.0**-17),
    ],
)
def test_limits_are_those_of_the_source(
    name: str, bits: int, largest: float, smallest_normal: float, smallest: float
) -> None:
    format = CATALOGUE[name]
    assert isinstance(format, FloatFormat)
    assert (format.bits, format.max, format.min_normal, format.min_positive) == (
        bits,
        largest,
        smallest_normal,
        smallest,
    )


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8"])
def test_mx_formats_share_a_power_of_two_among_32(name: str) -> None:
    """OCP MX v1.0, table 2."""
    format = SCALED[name]
    assert format.granularity == Group(32)
    assert isinstance(format.scale, PowerOfTwoScale)
    assert (format.scale.storage.bits, format.scale.storage.max) == (8, 2.0**127)


def test_elements_of_mxint8_are_multiples_of_a_64th() -> None:
    """OCP MX v1.0, table 6: largest 1 63/64, smallest 1/64; the code of -2 is left unused."""
    element = SCALED["mxint8"].element
    assert isinstance(element, IntFormat)
    assert (element.grid.low, element.max, element.grid.smallest_step) == (-1 - 63 / 64, 1 + 63 / 64, 1 / 64)


def test_nvfp4_shares_an_e4m3_scale_among_16() -> None:
    format = SCALED["nvfp4"]
    assert format.granularity == Group(16)
    assert isinstance(format.scale, NestedScale)
    assert str(format.scale.block) == "fp8_e4m3"
