"""Writes the Markdown tables from benchmarks/results/*.json: ``python benchmarks/table.py [--check]``.

A table stands between ``<!-- table:NAME -->`` and ``<!-- /table -->`` in README.md and benchmarks/README.md.
``--check`` writes nothing and ends with exit code 1 if a file is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log2
from pathlib import Path
from statistics import fmean, median

from pydantic import TypeAdapter

from fewbits.measurement import Interval
from fewbits.outcome import Outcome
from results import (
    AllTrained,
    Exported,
    Form,
    Prediction,
    SideBySide,
    Taken,
    Trained,
    Tuned,
    read_exported,
    read_latency,
    read_peers,
    read_predictions,
    read_trained,
)

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
MARKED = re.compile(r"(<!-- table:(?P<name>\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
NOT_MEASURED = "Not measured yet.\n"
SHOWN = (
    "fewbits",
    "static default",
    "static per-channel u8s8",
    "static per-channel u8s8, OpenVINO",
    "dynamic",
    "bf16, OpenVINO",
    "NNCF default",
    "NNCF mixed",
    "NNCF performance",
)
"""The columns of the short table of peers."""
CONTROLLED = ("fewbits", "NNCF accuracy control")
RUNTIMES = {"onnxruntime:cpu": "ONNX Runtime", "openvino:cpu": "OpenVINO"}


def latency_table(rows: Sequence[Tuned]) -> str:
    """What tuning gave, one line per model."""
    if not rows:
        return NOT_MEASURED
    head = ("model", "served on", "speed-up", "fp32 → tuned", "output error", "file size", "evaluations", "tuning time")
    return markdown(head, [_tuned_cells(row) for row in rows]) + taken([row.taken for row in rows])


def _tuned_cells(row: Tuned) -> tuple[str, ...]:
    record = row.record
    measured = record.latency
    speed, milliseconds = "-", "-"
    if measured is not None:
        name, speedup = next(iter(measured.speedups.items()))
        speed = _speedup(speedup)
        before, after = measured.latencies[measured.baseline].median, measured.latencies[name].median
        milliseconds = f"{before * 1e3:.3g} → {after * 1e3:.3g} ms"
    size = f"{record.tuned_bytes / record.original_bytes:.2f}x"
    if record.outcome is not Outcome.MET:
        # What is served is the original; what was tried is of interest, but is no result.
        kept = record.outcome.value.replace("_", " ")
        speed, milliseconds, size = f"{kept} (tried: {speed})", milliseconds.partition(" ")[0] + " ms", "1.00x"
    evaluations = f"{record.evaluations} of {record.max_evaluations}"
    return (
        row.title,
        record.target.partition(":")[0],
        speed,
        milliseconds,
        _error(row.relative_error),
        size,
        evaluations,
        _time(record.seconds),
    )


def accuracy_table(rows: Sequence[Tuned]) -> str:
    """The metric before and after, one line per model."""
    if not rows:
        return NOT_MEASURED
    cells = []
    for row in rows:
        accuracy = row.record.accuracy
        if accuracy is None:
            cells.append((row.title, row.note, "-", "-", "-", "-"))
            continue
        budget = f"{accuracy.max_loss:.3g}{' of the original' if accuracy.relative else ''}"
        before, after = f"{accuracy.original.value:.4g}", _interval(accuracy.tuned)
        cells.append((row.title, row.note, accuracy.metric, before, after, budget))
    return markdown(("model", "weights", "metric", "fp32", "tuned", "allowed loss"), cells)


def peers_table(rows: Sequence[SideBySide]) -> str:
    """Speed-ups of the best known forms over the baseline, one line per model, output errors in brackets."""
    if not rows:
        return NOT_MEASURED
    found = {form.name for row in rows for form in row.forms}
    names = [name for name in SHOWN if name in found]
    lines = []
    for row in rows:
        forms = {form.name: form for form in row.forms}
        cells = [f"{row.title} ({_baseline(row)})"]
        cells += [_form_cell(row, forms[name]) if name in forms else "-" for name in names]
        lines.append(tuple(cells))
    return markdown(("model (fp32)", *names), lines) + _failures(rows, names) + taken([row.taken for row in rows])


def peers_all_table(rows: Sequence[SideBySide]) -> str:
    """As `peers_table`, with every form: one line per form, one column per model."""
    if not rows:
        return NOT_MEASURED
    names = list(dict.fromkeys(form.name for row in rows for form in row.forms))
    lines = []
    for name in names:
        cells = [name]
        for row in rows:
            form = next((form for form in row.forms if form.name == name), None)
            cells.append("-" if form is None else _form_cell(row, form))
        lines.append(tuple(cells))
    head = ("form", *(f"{row.title} ({_baseline(row)})" for row in rows))
    return markdown(head, lines) + _failures(rows, names) + taken([row.taken for row in rows])


def control_table(rows: Sequence[SideBySide]) -> str:
    """The tools that keep an accuracy budget: one line per model with a metric and tool."""
    lines = []
    for row in rows:
        if not row.metric:
            continue
        original = next(form for form in row.forms if form.name == row.comparison.baseline)
        metric = f"{row.metric} {original.score:.4f}, loses at most {row.max_loss}"
        for form in row.forms:
            if form.name not in CONTROLLED:
                continue
            score = "-" if form.failure else f"{form.score:.4f}"
            evaluations = str(form.evaluations) if form.evaluations else "-"
            seconds = _time(form.seconds) if form.seconds else "-"
            lines.append((row.title, metric, form.name, _form_cell(row, form), score, seconds, evaluations))
    if not lines:
        return NOT_MEASURED
    head = ("model", "metric of fp32, budget", "tool", "speed-up (output error)", "metric", "time", "evaluations")
    return markdown(head, lines)


def _baseline(row: SideBySide) -> str:
    name = row.comparison.baseline
    runtime = name.partition(", ")[2]
    return f"{row.comparison.latencies[name].median * 1e3:.3g} ms{f', {runtime}' if runtime else ''}"


def _form_cell(row: SideBySide, form: Form) -> str:
    """Speed-up and output error; for fewbits also the runtime that it chose, where there was a choice."""
    if form.failure:
        return "stopped" if form.failure.startswith("stopped") else "fails"
    speedup = row.comparison.speedups.get(form.name)
    if speedup is None:
        return "1"
    chosen = form.name == "fewbits" and ", " in row.comparison.baseline
    runtime = f", {RUNTIMES.get(form.target, form.target)}" if chosen else ""
    return f"{_speedup(speedup)} ({_error(form.relative_error)}{runtime})"


def _failures(rows: Sequence[SideBySide], names: Sequence[str]) -> str:
    failures = [
        f"- {row.title}, {form.name}: `{form.failure.replace('`', '')}`\n"
        for row in rows
        for form in row.forms
        if form.failure and form.name in names
    ]
    return "\nFailures:\n\n" + "".join(failures) if failures else ""


def prediction_table(rows: Sequence[Prediction]) -> str:
    """Rank correlation of predicted and measured times over random plans, one line per model and runtime."""
    if not rows:
        return NOT_MEASURED
    head = ("model", "runtime", "plans", "fastest to slowest", "regions alone", "corrected by whole plans")
    cells = [
        (
            row.title,
            RUNTIMES[row.target],
            str(len(row.plans)),
            f"{min(one.measured for one in row.plans) * 1e3:.3g} to "
            f"{max(one.measured for one in row.plans) * 1e3:.3g} ms",
            f"{row.plain:.2f}",
            f"{row.corrected:.2f}",
        )
        for row in rows
    ]
    return markdown(head, cells) + taken([row.taken for row in rows])


def exported_table(rows: Sequence[Exported]) -> str:
    """How many graphs of each exporter came to which end, and with how many other tools fail."""
    if not rows:
        return NOT_MEASURED
    exporters = list(dict.fromkeys(row.exporter for row in rows))
    head = (
        "exporter",
        "graphs",
        "smaller model within the loss",
        "original kept, with the reason",
        "refused",
        "crashed",
        "no model that runs",
    )
    cells = []
    for name in exporters:
        of_exporter = [row for row in rows if row.exporter == name]
        ends = Counter(row.outcome for row in of_exporter)
        kept = ends["kept_original"] + ends["budget_unreachable"]
        figures = (sum(ends.values()), ends["met"], kept, ends["refused"], ends["CRASHED"])
        cells.append((name, *map(str, figures), _without_result(of_exporter)))
    return markdown(head, cells)


def _without_result(rows: Sequence[Exported]) -> str:
    """With how many of `rows` each other tool gives no model that runs, of those that it was given."""
    tools = dict.fromkeys(tool for row in rows for tool in row.peers)
    given = {tool: [row.peers[tool] for row in rows if tool in row.peers] for tool in tools}
    return ", ".join(f"{tool} {sum(map(bool, said))} of {len(said)}" for tool, said in given.items()) or "-"


def calibration_table(path: Path) -> str:
    """Peak memory and seconds of calibration, one line per tool and method, few samples beside many."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    counts = sorted({row["samples"] for row in stored["summary"]})
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for row in stored["summary"]:
        figure = f"{row['above_start_mib']:.0f} MiB, {row['seconds']:.1f} s"
        cells.setdefault((row["tool"], row["method"]), {})[row["samples"]] = figure
    head = ("tool", "method", *(f"{count} samples" for count in counts))
    rows = [(*key, *(found.get(count, "-") for count in counts)) for key, found in cells.items()]
    machine = stored["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return markdown(head, rows) + f"\n{stored['what']}; {machine['cpu']}, {machine['cores']} cores; {versions}.\n"


def formats_speed_table(path: Path) -> str:
    """Millions of elements per second; of ours also the share of copying into the same sort of memory."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    cases: dict[str, dict[str, str]] = {}
    for row in stored["rows"]:
        cell = f"{row['elements_per_second'] / 1e6:,.0f}"
        if row["tool"] == "fewbits":
            cell += f" ({row['of_copy']:.2f} [{row['of_copy_low']:.2f}, {row['of_copy_high']:.2f}])"
        name = "torch" if row["tool"] in ("torch-cast", "torch-fake") else row["candidate"].replace("_even", "")
        cases.setdefault(row["case"], {})[name] = cell
    names = list(dict.fromkeys(name for found in cases.values() for name in found if not name.startswith("copy")))
    rows = [(f"`{case}`", *(found.get(name, "-") for name in names)) for case, found in cases.items()]
    machine = stored["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    said = f"\n{machine['cpu']}, {machine['cores']} cores, {stored['threads']} threads; {versions}; {stored['date']}.\n"
    return markdown(("format", *names), rows) + said


def torch_models_table(path: Path) -> str:
    """Whole PyTorch models on a GPU: milliseconds per call and error, one line per form."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    cells: dict[str, dict[tuple[str, int], str]] = {}
    columns: dict[tuple[str, int], None] = {}
    for row in stored["rows"]:
        column = (row["model"], row["batch"])
        columns[column] = None
        taken_ms = (
            f"{median(row['seconds']) * 1e3:.2f} ms ({row['relative_error']:.2g})" if row["seconds"] else "failed"
        )
        how = ", compiled" * row["compiled"] + " with CUDA graphs" * row.get("graphs", False)
        form = f"{row['form']}{how}"
        cells.setdefault(form, {})[column] = taken_ms
    head = ("products in", *(f"{model}, batch {batch}" for model, batch in columns))
    rows = [(f"`{form}`", *(found.get(column, "-") for column in columns)) for form, found in cells.items()]
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    return markdown(head, rows) + f"\n{stored['device']}; {versions}; {stored['taken']}.\n"


def torch_cpu_table(path: Path) -> str:
    """PyTorch modules on the CPU, one line per model and form."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for row in stored["rows"]:
        speed = Interval(**stored["comparisons"][row["model"]]["speedups"][row["form"]])
        agreement = f"{row['agreement']:.3f}" if row["agreement"] >= 0 else "-"
        size = f"{row['bytes'] / row['original_bytes']:.2f}x"
        rows.append((row["model"], row["form"], _speedup(speed), size, _error(row["error"]), agreement))
    head = ("model", "form", "speed-up", "file size", "output error", "agreement")
    return markdown(head, rows) + taken([TypeAdapter(Taken).validate_python(one) for one in stored["taken"].values()])


def minilm_module_table(path: Path) -> str:
    """MiniLM as a module, tuned with its own metric: one line per candidate."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    speeds = {name: Interval(**one) for name, one in stored["comparison"]["speedups"].items()}
    answers = {f"tuned, {one['target']}": one for one in stored["answers"]}
    rows = []
    for name, speed in speeds.items():
        answer = answers.get(name)
        size = "-" if answer is None else f"{answer['bytes'] / 1e6:.1f} MB"
        kept = "-" if answer is None else f"{answer['agreement']:.3f}"
        schemes = {} if answer is None else answer["schemes"]
        most = sorted(schemes.items(), key=lambda one: -one[1])
        said = ", ".join(f"{count} `{scheme}`" for scheme, count in most) or "-"
        spent = "-" if answer is None else f"{answer['seconds'] / 60:.0f} min"
        rows.append((name, _speedup(speed), size, kept, said, spent))
    head = ("candidate", "speed-up", "file", "agreement", "groups in", "tuned in")
    return markdown(head, rows) + taken([TypeAdapter(Taken).validate_python(stored["taken"])])


def onednn_traps_table(path: Path) -> str:
    """What int8 convolutions lose in oneDNN, and how they are called instead: one line per shape."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            one["trap"],
            f"{one['inputs']} to {one['outputs']} channels, {one['size']} x {one['size']}",
            f"{one['trapped'] * 1e6:.0f} us",
            f"{one['avoided'] * 1e6:.0f} us",
            f"{one['trapped'] / one['avoided']:.1f}x",
        )
        for one in stored["rows"]
    ]
    where = taken([TypeAdapter(Taken).validate_python(stored["taken"])])
    return markdown(("trap", "convolution", "as PyTorch offers it", "as fewbits calls it", "factor"), rows) + where


def auto_target_table(path: Path) -> str:
    """What tuning for each runtime gave, and with "auto": one line per model and target that was asked for."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for one in stored["answers"]:
        speeds = stored["comparisons"][one["model"]]["speedups"]
        speed = _speedup(Interval(**speeds[one["asked"]])) if one["asked"] in speeds else "1.00x"
        kept = f"{one['outcome']}, {one['groups']} groups"
        size = f"{one['bytes'] / 1e6:.1f} MB"
        rows.append((one["model"], one["asked"], one["target"], kept, f"{one['loss']:.2%}", size, speed))
    head = ("model", "asked for", "served on", "outcome", "loss", "file", "speed over auto")
    return markdown(head, rows) + taken([TypeAdapter(Taken).validate_python(one) for one in stored["taken"].values()])


def training_gpu_table(path: Path) -> str:
    """Steps of training on a GPU: seconds, tokens per second, and the speed over bf16 in the same run."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = [one for row in stored["rows"] for one in row.get("found", ())]
    plain = {one["size"]: one["seconds_per_step"] for one in found if one["form"] == "torch:bf16"}
    rows = [
        (
            one["size"],
            one["form"],
            f"{one['seconds_per_step'] * 1e3:.1f} ms [{one['fastest'] * 1e3:.1f}, {one['slowest'] * 1e3:.1f}]",
            f"{one['tokens_per_second']:,.0f}",
            f"{plain[one['size']] / one['seconds_per_step']:.2f}x" if one["size"] in plain else "-",
        )
        for one in found
    ]
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    head = ("model", "how", "one step [fastest, slowest]", "tokens per second", "over bf16")
    return markdown(head, rows) + f"\n{stored['device']}; {versions}; {stored['date']}.\n"


def training_speed_table(path: Path) -> str:
    """Steps of training on the CPU: milliseconds, and how many times as long as what each is held against."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            row["net"],
            row["way"] + (", memory kept" if "kept" in row["contest"] else ""),
            f"{row['seconds'] * 1e3:.1f} ms",
            f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['against']}, {row['against_seconds'] * 1e3:.1f} ms",
        )
        for row in stored["rows"]
    ]
    machine = stored["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    said = f"\n{machine['cpu']}, {machine['cores']} cores, {stored['threads']} threads; {versions}; {stored['date']}.\n"
    return markdown(("network", "how", "one step", "times as long as", "which takes"), rows) + said


def papers_training_table(stored: AllTrained) -> str:
    """The rows of the papers on training: accuracy on held-out data and loss, means over seeds with their ends."""
    if not stored.runs:
        return NOT_MEASURED
    found: dict[tuple[str, str, str], list[Trained]] = {}
    for run in stored.runs:
        found.setdefault((run.paper, run.task, run.row), []).append(run)
    rows = []
    for (paper, task, row), runs in found.items():
        whole = _mean_and_ends([run.whole for run in runs]) if runs[0].whole >= 0 else "-"
        factor = runs[0].loss_factor
        rows.append(
            (
                f"{paper.title()}, {task}",
                row,
                f"2^{round(log2(factor))}" if factor != 1 else "1",
                _mean_and_ends([run.accuracy for run in runs]),
                whole,
                _mean_and_ends([run.loss for run in runs]),
            )
        )
    head = ("paper, task", "row", "errors", "accuracy [lowest, highest]", "whole sentences", "loss")
    return markdown(head, rows) + taken(list(stored.taken.values()))


def _mean_and_ends(figures: Sequence[float]) -> str:
    return f"{fmean(figures):.3f} [{min(figures):.3f}, {max(figures):.3f}]"


def formats_gpu_table(path: Path) -> str:
    """Casts on a GPU: elements per second, and the share of the speed of copying."""
    if not path.is_file():
        return NOT_MEASURED
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for row in stored["rows"]:
        case, seconds = row["case"], median(row["seconds"])
        share = row["bytes"] / seconds / stored["copy_bytes_per_second"]
        name = f"{case['dtype']} to {case['out']}, {case['rounding'].replace('_', ' ')}"
        rows.append((f"`{case['format']}`", name, f"{row['elements'] / seconds / 1e9:,.0f}", f"{share:.2f}"))
    versions = ", ".join(f"{name} {number}" for name, number in stored["taken"]["machine"]["versions"].items())
    said = f"\n{stored['gpu']}; {stored['cases']:,} casts compared with numpy, {len(stored['failures'])} differences; "
    return markdown(("format", "cast", "10⁹ elements per second", "of copying"), rows) + f"{said}{versions}.\n"


_RESULTS = ROOT / "benchmarks" / "results"
TABLES: Mapping[str, Callable[[], str]] = {
    "formats_gpu": lambda: formats_gpu_table(_RESULTS / "formats_gpu.json"),
    "torch_cpu": lambda: torch_cpu_table(_RESULTS / "torch_cpu.json"),
    "minilm_module": lambda: minilm_module_table(_RESULTS / "minilm_module.json"),
    "onednn_traps": lambda: onednn_traps_table(_RESULTS / "onednn_traps.json"),
    "auto_target": lambda: auto_target_table(_RESULTS / "auto_target.json"),
    "torch_models": lambda: torch_models_table(_RESULTS / "torch_models_gpu.json"),
    "training_speed": lambda: training_speed_table(_RESULTS / "training_speed.json"),
    "training_gpu": lambda: training_gpu_table(_RESULTS / "training_gpu_speed.json"),
    "papers_training": lambda: papers_training_table(read_trained()),
    "latency": lambda: latency_table(read_latency()),
    "accuracy": lambda: accuracy_table(read_latency()),
    "peers": lambda: peers_table(read_peers()),
    "peers_all": lambda: peers_all_table(read_peers()),
    "control": lambda: control_table(read_peers()),
    "exported": lambda: exported_table(read_exported()),
    "prediction": lambda: prediction_table(read_predictions()),
    "formats_speed": lambda: formats_speed_table(ROOT / "benchmarks" / "results" / "formats_speed.json"),
    "calibration": lambda: calibration_table(ROOT / "benchmarks" / "results" / "calibration_memory.json"),
}


def filled(text: str) -> str:
    """`text` with every marked table made anew. Stops at a table that is not known."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise SystemExit(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
        return f"{match[1]}\n{TABLES[name]()}\n{match[3]}"

    return MARKED.sub(fill, text)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def taken(takes: Sequence[Taken]) -> str:
    """Where and when, once per machine, versions and day."""
    said = []
    for take in takes:
        versions = ", ".join(f"{name} {number}" for name, number in take.machine.versions.items())
        features = ", ".join(take.machine.features)
        said.append(f"{take.machine.cpu}, {take.machine.cores} cores ({features}); {versions}; {take.date}.")
    return "\n" + "\n".join(dict.fromkeys(said)) + "\n"


def _speedup(speedup: Interval) -> str:
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"


def _interval(interval: Interval) -> str:
    return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _error(error: float) -> str:
    return f"{error:.3f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def main() -> None:
    """Fill the tables, or check that they are up to date."""
    parser = argparse.ArgumentParser(description="Write the benchmark tables into the READMEs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for path in FILES:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        new = filled(text)
        if new != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        names = " and ".join(map(str, stale))
        raise SystemExit(f"{names}: tables out of date; run python benchmarks/table.py")
    print("tables are up to date" if check else f"written: {', '.join(map(str, stale)) or 'nothing had changed'}")


if __name__ == "__main__":
    main()
