"""The figures of docs/formats.md, from what is stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from formats_guide_store import Guide, Point

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "*")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fewbits",
    "font.size": 8.0,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
}


def _series(points: Sequence[Point]) -> Mapping[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.series, []).append(point)
    return found


def _kinds(points: Sequence[Point]) -> Mapping[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.values, []).append(point)
    return found


def _figure(draw: Callable[[Figure, Guide], None], size: tuple[float, float]) -> Callable[[Guide], bytes]:
    def made(guide: Guide) -> bytes:
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, guide)
            target = io.BytesIO()
            figure.savefig(target, format="svg", metadata={"Date": None})
        return target.getvalue()

    return made


def _bits(figure: Figure, guide: Guide) -> None:
    kinds = _kinds(guide.sections["families"])
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, (kind, points) in zip(panels, kinds.items(), strict=True):
        for marker, (series, line) in zip(MARKERS, _series(points).items(), strict=True):
            ordered = sorted(line, key=lambda point: (point.x, point.sqnr))
            style = "none" if series.startswith("float") else "-"
            x, y = [p.x for p in ordered], [p.sqnr for p in ordered]
            size = 8.0 if marker == "*" else None
            axes.plot(x, y, marker=marker, markersize=size, linestyle=style, label=series)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("bits per element, scales included")
        axes.set_ylim(0, 52)
    panels[0].set_ylabel("SQNR, dB")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


def _scales(figure: Figure, guide: Guide) -> None:
    axes = figure.subplots()
    for series, line in _series(guide.sections["scales"]).items():
        scaled = "/" in series
        label = f"{series} (scaled)" if scaled else f"{series} (range ±8, step 1/16)" if series == "int8f4" else series
        axes.plot(
            [p.x for p in line], [max(p.sqnr, -3.0) for p in line], label=label, linestyle="--" if scaled else "-"
        )
    axes.set_xlabel("log2 of the standard deviation of Gaussian values")
    axes.set_ylabel("SQNR, dB")
    axes.set_ylim(-2, 80)
    axes.legend(ncols=2)


def _granularity(figure: Figure, guide: Guide) -> None:
    axes = figure.subplots()
    for marker, (kind, line) in zip(MARKERS, _kinds(guide.sections["granularity"]).items(), strict=False):
        axes.plot([p.bits for p in line], [p.sqnr for p in line], marker=marker, label=kind)
        if kind == "Gaussian":
            for p in line:
                _label(axes, p.bits, p.sqnr, p.format.partition("/")[2])
    axes.set_xlabel("bits per element, float32 scales included")
    axes.set_ylabel("SQNR of int4r, dB")
    axes.set_xlim(3.8, 6.1)
    axes.set_ylim(0, 25)
    axes.legend()


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    style = {"textcoords": "offset points", "fontsize": 7, "color": "#444444"}
    if text == "tensor":
        axes.annotate(text, (x, y), xytext=(-5, -2), ha="right", **style)
    else:
        axes.annotate(text, (x, y), xytext=(-1, 4), rotation=65, **style)


def _rules(figure: Figure, guide: Guide) -> None:
    kinds = _kinds(guide.sections["rules"])
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, (kind, points) in zip(panels, kinds.items(), strict=True):
        series = _series(points)
        base = {place: p.sqnr for place, p in enumerate(series["floor"])}
        names = [p.format for p in series["floor"]]
        for number, (rule, line) in enumerate(series.items()):
            if rule != "floor":
                offsets = [place + 0.25 * (number - 2) for place in base]
                axes.bar(offsets, [p.sqnr - base[place] for place, p in enumerate(line)], width=0.22, label=rule)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xticks(range(len(names)), names, rotation=20)
        axes.set_title(kind, fontsize=9)
    panels[0].set_ylabel("SQNR minus that of floor, dB")
    panels[0].legend()


def _accumulation(figure: Figure, guide: Guide) -> None:
    axes = figure.subplots()
    for rounding, line in _series(guide.sections["accumulation"]).items():
        axes.plot([p.x for p in line], [p.sqnr for p in line], label=f"bf16, {rounding.replace('_', ' ')}")
    axes.plot([0, 1024], [1, 2], color="black", linestyle=":", label="exact")
    axes.set_xlabel("additions of 2**-10 to 1")
    axes.set_ylabel("mean of 1024 sums")
    axes.legend()


FIGURES: Mapping[str, Callable[[Guide], bytes]] = {
    "sqnr_by_bits": _figure(_bits, (9.0, 3.6)),
    "sqnr_by_scale": _figure(_scales, (6.0, 3.4)),
    "granularity": _figure(_granularity, (5.0, 3.2)),
    "scale_rules": _figure(_rules, (9.0, 2.8)),
    "stochastic_sums": _figure(_accumulation, (5.0, 2.8)),
}
