"""A finished run as text of at most 100 columns, in ASCII but for the names that it quotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from statistics import median

from fewbits.formats.scheme import FP32
from fewbits.measurement import Comparison, Interval, Latency, Measure
from fewbits.outcome import Outcome
from fewbits.record import Accuracy, GroupRow, RunRecord
from fewbits.report.codes_found import codes_found
from fewbits.report.explain_text import explained
from fewbits.report.harm import HarmText, harm_text
from fewbits.report.labels import scheme_labels
from fewbits.report.memory import memory_rows
from fewbits.report.predicted import predicted_row
from fewbits.report.rates import gain_word, rate, rate_bounds, unit
from fewbits.report.search_text import front, matter_most, plans, runtimes
from fewbits.report.spread import median_interval
from fewbits.report.table import heading, paragraph, table
from fewbits.report.words import (
    bounds,
    microseconds,
    readable_bytes,
    readable_time,
    shortened,
    significant,
)

_NAME_WIDTH = 28
_KERNEL_WIDTH = 18
_CONFIDENCE = 0.95


def render(record: RunRecord) -> str:
    """The whole report of `record`, ending with a newline."""
    parts = [
        [summary(record).rstrip("\n")],
        _settings(record),
        _splits(record),
        runtimes(record),
        plans(record),
        front(record),
        _trials(record),
        matter_most(record),
        explained(record),
        codes_found(record.groups),
        _kernels(record),
        _groups(record),
        _machine(record),
        _notes(record),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def summary(record: RunRecord) -> str:
    """What came out, in a screenful: outcome, reason, and the table of the original and the result."""
    lines = [
        f"{_title(record.outcome)}: {shortened(record.model, 60)}",
        *paragraph(record.outcome.predicted_advice if record.predicted else record.outcome.advice),
        *(paragraph(f"Reason: {record.reason}") if record.reason else ()),
        "",
        *table(("", "original", _result_title(record), "change"), _comparison_rows(record)),
    ]
    if record.accuracy is not None or record.latency is not None:
        lines += ["", *paragraph(_how_measured(record))]
    return "\n".join(lines) + "\n"


def _title(outcome: Outcome) -> str:
    return str(outcome).upper().replace("_", " ")


def _result_title(record: RunRecord) -> str:
    if record.outcome is Outcome.MET:
        return "tuned"
    return "tried" if record.accuracy is None else "best found"


def _comparison_rows(record: RunRecord) -> list[tuple[str, str, str, str]]:
    rows = []
    if record.accuracy is not None:
        rows.append(_accuracy_row(record.accuracy))
    if record.latency is not None:
        rows += _latency_rows(record.latency)
    if record.memory is not None:
        rows += memory_rows(record.memory)
    if record.predicted:
        return [*rows, *map(predicted_row, record.predicted)]
    if record.outcome is Outcome.MET or record.accuracy is not None or not rows:
        rows.append(_size_row(record.original_bytes, record.tuned_bytes))
    return rows


def _accuracy_row(accuracy: Accuracy) -> tuple[str, str, str, str]:
    unit, factor = ("%", 100.0) if accuracy.relative else ("", 1.0)
    value, low, high = (
        significant(figure * factor, 2) for figure in (accuracy.loss.value, accuracy.loss.low, accuracy.loss.high)
    )
    change = f"loss {value}{unit} [{low}, {high}]"
    if accuracy.loss.low == accuracy.loss.high:
        change = f"loss {value}{unit}"
    return accuracy.metric, _score(accuracy.original), _score(accuracy.tuned), change


def _score(interval: Interval) -> str:
    # A function that gives one number says nothing of its spread.
    spread = "" if interval.low == interval.high else f" {bounds(interval, 4)}"
    return f"{significant(interval.value, 4)}{spread}"


def _latency_rows(latency: Comparison) -> list[tuple[str, str, str, str]]:
    measure = latency.measure
    original = _latency(latency.latencies[latency.baseline], measure)
    rows = []
    for name, speedup in latency.speedups.items():
        what = f"{measure}, {unit(measure)}"
        label = what if len(latency.speedups) == 1 else f"{what} ({name})"
        change = f"{significant(speedup.value)}x {gain_word(measure)} {bounds(speedup)}"
        if speedup.low <= 1:
            change = f"{significant(speedup.value)}x {bounds(speedup)}"
        rows.append((label, original, _latency(latency.latencies[name], measure), change))
    return rows


def _latency(latency: Latency, measure: Measure) -> str:
    return f"{rate(latency.median, measure)} {rate_bounds(_spread(latency), measure)}"


def _spread(latency: Latency) -> Interval:
    return median_interval([median(block) for block in latency.blocks])


def _size_row(original: int, tuned: int) -> tuple[str, str, str, str]:
    ratio = original / tuned if tuned else 0.0
    change = f"{significant(ratio)}x smaller" if ratio > 1 else f"{significant(ratio)}x"
    return "file size", readable_bytes(original), readable_bytes(tuned), "the same" if original == tuned else change


def _how_measured(record: RunRecord) -> str:
    text = "[low, high] are 95 % intervals."
    if record.accuracy is not None:
        text += f" {_accuracy_text(record.accuracy, own_data=record.splits.acceptance == 0)}"
    if record.predicted:
        text += f" Costs are predicted by models of hardware ({record.target}), not measured."
    if record.memory is not None:
        text += f" Memory: {record.memory.how}."
    if record.latency is not None:
        text += f" {record.latency.measure.capitalize()}: {record.latency.how}."
        held = min(_spread(latency).confidence for latency in record.latency.latencies.values())
        if held < _CONFIDENCE:
            text += f" So few rounds hold each {record.latency.measure}'s own median with {held:.0%} only."
    return text


def _accuracy_text(accuracy: Accuracy, *, own_data: bool) -> str:
    allowed = f"{accuracy.max_loss * 100:g}% of the original's" if accuracy.relative else f"{accuracy.max_loss:g}"
    allowed = allowed if isfinite(accuracy.max_loss) else "any"
    what = "on data of its own" if own_data else f"{accuracy.samples} samples used once"
    return f"{accuracy.metric}: {accuracy.direction} is better, allowed loss {allowed}, {what}."


def _settings(record: RunRecord) -> list[str]:
    rows = [
        ("objective", record.objective),
        *((("limits", str(record.limits)),) if record.limits.any else ()),
        ("target", f"{record.target}, {_counted(record.threads, 'thread')}{_streams(record.streams)}"),
        ("calibration", record.calibration or "-"),
        ("sensitivity", record.measure),
        ("evaluations", f"{record.evaluations} of at most {record.max_evaluations}"),
        ("time", readable_time(record.seconds)),
        ("model sha256", record.model_sha256),
    ]
    return _listed("Run", rows)


def _streams(streams: int) -> str:
    return f" for {_counted(streams, 'stream')}" if streams else ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _splits(record: RunRecord) -> list[str]:
    splits = record.splits
    rows = [
        ("calibration", f"{splits.calibration} samples"),
        ("search", f"{splits.search} samples"),
        ("selection", f"{splits.selection} samples"),
        ("acceptance", f"{splits.acceptance} samples"),
        *(("shared", text) for text in splits.shared),
    ]
    return _listed("Data", rows)


def _kernels(record: RunRecord) -> list[str]:
    if not record.kernels:
        return []
    most_first = sorted(record.kernels.items(), key=lambda item: (-item[1], item[0]))
    return _listed("Kernels that ran", [(f"{count} x", name) for name, count in most_first])


def _groups(record: RunRecord) -> list[str]:
    if not record.groups:
        return []
    labels = scheme_labels(row.scheme for row in record.groups)
    reasons = {
        reason: number
        for number, reason in enumerate(dict.fromkeys(row.reason for row in record.groups if row.reason), 1)
    }
    headers = ("group", "scheme", "sens.", "fp32 us", "low us", "kernel", "ran in", "why")
    harm = harm_text(record.measure)
    rows = [_group_row(row, labels, reasons, harm) for row in record.groups]
    low = sum(row.scheme != str(FP32) for row in record.groups)
    lines = [heading(f"Groups ({low} of {len(record.groups)} in low precision)")]
    lines += table(headers, rows, right=(2, 3, 4))
    lines.append("")
    lines += paragraph(
        f"sens.: {harm.name} that the low-precision form of this group alone causes. "
        "us: microseconds per call in the whole model. -: not measured on its own."
    )
    for label, scheme in ((label, scheme) for scheme, label in labels.items() if label != scheme):
        lines += paragraph(f"{label}: {scheme}")
    for reason, number in reasons.items():
        lines += paragraph(f"[{number}] {reason}", hang="    ")
    return lines


def _group_row(row: GroupRow, labels: Mapping[str, str], reasons: Mapping[str, int], harm: HarmText) -> tuple[str, ...]:
    return (
        shortened(row.name, _NAME_WIDTH),
        labels[row.scheme],
        "-" if row.sensitivity < 0 else harm.figure(row.sensitivity),
        microseconds(row.float_seconds),
        microseconds(row.low_seconds),
        shortened(row.kernel, _KERNEL_WIDTH) or "-",
        row.precision or "-",
        f"[{reasons[row.reason]}]" if row.reason else "",
    )


def _trials(record: RunRecord) -> list[str]:
    if not record.trials:
        return []
    relative = record.accuracy is not None and record.accuracy.relative
    rows = [
        (
            str(trial.number),
            significant(trial.score, 4),
            f"{significant(trial.loss * 100)}%" if relative else significant(trial.loss),
            "yes" if trial.within else "no",
            str(trial.reverted),
            str(trial.samples) if trial.samples else "-",
            readable_time(trial.seconds),
            trial.what,
        )
        for trial in record.trials
    ]
    headers = ("trial", "score", "loss", "within", "in fp32", "samples", "time", "what")
    return [heading("Trials"), *table(headers, rows, right=(0, 1, 2, 4, 5, 6))]


def _machine(record: RunRecord) -> list[str]:
    machine = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    rows = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("features", " ".join(machine.features) or "none that matter here"),
        ("memory", readable_bytes(machine.memory_bytes)),
        ("system", machine.system),
        ("versions", versions),
    ]
    return _listed("Machine", rows)


def _notes(record: RunRecord) -> list[str]:
    lines = [line for note in record.notes for line in paragraph(f"- {note}", hang="  ")]
    return [heading("Notes"), *lines] if lines else []


def _listed(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    return [heading(title), *table(("", ""), list(rows))[1:]]
