"""A comparison of number formats as JSON, for other programs."""

from __future__ import annotations

import json
from math import isfinite

from fewbits.comparison import Cell, FormatComparison, Refused, Row, Total

_VERSION = 1
_Value = str | int | float
_Object = dict[str, _Value]


def to_json(comparison: FormatComparison) -> str:
    """`comparison` as JSON: totals by format, every tensor in every format, what was skipped.

    JSON has no infinite numbers: an SQNR without error is ``"inf"``, one with nothing but error ``"-inf"``.
    """
    best = {total.format for total in comparison.worth_their_bits}
    document = {
        "version": _VERSION,
        "formats": list(comparison.formats),
        "totals": [_total(total, best=total.format in best) for total in comparison.totals],
        "tensors": [
            {
                "name": row.name,
                "dtype": row.dtype,
                "shape": list(row.shape),
                "nan": row.nans,
                "infinite": row.infinities,
                "formats": [_cell(format, row, place) for place, format in enumerate(comparison.formats)],
            }
            for row in comparison.rows
        ],
        "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in comparison.skipped],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _total(total: Total, *, best: bool) -> _Object:
    return {
        "format": total.format,
        "best_for_its_bits": best,
        "tensors": total.arrays,
        "elements": total.elements,
        "bits_per_element": total.bits,
        "sqnr_db": _number(total.sqnr),
        "median_sqnr_db": _number(total.median_sqnr),
        "worst_sqnr_db": _number(total.worst_sqnr),
        "worst": total.worst,
        "clipped_share": total.clipped_share,
        "underflowed_share": total.underflowed_share,
        "max_error": _number(total.max_error),
    }


def _cell(format: str, row: Row, place: int) -> _Object:
    cell: Cell | Refused = row.cells[place]
    if isinstance(cell, Refused):
        return {"format": format, "not_applied": cell.reason}
    fidelity = cell.fidelity
    return {
        "format": format,
        "bits_per_element": cell.bits,
        "sqnr_db": _number(fidelity.sqnr),
        "clipped": fidelity.clipped,
        "underflowed": fidelity.underflowed,
        "max_error": _number(fidelity.max_error),
    }


def _number(value: float) -> _Value:
    return value if isfinite(value) else str(value)
