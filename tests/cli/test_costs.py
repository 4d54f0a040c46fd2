"""``fewbits costs``: what is kept is shown and can be forgotten."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fewbits.cli import main
from fewbits.costs.cache import CostCache
from fewbits.costs.key import RegionCost, RegionKey

Capture = pytest.CaptureFixture[str]

INT8 = "w:int8r/channel a:uint8/tensor"
KEY = RegionKey(
    "conv", "x=1x64x56x56 w=64x64x3x3", INT8, "relu", "onnxruntime:cpu", "1.20", "Xeon", "avx512_vnni", threads=2
)
COST = RegionCost(12e-6, 345e-6, 6.5e-6, "QLinearConv", "int8", "", "2025-02-03")
REFUSED = RegionCost(0.0, 0.0, 0.0, "", "", "no kernel for this shape", "2025-02-04")


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEWBITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "cache" / "costs.sqlite"


@pytest.fixture
def filled(path: Path) -> Path:
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
        cache.put(replace(KEY, op="gemm", signature="x=1x64 w=64x10", neighbours=""), REFUSED)
        cache.put(replace(KEY, scheme="fp32"), replace(COST, kernel="Conv", precision="fp32"))
        cache.put(replace(KEY, target="openvino:cpu"), COST)
    return path


def run(capsys: Capture, *words: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["costs", *words])
    assert stopped.value.code == code
    said = capsys.readouterr()
    return said.out, said.err


def remaining(path: Path) -> int:
    with CostCache.open(path) as cache:
        return len(cache.rows())


def test_a_row_says_what_it_took_where_and_in_which_kernel(capsys: Capture, filled: Path) -> None:
    out, err = run(capsys)
    assert err == ""
    row = next(line for line in out.splitlines() if "QLinearConv" in line).split()
    assert row[:8] == ["conv", "x=1x64x56x56", "w=64x64x3x3", "12.0", "345", "6.50", "2025-02-03", "QLinearConv"]
    assert f"{INT8} on onnxruntime:cpu 1.20; Xeon avx512_vnni, 2 threads" in out
    assert f"{INT8} on openvino:cpu 1.20" in out


def test_a_refusal_says_why_and_has_no_figures(capsys: Capture, filled: Path) -> None:
    out, _ = run(capsys)
    row = next(line for line in out.splitlines() if line.startswith("gemm")).split()
    assert row[3:8] == ["-", "-", "-", "2025-02-04", "refused:"]


def test_count_place_and_size(capsys: Capture, filled: Path) -> None:
    assert run(capsys)[0].splitlines()[-2:] == [f"4 rows, {filled.stat().st_size / 1000:.2f} kB:", str(filled)]


def test_filters(capsys: Capture, filled: Path) -> None:
    assert "1 row," in run(capsys, "--target", "openvino:cpu")[0]
    assert "3 rows," in run(capsys, "--target", "onnx*")[0]
    assert "1 row," in run(capsys, "--scheme", "fp32")[0]
    assert "2 rows," in run(capsys, "--scheme", "w:int8*", "--target", "onnxruntime:cpu")[0]
    assert "0 rows," in run(capsys, "--target", "no such")[0]


def test_a_limit_says_that_there_is_more(capsys: Capture, filled: Path) -> None:
    out, _ = run(capsys, "--limit", "1")
    assert out.count("2025-02-03") == 1
    assert "4 rows, 1 of them shown (--limit 0 shows all)" in out
    assert "shown" not in run(capsys, "--limit", "0")[0]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_lines_fit_the_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch, path: Path, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with CostCache.open(path) as cache:
        cache.put(replace(KEY, op="conv_transpose", signature="x=1x64x56x56 " * 9, neighbours="hard_swish"), COST)
        cache.put(replace(KEY, features="avx2 f16c avx512f avx512_vnni amx_int8 " * 3), REFUSED)
    assert max(map(len, run(capsys)[0].splitlines()[:-1])) <= width


def test_where_nothing_is_stored_nothing_is_made(capsys: Capture, path: Path) -> None:
    assert "No costs are stored yet" in run(capsys)[0]
    assert "No costs are stored yet" in run(capsys, "clear", "--yes")[0]
    assert not path.parent.exists()


def test_a_damaged_file_is_told_of(capsys: Capture, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 5000)
    out, err = run(capsys)
    assert "0 rows," in out
    assert "damaged" in err


def test_clear_forgets_everything(capsys: Capture, filled: Path) -> None:
    assert "Forgot 4 rows" in run(capsys, "clear", "--yes")[0]
    assert remaining(filled) == 0


def test_clear_of_one_target(capsys: Capture, filled: Path) -> None:
    assert "Forgot 1 row in" in run(capsys, "clear", "--target", "openvino:cpu", "--yes")[0]
    assert remaining(filled) == 3


def test_clear_of_a_target_without_rows(capsys: Capture, filled: Path) -> None:
    assert "No costs of tensorrt are stored" in run(capsys, "clear", "--target", "tensorrt", "--yes")[0]
    assert remaining(filled) == 4


def test_options_in_front_of_clear_are_not_overlooked(capsys: Capture, filled: Path) -> None:
    assert "behind the command" in run(capsys, "--target", "openvino:cpu", "clear", "--yes", code=2)[1]
    assert remaining(filled) == 4


@pytest.mark.parametrize("words", [(), ("clear", "--yes")])
def test_a_file_that_cannot_be_used_is_an_error(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, filled: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("fewbits.costs.cache.CostCache.open", partial(CostCache, wait=0.1))
    with closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        out, err = run(capsys, *words, code=1)
    assert out == ""
    assert "locked" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 4), ("\n", 4)])
def test_clear_asks(capsys: Capture, monkeypatch: pytest.MonkeyPatch, filled: Path, answer: str, left: int) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert "Forget 4 rows" in run(capsys, "clear")[0]
    assert remaining(filled) == left


def test_clear_without_anybody_to_ask_changes_nothing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, filled: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "--yes" in run(capsys, "clear", code=2)[1]
    assert remaining(filled) == 4
