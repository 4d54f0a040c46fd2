"""What the search saw, as text: runtimes, plans to begin with, the front, and the groups that matter most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fewbits.measurement import Comparison, Measure
from fewbits.record import FrontRow, GroupRow, RunRecord, SchemeRow
from fewbits.report.harm import HarmText, harm_text
from fewbits.report.labels import scheme_labels
from fewbits.report.predicted import amount
from fewbits.report.rates import rate, unit
from fewbits.report.table import heading, paragraph, table
from fewbits.report.words import bounds, microseconds, readable_bytes, shortened, significant

_SHOWN_PLANS: Final = 12
_SHOWN_GROUPS: Final = 10
_NAME_WIDTH: Final = 36
_OPTIONS_WIDTH: Final = 60
_PREDICTED_BY: Final = "predicted, by measured costs."


def runtimes(record: RunRecord) -> list[str]:
    """The original on every runtime."""
    if record.floats is None:
        return []
    return [heading("The original on each runtime"), *_timed(record.floats, "runtime", f"of {record.floats.baseline}")]


def plans(record: RunRecord) -> list[str]:
    """The plans that were begun with, against the fastest original."""
    if record.plans is None:
        return []
    lines = [heading("Plans to begin with, whatever their accuracy"), *_timed(record.plans, "plan", "speed-up")]
    prediction = record.prediction
    if prediction.plans >= 3:
        lines += [
            "",
            *paragraph(
                f"Costs measured on single groups ranked {prediction.plans} whole plans with a rank correlation of "
                f"{prediction.before:.2f}, and {prediction.after:.2f} after whole plans corrected them."
            ),
        ]
    return lines


def _timed(comparison: Comparison, what: str, ratio: str) -> list[str]:
    rows = []
    for name, latency in comparison.latencies.items():
        speedup = comparison.speedups.get(name)
        shown = "1" if speedup is None else f"{significant(speedup.value)}x {bounds(speedup)}"
        rows.append((shortened(name, 60), rate(latency.median, comparison.measure), shown))
    return table((what, unit(comparison.measure), ratio), rows, right=(1,))


def front(record: RunRecord) -> list[str]:
    """The predicted front from the fastest plan to the safest, with the losses that were measured on it."""
    if not record.front:
        return []
    relative = record.accuracy is not None and record.accuracy.relative
    shown = _spread_out(record.front)
    bytes_of = _bytes_of(record)
    harm = harm_text(record.measure)
    # Where the hardware is not at hand, costs are in the unit of their model.
    model_unit = next((cost.unit for cost in record.predicted), "")
    measure = Measure.LATENCY if record.latency is None else record.latency.measure
    timed = unit(measure)
    rows = [
        (
            "*" if row.chosen else "",
            str(place + 1),
            str(row.low),
            amount(row.cost)
            if model_unit
            else readable_bytes(round(row.cost))
            if bytes_of
            else rate(row.cost, measure),
            harm.figure(row.harm),
            _loss(row, relative=relative),
            rate(row.seconds, measure) if row.seconds >= 0 else "-",
        )
        for place, row in shown
    ]
    cost = model_unit or bytes_of or timed
    headers = ("", "plan", "low", cost, harm.title, "loss", f"measured {timed}")
    columns = len(headers) - bool(model_unit)
    return [
        heading(f"Predicted front ({len(shown)} of {len(record.front)} plans)"),
        *table(headers[:columns], [row[:columns] for row in rows], right=range(1, columns)),
        "",
        *paragraph(
            "low: groups that leave fp32. "
            + (f"{model_unit}: predicted, by a model. " if model_unit else "")
            + ("" if model_unit else f"{bytes_of}: predicted bytes. " if bytes_of else f"{timed}: {_PREDICTED_BY} ")
            + f"{harm.together}. loss: on the selection data. "
            + ("" if model_unit else f"measured {timed}: of the whole model, end to end. ")
            + "*: chosen."
        ),
    ]


def _loss(row: FrontRow, *, relative: bool) -> str:
    if not row.measured:
        return "-"
    return f"{significant(row.loss * 100)}%" if relative else significant(row.loss)


def _spread_out(rows: Sequence[FrontRow]) -> list[tuple[int, FrontRow]]:
    """At most about a dozen rows: both ends, all that were measured, and the rest evenly."""
    step = max(1, len(rows) // _SHOWN_PLANS)
    wanted = {0, len(rows) - 1, *range(0, len(rows), step)}
    return [
        (place, row)
        for place, row in enumerate(rows)
        if place in wanted or row.measured or row.chosen or row.seconds >= 0
    ]


def _bytes_of(record: RunRecord) -> str:
    """What the predicted costs are bytes of; "" where they are times."""
    if record.objective == "memory":
        return "weights and activations"
    for_size = record.objective == "size" or (record.objective == "accuracy" and record.limits.seconds is None)
    return "weights" if for_size else ""


def matter_most(record: RunRecord) -> list[str]:
    """The groups with the most time to win or the most harm to do, with all that they could have been."""
    known = [row for row in record.groups if len(row.schemes) > 1]
    if not known:
        return []
    seconds = sum(_saved(row) for row in known) or 1.0
    harms = sum(_harm(row) for row in known) or 1.0
    ranked = sorted(known, key=lambda row: -max(_saved(row) / seconds, _harm(row) / harms))[:_SHOWN_GROUPS]
    labels = scheme_labels(one.scheme for row in record.groups for one in row.schemes)
    model_unit = next((cost.unit for cost in record.predicted), "")
    harm = harm_text(record.measure)
    rows = [
        (
            shortened(row.name, _NAME_WIDTH),
            labels.get(row.scheme, row.scheme),
            ", ".join(
                _option(one, labels[one.scheme], model_unit, harm)
                for one in row.schemes
                if not (model_unit and one.refusal)
            ),
        )
        for row in ranked
    ]
    return [
        heading(f"Groups that matter most ({len(rows)} of {len(record.groups)})"),
        *table(("group", "scheme", "what each scheme costs"), rows),
        "",
        *paragraph(
            (
                "scheme: "
                + (f"predicted {model_unit}" if model_unit else "us on its own, with conversions from and to fp32")
            )
            + f"; in brackets {harm.alone}."
        ),
    ]


def _option(one: SchemeRow, label: str, unit: str, harm: HarmText) -> str:
    if one.refusal:
        return f"{label} refused"
    total = one.entry + one.compute + one.exit
    text = f"{label} {amount(total) if unit else microseconds(total)}"
    if one.harm < 0:
        return text
    return f"{text} ({harm.with_error(one.harm, one.harm_error)})"


def _saved(row: GroupRow) -> float:
    usable = [one.entry + one.compute + one.exit for one in row.schemes if not one.refusal]
    return max(usable) - min(usable) if usable else 0.0


def _harm(row: GroupRow) -> float:
    return max((one.harm for one in row.schemes), default=0.0)
