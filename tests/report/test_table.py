from __future__ import annotations

from fewbits.report.table import WIDTH, table


def test_columns_line_up_and_numbers_are_flush_right() -> None:
    assert table(("name", "us", "why"), [("a", "1.5", "x"), ("long", "120", "")], right=(1,)) == [
        "name   us  why",
        "a     1.5  x",
        "long  120",
    ]


def test_the_last_column_wraps() -> None:
    lines = table(("a", "b"), [("x", "word " * 40)])
    assert len(lines) == 4
    assert max(map(len, lines)) <= WIDTH
    assert lines[2].startswith("   word")


def test_square_brackets_are_text() -> None:
    assert table(("a",), [("[bold]x[/bold]",)]) == ["a", "[bold]x[/bold]"]
