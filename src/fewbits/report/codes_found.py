"""How the codes of weights were found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fewbits.record import GroupRow
from fewbits.report.labels import scheme_labels
from fewbits.report.table import heading, paragraph, table
from fewbits.report.words import shortened

_NAME_WIDTH: Final = 40
_WHAT: Final = (
    "error: squared error of the layer's outputs over that of rounding to nearest, on calibration inputs that codes "
    "were not fitted to."
)


def codes_found(groups: Sequence[GroupRow]) -> list[str]:
    """Of those of `groups` whose codes were searched for: the way, and what it bought; nothing if there are none."""
    found = [row for row in groups if row.codes]
    if not found:
        return []
    labels = scheme_labels(row.scheme for row in found)
    rows = [
        (shortened(row.name, _NAME_WIDTH), labels[row.scheme], row.codes, f"{row.codes_share:.2f}") for row in found
    ]
    lines = [heading(f"Codes that were searched for ({len(found)} weights)")]
    lines += table(("group", "scheme", "by", "error"), rows, right=(3,))
    lines += ["", *paragraph(_WHAT)]
    for scheme, label in labels.items():
        if label != scheme:
            lines += paragraph(f"{label}: {scheme}")
    return lines
