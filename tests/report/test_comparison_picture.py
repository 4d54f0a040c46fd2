"""The picture holds what the comparison holds, is the same every time, and leaves matplotlib as it was."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from fewbits.comparison import FormatComparison, compare
from fewbits.data.weights import FileWeights
from fewbits.graph import Tensor
from fewbits.report.comparison_picture import draw

FORMATS = ("bf16", "int8r/channel", "mxfp4", "ternary/channel", "kmeans2/tensor")


def comparison(count: int = 2, *, special: bool = False) -> FormatComparison:
    random = np.random.default_rng(0)
    arrays = {f"layer{place}.weight": random.standard_normal((8, 64)).astype(np.float32) for place in range(count)}
    if special:
        arrays |= {
            "bias": np.ones(8, np.float32),
            "zeros": np.zeros((4, 4), np.float32),
            "scalar": np.array(1e-30, np.float32),
            "nan": np.full((2, 2), np.nan, np.float32),
        }
    tensors = tuple(Tensor(name, "float32", array.shape) for name, array in arrays.items())
    return compare(FileWeights(tensors, arrays.__getitem__), FORMATS)


def words(picture: bytes) -> list[str]:
    """Every text of an SVG."""
    return [
        " ".join("".join(node.itertext()).split())
        for node in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_heat_map_has_every_tensor_and_format() -> None:
    found = comparison()
    shown = words(draw(found, ".svg", chosen=False))
    assert {row.name for row in found.rows} <= set(shown)
    assert set(FORMATS) <= set(shown)
    for row in found.rows:
        for cell in row.cells:
            assert f"{cell.fidelity.sqnr:.0f}" in shown  # type: ignore[union-attr]


@pytest.mark.parametrize("chosen", [False, True])
def test_chosen_tensors_have_a_histogram_each(*, chosen: bool) -> None:
    shown = words(draw(comparison(), ".svg", chosen=chosen))
    assert sum("(8 x 64)" in text for text in shown) == (2 if chosen else 1)
    assert sum("% of elements" in text for text in shown) == (2 if chosen else 1)


def test_of_many_tensors_the_worst_are_drawn() -> None:
    found = comparison(45)
    shown = words(draw(found, ".svg", chosen=True))
    assert sum(text.startswith("layer") and "(" not in text for text in shown) == 40
    assert found.worst_first[0].name in shown
    assert any("the 40 tensors with the lowest mean of 45" in text for text in shown)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_tensors_of_all_kinds_are_drawn_the_same_every_time(suffix: str) -> None:
    found = comparison(1, special=True)
    first = draw(found, suffix, chosen=True)
    assert draw(found, suffix, chosen=True) == first
    if suffix == ".png":
        with Image.open(io.BytesIO(first)) as image:
            assert min(image.size) > 500


def test_every_tensor_alone_can_be_drawn() -> None:
    found = comparison(0, special=True)
    for row in found.rows:
        assert row.name in words(draw(FormatComparison(FORMATS, (row,)), ".svg", chosen=True))


def test_matplotlib_is_left_as_it_was() -> None:
    before = dict(mpl.rcParams)
    backend = mpl.get_backend(auto_select=False)
    draw(comparison(), ".svg", chosen=False)
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend(auto_select=False) == backend
