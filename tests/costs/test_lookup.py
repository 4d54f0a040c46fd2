"""Tables of costs that others made: read as they are, or refused with what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewbits.costs.lookup import LookupTable, load, load_csv, load_npy
from fewbits.costs.model import LayerSpec
from fewbits.errors import UsageError
from fewbits.formats.text import parse


def layer(name: str) -> LayerSpec:
    return LayerSpec(name, "conv", 1, 1, 1, 1, 1, 1)


def test_an_array_has_the_weight_s_bits_before_the_activation_s(tmp_path: Path) -> None:
    costs = np.arange(2 * 8 * 6, dtype=np.int64).reshape(2, 8, 6)
    np.save(tmp_path / "costs.npy", costs)
    table = load_npy(tmp_path / "costs.npy", ["stem", "head"], "s")
    assert table.cost(layer("head"), 7, 3, 8) == costs[1, 6, 2]
    assert table.cost(layer("stem"), parse("int8r/channel"), parse("uint4/tensor"), 8) == costs[0, 7, 3]
    assert (table.unit, table.additive) == ("s", True)
    assert table.supports("conv", 8, 6) and not table.supports("conv", 6, 8)


def test_a_text_may_have_holes(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text("layer,w,a,cost\nstem,8,8,12.5\nstem,4,8,7\n\nhead, 8, 8, 3e-3\n")
    table = load_csv(path)
    assert table.cost(layer("stem"), 4, 8, 8) == 7
    assert table.cost(layer("head"), 8, 8, 8) == 3e-3
    assert table.supports("conv", 8, 8)
    assert not table.supports("conv", 4, 8)
    with pytest.raises(UsageError, match="no cost for conv head with weight 4 bits and activation 8 bits"):
        table.cost(layer("head"), 4, 8, 8)


def test_a_layer_without_a_row_is_an_error() -> None:
    table = LookupTable(("stem",), np.ones((1, 8, 8)))
    with pytest.raises(UsageError, match="no layer 'tail'; it has stem"):
        table.cost(layer("tail"), 8, 8, 8)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        (np.ones((2, 8)), r"shape \(2, 8\); it is one table \[layer, w - 1, a - 1\]"),
        (np.ones((3, 8, 8)), "3 rows for 2 layers"),
        (np.ones((2, 0, 8)), "shape"),
        (np.full((2, 8, 8), -1.0), "negative"),
        (np.full((2, 8, 8), np.inf), "infinite"),
        (np.full((2, 8, 8), "x"), "no array of numbers"),
        (np.full((2, 8, 8), None), "cannot read"),
    ],
)
def test_a_bad_array_says_why(tmp_path: Path, costs: np.ndarray, said: str) -> None:
    np.save(tmp_path / "costs.npy", costs)
    with pytest.raises(UsageError, match=said):
        load_npy(tmp_path / "costs.npy", ["stem", "head"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with ''"),
        ("layer,a,w,cost\nstem,8,8,1\n", "begins with 'layer,w,a,cost'"),
        ("layer,w,a,cost\n", "shape"),
        ("layer,w,a,cost\nstem,8,8\n", "line 2"),
        ("layer,w,a,cost\nstem,8,8,1\nstem,8,x,1\n", "line 3"),
        ("layer,w,a,cost\nstem,0,8,1\n", "1 to 64 bits, not 0 and 8"),
        ("layer,w,a,cost\nstem,8,8,1\nstem,8,8,2\n", "line 3: stem with 8 and 8 bits stands there twice"),
        ("layer,w,a,cost\nstem,8,8,-1\n", "negative"),
        ("layer,w,a,cost\nstem,8,8,inf\n", "infinite"),
    ],
)
def test_a_bad_text_says_why_and_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        load_csv(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\x00")
    np.savez(tmp_path / "several.npz", a=np.ones(3))
    for name in ("broken.npy", "none.npy"):
        with pytest.raises(UsageError, match=f"cannot read a table of costs from .*{name}"):
            load_npy(tmp_path / name, [])
    for name in ("broken.csv", "none.csv"):
        with pytest.raises(UsageError, match=f"cannot read a table of costs from .*{name}"):
            load_csv(tmp_path / name)
    with pytest.raises(UsageError, match="no array of numbers"):
        load_npy(tmp_path / "several.npz", [])


def test_the_suffix_says_what_a_file_is(tmp_path: Path) -> None:
    """An array has no names: they stand beside it."""
    (tmp_path / "costs.CSV").write_text("layer,w,a,cost\nstem,1,1,2\n")
    assert load(tmp_path / "costs.CSV").cost(layer("stem"), 1, 1, 8) == 2
    np.save(tmp_path / "costs.npy", np.array([[[3.0]], [[4.0]]]))
    with pytest.raises(UsageError, match=r"cannot read .*costs\.txt.*name the rows of costs\.npy, one layer a line"):
        load(tmp_path / "costs.npy")
    (tmp_path / "costs.txt").write_text("stem\nblock 1/conv\n\n")
    assert load(tmp_path / "costs.npy").cost(layer("block 1/conv"), 1, 1, 8) == 4
    (tmp_path / "costs.txt").write_text("stem\n")
    with pytest.raises(UsageError, match="2 rows for 1 layers"):
        load(tmp_path / "costs.npy")
    with pytest.raises(UsageError, match=r"costs\.xlsx is neither \.csv nor \.npy"):
        load(tmp_path / "costs.xlsx")
