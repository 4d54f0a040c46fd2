"""Why groups lose accuracy and what was tried, as text."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Final

from fewbits.record import Explanation, RemedyRow, RunRecord
from fewbits.report.codes_found import codes_found
from fewbits.report.table import heading, paragraph
from fewbits.report.words import shortened, significant

_NAME_WIDTH: Final = 60
_NOTHING_RANKED: Final = (
    "No group was ranked: the first plan was within the budget, or no plan pays, so there is no loss to explain."
)
_FP16_MAX: Final = 65504.0


def explained(record: RunRecord) -> list[str]:
    """The section of the report; nothing where there is nothing to explain."""
    return _section(record.explanations) if record.explanations else []


def render_explanations(record: RunRecord, pattern: str = "") -> str:
    """What ``fewbits explain`` shows, of the groups whose names hold `pattern`, ending with a newline."""
    found = [one for one in record.explanations if pattern in one.group]
    codes = codes_found([row for row in record.groups if pattern in row.name])
    if not record.explanations or (codes and not found):
        lines = [] if record.explanations else paragraph(_NOTHING_RANKED)
        return "\n".join([*lines, *([""] if lines and codes else []), *codes]) + "\n"
    if not found:
        names = ", ".join(shortened(one.group, _NAME_WIDTH) for one in record.explanations)
        return "\n".join(paragraph(f"No group with more than its share is called so; there are {names}.")) + "\n"
    return "\n".join([*_section(found), *([""] if codes else []), *codes]) + "\n"


def _section(explanations: Sequence[Explanation]) -> list[str]:
    lines = [heading("What costs accuracy, and what was done about it")]
    for one in explanations:
        lines += ["", *_one(one)]
    return lines


def _one(one: Explanation) -> list[str]:
    lines = [f"{shortened(one.group, _NAME_WIDTH)} ({one.kind}): {one.share:.0%} of the harm, in {one.scheme}"]
    lines += [f"  {line}" for line in paragraph(f"Cause: {one.cause}.", width=96)]
    if one.seen:
        lines += [f"  {line}" for line in paragraph(f"Seen: {_seen(one)}.", width=96)]
    lines += [f"  {line}" for row in one.remedies for line in paragraph(f"Tried: {_tried(row)}.", width=96)]
    return [*lines, f"  Result: {one.result}."]


def _seen(one: Explanation) -> str:
    seen = one.seen
    parts = [
        f"signal to noise {_decibels(seen['inputs_error'])} with what it reads in codes alone"
        + (f", {_decibels(seen['weight_error'])} with its second operand alone" if seen["weight_error"] > 0 else ""),
        f"largest channel {significant(seen['outliers'])} times the median one",
        f"largest value {significant(seen['tail'])} times the root mean square",
    ]
    if seen["clipped"] > 0:
        parts.append(f"{seen['clipped']:.0%} of the first error from values beyond the range")
    if seen["peak"] > _FP16_MAX:
        parts.append(f"values up to {significant(seen['peak'])}, which fp16 does not hold")
    return "; ".join(parts)


def _tried(row: RemedyRow) -> str:
    how = "measured" if row.measured else "expected"
    return f"{row.remedy}, {how} {row.share:.2f} of the error; {'used' if row.used else 'not used'}"


def _decibels(error: float) -> str:
    return "without error" if error <= 0 else f"{-10 * log10(error):.0f} dB"
