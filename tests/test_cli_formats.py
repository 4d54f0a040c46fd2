"""``fewbits formats``: what a person reads, what a script reads, and what happens to wrong names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewbits.cli import main
from fewbits.formats.catalog import CATALOGUE
from fewbits.machine import Gpu, Machine

Capture = pytest.CaptureFixture[str]

MACHINE = Machine("Xeon of the test", 4, ("avx2", "f16c", "avx512f", "avx512_vnni"), 1 << 30, "Linux", {"python": "3"})


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is the same everywhere, and a terminal of 80 columns."""
    monkeypatch.setattr("fewbits.targets.probe.this_machine", lambda: MACHINE)
    monkeypatch.setattr("fewbits.targets.gpu_probe.gpus", lambda: (Gpu("NVIDIA H200", (9, 0)),))
    monkeypatch.setenv("COLUMNS", "80")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def shown(capsys: Capture, *words: str) -> str:
    assert run("formats", *words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


# --- list --------------------------------------------------------------------------------------


def test_the_list_names_every_format_once(capsys: Capture) -> None:
    rows = shown(capsys).partition("\nbits: ")[0].splitlines()
    assert [line.split()[0] for line in rows if line.startswith("  ") and line[2] != " "] == list(CATALOGUE)


def test_no_command_is_list(capsys: Capture) -> None:
    assert shown(capsys) == shown(capsys, "list")


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_lines_fit_the_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [*CATALOGUE, "int4r/g128", "uint4/g64", "e4m3b11fnuz", "e3m4ftz", "kmeans4/channel", "codebook(-1,0,1)"]
    assert max(map(len, shown(capsys).splitlines())) <= columns
    for name in names:
        assert max(map(len, shown(capsys, "show", name).splitlines())) <= columns, name


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("bf16", ["16", "3.39e38", "2^-133", "2^-7", "Inf", "NaN", "-0", "sm_90"]),
        ("fp16", ["16", "65504", "2^-24", "2^-10", "Inf", "NaN", "-0", "F16C", "[1],", "sm_90"]),
        ("fp8_e4m3", ["8", "448", "2^-9", "0.125", "NaN", "-0", "sm_90"]),
        ("fp8_e4m3fnuz", ["8", "240", "2^-10", "0.125", "NaN", "-"]),
        ("fp4_e2m1", ["4", "6", "0.5", "0.5", "-0", "-"]),
        ("int8", ["8", "127", "1", "-", "-", "AVX512-VNNI,", "sm_90"]),
        ("mxfp8_e4m3", ["8.25", "448", "2^-9", "0.125", "NaN", "-0", "sm_90", "[3]"]),
        ("nvfp4", ["4.5", "6", "0.5", "0.5", "-0", "-"]),
    ],
)
def test_figures_of_a_row(capsys: Capture, name: str, figures: list[str]) -> None:
    assert row(shown(capsys), name) == [name, *figures]


def test_marks_are_explained(capsys: Capture) -> None:
    text = " ".join(shown(capsys).split())
    assert "[1] conversion only" in text
    assert "[2] as the next wider integer format" in text
    assert "[3] products of elements" in text
    assert "Xeon of the test; NVIDIA H200 (sm_90)" in text


def test_every_example_of_the_legend_can_be_shown(capsys: Capture) -> None:
    legend = shown(capsys).partition("Others, by example")[2].partition("Next:")[0]
    examples = [word.rstrip(",") for line in legend.splitlines() for word in line[:22].split()]
    assert len(examples) >= 10
    assert run("formats", "show", *examples) == 0


# --- show --------------------------------------------------------------------------------------


def test_a_float_is_shown_with_all_of_its_codes(capsys: Capture) -> None:
    text = shown(capsys, "show", "fp8_e4m3")
    assert "1 sign, 4 exponent, 3 mantissa bits; bias 7" in text
    assert "e4m3fn" in text
    assert row(text, "largest") == ["largest", "448"]
    assert row(text, "0x38") == ["0x38", "2^0", "1", "1.125", "1.25", "1.375", "1.5", "1.625", "1.75", "1.875"]
    assert row(text, "0x78") == ["0x78", "2^8", "256", "288", "320", "352", "384", "416", "448", "NaN"]
    assert "0x80 added, the sign bit: the same with minus." in text
    assert "fp8_e4m3fnuz: the same widths, other values" in text


def test_a_sign_bit_that_is_more_than_a_sign_is_said(capsys: Capture) -> None:
    assert "the same with minus, but 0x80 is NaN." in shown(capsys, "show", "fp8_e4m3fnuz")


