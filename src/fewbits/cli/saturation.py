"""``fewbits saturation``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewbits.cli.arguments import Model
from fewbits.cli.output import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewbits.flow import SaturationRow


def saturation(
    model: Model,
    plan: Annotated[Path, typer.Option(help="The plan.json of a run.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(help="Data as for tune: which products are cut on it, not only which may be.", show_default=False),
    ] = None,
) -> None:
    """Show which products of a plan can saturate on x86 CPUs without VNNI (AVX2, AVX-512), and which do."""
    from fewbits import flow

    show(describe(flow.saturation(model, plan, data)))


def describe(rows: Sequence[SaturationRow]) -> str:
    """`rows` as text."""
    from fewbits.report.table import paragraph, table
    from fewbits.report.words import shortened

    if not rows:
        return "No product of this plan has static 8-bit codes, so nothing can saturate.\n"
    possible, cut = sum(row.possible for row in rows), sum(row.observed > 0 for row in rows)
    seen = any(row.observed >= 0 for row in rows)
    found = f"{possible} of {len(rows)} products in 8-bit codes can be cut to 16 bits on x86 CPUs without VNNI"
    found += f"; {cut} are on this data." if seen else "; give --data to see which are."
    advice = "For such a CPU tune with --serve-on avx2 (or avx512)." if possible else "The plan is safe on any CPU."
    shown = [row for row in rows if row.possible]
    lines = table(
        ("group", "kind", "scheme", "outputs that are cut"),
        [
            (shortened(row.group, 40), row.kind, row.scheme, f"{row.observed:.2%}" if row.observed >= 0 else "-")
            for row in sorted(shown, key=lambda row: -row.observed)
        ],
        right=(3,),
    )
    return "\n".join([*paragraph(f"{found} {advice}"), *(["", *lines] if shown else [])]) + "\n"
