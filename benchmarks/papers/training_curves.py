"""Loss and loss scale over the steps, as pictures (SVG) of the runs that ``low_precision_training.py`` stored.

    python benchmarks/papers/training_curves.py [--only "mellempudi, translation"] [--out docs/figures]

One file per paper and task, ``training_PAPER_TASK.svg``; a line per run, the runs of a row in one colour.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from formats_guide_figures import COLOURS, STYLE
from results import Trained, read_trained

FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def draw(runs: Sequence[Trained]) -> bytes:
    """The curves of one paper's task: the loss on the left, on the right the scale of the loss where a row has one."""
    named: dict[str, list[Trained]] = {}
    for run in runs:
        named.setdefault(run.row, []).append(run)
    scaled = {row: found for row, found in named.items() if any(set(run.scales) != {1.0} for run in found)}
    colours = {row: COLOURS[place % len(COLOURS)] for place, row in enumerate(named)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.0), layout="constrained")
        panels = figure.subplots(1, 2 if scaled else 1, squeeze=False)[0]
        _lines(panels[0], named, colours, [(run, run.losses) for run in runs])
        panels[0].set_title("training loss", loc="left")
        panels[0].set_yscale("log")
        if scaled:
            _lines(panels[1], named, colours, [(run, run.scales) for found in scaled.values() for run in found])
            panels[1].set_title("scale of the loss", loc="left")
            panels[1].set_yscale("log", base=2)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()


def _lines(
    axes: Axes, rows: Iterable[str], colours: Mapping[str, str], curves: Sequence[tuple[Trained, Sequence[float]]]
) -> None:
    for row in rows:
        found = [(run, curve) for run, curve in curves if run.row == row]
        for place, (run, curve) in enumerate(found):
            steps = [run.every * index for index in range(len(curve))]
            axes.plot(steps, curve, color=colours[row], alpha=0.8, label=f"_{row}" if place else row)
    axes.set_xlabel("step")


def main() -> None:
    """Draw what is stored."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", action="append", help="paper, or paper and task: 'zhao', 'zhao, translation'")
    options.add_argument("--out", type=Path, default=FIGURES)
    given = options.parse_args()
    grouped: dict[tuple[str, str], list[Trained]] = {}
    for run in read_trained().runs:
        if not given.only or any(one in f"{run.paper}, {run.task}" for one in given.only):
            grouped.setdefault((run.paper, run.task), []).append(run)
    given.out.mkdir(parents=True, exist_ok=True)
    for (paper, task), runs in grouped.items():
        path = given.out / f"training_{paper}_{task}.svg"
        path.write_bytes(draw(runs))
        print(path)


if __name__ == "__main__":
    main()