def test_values_are_exact_where_there_is_room(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Codes, values rounded to fit" in shown(capsys, "show", "fp8_e4m3")
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(capsys, "show", "fp8_e4m3")
    assert "rounded" not in text
    assert row(text, "0x00")[2:5] == ["0", "0.001953125", "0.00390625"]


def test_a_wide_float_is_shown_by_its_landmarks(capsys: Capture) -> None:
    text = shown(capsys, "show", "bf16")
    codes = {line[:18].strip(): line[20:28].strip() for line in text.partition("Landmarks")[2].splitlines() if line}
    assert codes["zero"] == "0x0000"
    assert codes["smallest subnormal"] == "0x0001"
    assert codes["smallest normal"] == "0x0080"
    assert codes["one"] == "0x3f80"
    assert codes["largest"] == "0x7f7f"
    assert codes["Inf"] == "0x7f80"
    assert codes["NaN"] == "0x7fc0"
    assert codes["-0"] == "0x8000"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("int4r/g128", ["4 + (32 of the scale) / 128 = 4.25 per element", "-7 to 7", "4096 x 32 scales"]),
        ("mxfp4-rceil", ["8 of the scale", "rule rceil", "4.25 per element", "0x6 2^2 4 6"]),
        ("nvfp4", ["in fp8_e4m3, times one fp32 scale", "4.5 per element"]),
        ("uint4/g64", ["4 of the zero point", "an integer code", "0 to 15"]),
        ("bfp8/tile24x24", ["171 x 171 scales", "8.05556"]),
        ("int8f6", ["-128 to 127, each 2^-6"]),
        ("e4m3b11fnuz", ["bias 11", "largest 30"]),
        ("e4m3", ["fp8_e4m3, fp8_e4m3fnuz: the same widths, other values", "largest 240"]),
        ("e8m0", ["no sign", "0x78 2^-7 2^-6"]),
        ("nf4", ["15 1", "7 0", "QLoRA"]),
        ("ternary", ["0 -1 1 0 2 1"]),
        ("kmeans4/g512", ["512 of the table", "fitted"]),
        ("int8r/channel", ["8, and 32 for each scale", "AVX512-VNNI"]),
        ("fp8_e5m2fnuz", ["has no instructions for it"]),
        ("torch.float8_e5m2", ["fp8_e5m2: FP8 with Inf"]),
    ],
)
def test_what_a_sheet_says(capsys: Capture, name: str, said: list[str]) -> None:
    text = " ".join(shown(capsys, "show", name).split())
    for words in said:
        assert words in text


def test_several_sheets(capsys: Capture) -> None:
    text = shown(capsys, "show", "int8", "fp4_e2m1")
    assert text.index("int8: signed integer") < text.index("fp4_e2m1: FP4")


# --- JSON --------------------------------------------------------------------------------------


def test_json_has_the_same_keys_for_every_format(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "formats.json"
    assert run("formats", "--json", str(file)) == 0
    assert "wrote" in capsys.readouterr().err
    stored = json.loads(file.read_text())
    assert set(stored) == {"machine", "gpus", "formats"}
    assert [entry["description"]["name"] for entry in stored["formats"]] == list(CATALOGUE)
    keys = {tuple(entry["description"]) for entry in stored["formats"]}
    assert keys == {
        (
            *("name", "kind", "what", "bits", "bits_per_element", "tile", "signed", "low", "max", "min_normal"),
            *("min_positive", "epsilon", "infinity", "nan", "negative_zero", "values", "source"),
        )
    }
    native = {tuple(support) for entry in stored["formats"] for support in entry["native"]}
    assert native == {("format", "use", "instruction", "device")}


def test_json_on_standard_output_is_nothing_but_json(capsys: Capture) -> None:
    stored = json.loads(shown(capsys, "show", "mxfp4", "--json", "-"))
    (entry,) = stored["formats"]
    assert (entry["description"]["bits_per_element"], entry["description"]["max"]) == (4.25, 6)
    assert entry["native"] == []


def test_json_overwrites_only_with_force(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "formats.json"
    file.write_text("mine")
    assert run("formats", "list", "--json", str(file)) == 2
    assert file.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run("formats", "list", "--json", str(file), "--force") == 0
    assert json.loads(file.read_text())


# --- wrong usage -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "fp8_e4m4"), "did you mean fp8_e4m3"),
        (("show", "int8", "fp9"), "'fp9' is not a number format"),
        (("show", "int99"), "2 to 16 bits"),
        (("show", "mxfp4-rciel"), "choose floor, ceil, rceil, even"),
    ],
)
def test_a_wrong_name_is_one_line_and_exit_code_2(capsys: Capture, words: tuple[str, ...], said: str) -> None:
    assert run("formats", *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(("words", "said"), [(("show",), "NAME"), (("shwo", "int8"), "show")])
def test_a_wrong_command_is_told_the_right_one(capsys: Capture, words: tuple[str, ...], said: str) -> None:
    assert run("formats", *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
