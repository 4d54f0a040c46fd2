"""``fewbits formats compare`` from the outside: what it prints and writes, and what it says when something is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from fewbits.cli.formats_compare import compare, split
from fewbits.comparison import CANDIDATES
from fewbits.demo import demo_model
from fewbits.errors import DataError, FewbitsError, FormatError, ModelError, UsageError

ARRAYS = {
    "encoder.weight": np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32),
    "encoder.bias": np.linspace(-1, 1, 32, dtype=np.float32),
    "head.weight": np.random.default_rng(1).standard_normal((8, 32)).astype(np.float16),
    "steps": np.arange(5),
}
app = typer.Typer()
app.command()(compare)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", **ARRAYS)
    save_file(ARRAYS, "w.safetensors")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=True)


def shown(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> FewbitsError:
    """The error that ends the command; nothing may have been printed or written by then."""
    before = sorted(Path().rglob("*"))
    result = run(*words)
    assert isinstance(result.exception, FewbitsError), result.exception
    assert result.exception.exit_code == 2
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return result.exception


@pytest.mark.parametrize("file", ["w.npz", "w.safetensors"])
def test_all_candidates_on_every_float_tensor(file: str) -> None:
    text = shown(file)
    assert "3 tensors, 2,336 elements" in text
    assert all(format in text for format in CANDIDATES)
    assert "Skipped 1 tensor (int64, not a float type of 16 to 64 bits): steps." in text


def test_an_onnx_model() -> None:
    assert "nf4/g64" in shown(str(demo_model()))


def test_progress_is_not_among_the_results() -> None:
    result = run("w.npz")
    assert "comparing formats" in result.stderr
    assert "comparing formats" not in result.stdout


def test_chosen_formats_and_tensors() -> None:
    text = shown("w.npz", "--formats", "int8r/channel, mxfp4", "--tensor", "*.weight")
    assert "2 tensors, 2,304 elements" in text
    assert "bf16" not in text
    assert "encoder.bias" not in text
    one = shown("w.npz", "--tensor", "encoder.bias", "--tensor", "encoder.b*")
    assert one.startswith("encoder.bias: float32, 32, 32 elements")


def test_json_beside_the_table_or_in_its_place() -> None:
    assert "SQNR" in shown("w.npz", "--json", "all.json")
    stored = json.loads(Path("all.json").read_text())
    assert [tensor["name"] for tensor in stored["tensors"]] == ["encoder.weight", "encoder.bias", "head.weight"]
    assert json.loads(shown("w.npz", "--json", "-")) == stored


@pytest.mark.parametrize(("name", "start"), [("p.svg", b"<?xml"), ("p.PNG", b"\x89PNG")])
def test_a_picture_of_the_kind_that_the_name_says(name: str, start: bytes) -> None:
    result = run("w.npz", "--output", name, "--formats", "bf16,mxfp4")
    assert f"wrote {name}" in result.stderr
    assert Path(name).read_bytes().startswith(start)


def test_without_matplotlib_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fewbits.report.comparison_picture", raising=False)
    monkeypatch.delattr("fewbits.report.comparison_picture", raising=False)
    assert "pip install fewbits[report]" in str(refused("w.npz", "--output", "p.svg"))
    assert "mxfp4" in shown("w.npz", "--formats", "mxfp4")


def test_what_is_there_is_overwritten_only_with_force() -> None:
    Path("p.svg").write_bytes(b"mine")
    Path("all.json").write_bytes(b"mine")
    for option, name in (("--output", "p.svg"), ("--json", "all.json")):
        assert "--force" in str(refused("w.npz", option, name))
        assert Path(name).read_bytes() == b"mine"
    shown("w.npz", "--formats", "bf16", "--output", "p.svg", "--json", "all.json", "--force")
    assert Path("p.svg").read_bytes() != b"mine" != Path("all.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("absent.npz",), DataError, "there is no file absent.npz"),
        (("absent.onnx",), ModelError, "absent.onnx"),
        (("note.npz",), DataError, "is not an .npz file"),
        (("note.onnx",), ModelError, "is not an ONNX model"),
        (("note.pt",), DataError, "save_file"),
        (("integers.npz",), DataError, "its 2 tensors are bool, int64 or empty"),
        (("nothing.npz",), DataError, "it has none at all"),
        (("w.npz", "--formats", "fp8_e4m4"), FormatError, "fp8_e4m3"),
        (("w.npz", "--formats", "int8"), FormatError, "int8/tensor"),
        (("w.npz", "--formats", " , "), UsageError, "names no format"),
        (("w.npz", "--tensor", "decoder.*"), DataError, "encoder.weight, encoder.bias, head.weight"),
        (("w.npz", "--tensor", "*", "--tensor", "steps"), DataError, "'steps' matches none of the 3 float tensors"),
        (("w.npz", "--output", "p.gif"), UsageError, ".svg or .png"),
        (("w.npz", "--output", "absent/p.svg"), UsageError, "no folder absent"),
        (("w.npz", "--json", "absent/a.json"), UsageError, "no folder absent"),
        (("w.npz", "--json", "same.svg", "--output", "same.svg"), UsageError, "different files"),
    ],
)
def test_what_cannot_be_used_is_said_before_any_work(words: tuple[str, ...], kind: type[Exception], said: str) -> None:
    for suffix in (".npz", ".onnx", ".pt"):
        Path(f"note{suffix}").write_text("a note\n")
    np.savez("integers.npz", a=np.arange(3), b=np.array([True]))
    np.savez("nothing.npz")
    error = refused(*words)
    assert type(error) is kind
    assert said in str(error)


def test_many_names_are_not_all_listed() -> None:
    np.savez("many.npz", **{f"w{place}": np.ones(1, np.float32) for place in range(50)})
    said = str(refused("many.npz", "--tensor", "x"))
    assert "and 30 more" in said
    assert "w19" in said and "w20" not in said


def test_nan_in_the_weights_is_said() -> None:
    np.savez("nan.npz", w=np.array([[1.0, np.nan, np.inf, 2.0]], np.float32))
    assert "Left out because they are NaN or Inf: 2 elements, in w (1 NaN, 1 Inf)." in shown("nan.npz")


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("mxfp4", ("mxfp4",)),
        ("mxfp4, bf16,,mxfp4", ("mxfp4", "bf16")),
        ("codebook(-1,0,1)/tensor,bf16", ("codebook(-1,0,1)/tensor", "bf16")),
    ],
)
def test_formats_are_split_at_commas(text: str, formats: tuple[str, ...]) -> None:
    assert split(text) == formats
