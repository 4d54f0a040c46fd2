"""Codes beside a plan: names tell the content, and files that changed are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fewbits
from fewbits.codes import FILE, beside, name_of, read_codes
from fewbits.errors import PlanError
from fewbits.formats.files import save_tensors
from fewbits.formats.qtensor import QTensor


def codes(format: str = "uint4/g32@0", seed: int = 0) -> QTensor[np.ndarray]:
    return fewbits.quantize(np.random.default_rng(seed).standard_normal((64, 6)).astype(np.float32), format)


@given(st.integers(0, 63), st.integers(0, 5))
def test_any_change_of_a_code_changes_the_name(row: int, column: int) -> None:
    one = codes()
    other = one.codes.copy()
    other[row, column] ^= 1
    assert name_of(replace(one, codes=other)) != name_of(one)


def test_scales_zero_points_and_the_format_are_part_of_the_name() -> None:
    one = codes()
    others = [
        replace(one, scale=one.scale * 2),
        replace(one, zero_point=one.zero_point + 1),
        fewbits.quantize(np.ones((64, 6), np.float32), "uint4/g64@0"),
    ]
    assert len({name_of(one), *map(name_of, others)}) == 4
    assert name_of(codes()) == name_of(one)


def test_they_are_read_from_beside_the_plan(tmp_path: Path) -> None:
    kept = {name_of(one): one for one in (codes(), codes("int4r/g32@0"))}
    save_tensors(tmp_path / FILE, kept)
    found = beside(tmp_path / "plan.json")
    assert {name: name_of(one) for name, one in found.items()} == {name: name for name in kept}
    assert beside(tmp_path / "elsewhere" / "plan.json") == {}


def test_a_damaged_or_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    save_tensors(path, {name_of(codes()): codes(seed=1)})
    with pytest.raises(PlanError, match="are not what they were"):
        read_codes(path)
    path.write_bytes(b"nothing of the sort")
    with pytest.raises(PlanError, match="cannot be read"):
        beside(tmp_path / "plan.json")
