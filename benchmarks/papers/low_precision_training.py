"""Full forms of the papers on low-precision training: three seeds of every row, on digits and on a made translation.

The quick forms are in ``tests/papers/``, with the same nets. Settings were chosen with seed 0; the length
of the translation's training after a look at seed 1, too. Runs are independent, and each takes one core; a run replaces
the stored one of its row and seed.

    python benchmarks/papers/low_precision_training.py [--only "mellempudi, translation"] [--seeds 1 2 3] [--jobs 2]

Figures do not depend on how busy the machine is: no time is stored.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

import torch

import training_tasks
import translation_task
from fewbits import training
from fewbits.targets.probe import this_machine
from results import Taken, Trained, add_trained
from training_tasks import Deep, Residual, seeded, train
from translation_task import train_translator

PACKAGES = ("fewbits", "torch", "numpy", "numba", "scikit-learn")

FP8 = str(training.recipe("fp8_mellempudi"))
NEAREST = FP8.replace(" stochastic", "")
FLOOR, NO_FLOOR, NO_SCALE = "scaler: rising_floor", "scaler: dynamic", "scaler: none"
HBFP = str(training.recipe("hbfp8_16"))
FOUR = HBFP.replace("bfp8", "bfp4")
FP16 = (
    "recipe: all_fp16; weight forward: fp16; activation forward: fp16; activation output: fp16; "
    "error backward: fp16 nonsaturate; error output: fp16 nonsaturate; gradient: fp16 nonsaturate; "
)


@dataclass(frozen=True)
class Row:
    """One line of a paper's comparison. `loss_factor` multiplies the loss, as deep nets and large batches do by
    themselves: in fp32 it changes nothing."""

    paper: str
    task: Literal["residual", "deep", "translation"]
    name: str
    recipe: str
    loss_factor: float = 1.0
    rate: float = 0.1
    epochs: int = 12

    @property
    def group(self) -> str:
        """What is taken together."""
        return f"{self.paper}, {self.task}"

    def run(self, seed: int) -> tuple[object, ...]:
        """What its run with `seed` depends on: rows of several papers share runs."""
        return self.task, self.recipe, self.loss_factor, self.rate, self.epochs, seed


def rows() -> list[Row]:
    """Every row of every paper."""
    found = []

    def add(paper: str, task: Literal["residual", "deep", "translation"], *named: tuple[str, str, float],
            rate: float = 0.1, epochs: int = 12) -> None:  # fmt: skip
        found.extend(Row(paper, task, name, recipe, factor, rate, epochs) for name, recipe, factor in named)

    add(
        "mellempudi",
        "translation",
        ("fp32", "fp32", 1.0),
        ("fp8", FP8, 2.0**-23),
        ("fp8 without stochastic rounding", NEAREST, 2.0**-23),
        ("fp8 without the floor", FP8.replace(FLOOR, NO_FLOOR), 2.0**-23),
        ("no scale, errors 2^5 smaller", FP8.replace(FLOOR, NO_SCALE), 2.0**-5),
        ("the same without stochastic rounding", NEAREST.replace(FLOOR, NO_SCALE), 2.0**-5),
    )
    add(
        "zhao",
        "translation",
        ("fp32", "fp32", 1.0),
        ("fp16 without scale", FP16, 2.0**-13),
        ("fp16 fixed", f"{FP16} scaler: static scale=1024", 2.0**-13),
        ("fp16 dynamic", f"{FP16} scaler: dynamic", 2.0**-13),
        ("fp16 adaptive", f"{FP16} scaler: layer_adaptive period=20", 2.0**-13),
    )
    add(
        "mellempudi",
        "residual",
        ("fp32", "fp32", 1.0),
        ("fp8", FP8, 2.0**-12),
        ("fp8 without stochastic rounding", NEAREST, 2.0**-12),
        ("fp8 without the floor", FP8.replace(FLOOR, NO_FLOOR), 2.0**-23),
        ("fp8 without a scale", FP8.replace(FLOOR, NO_SCALE), 2.0**-12),
        ("no scale, errors 2^5 smaller", FP8.replace(FLOOR, NO_SCALE), 2.0**-5),
        ("the same without stochastic rounding", NEAREST.replace(FLOOR, NO_SCALE), 2.0**-5),
    )
    add(
        "mellempudi",
        "residual",
        ("small steps: fp32", "fp32", 1.0),
        ("small steps: fp8", FP8, 1.0),
        ("small steps: fp8 without stochastic rounding", NEAREST, 1.0),
        rate=5e-4,
        epochs=24,
    )
    add(
        "zhao",
        "deep",
        ("fp32", "fp32", 1.0),
        ("fp16 without scale", FP16, 2.0**-17),
        ("fp16 fixed", f"{FP16} scaler: static scale=1024", 2.0**-17),
        ("fp16 dynamic", f"{FP16} scaler: dynamic", 2.0**-17),
        # These two are one run: with errors this small all scales stand at the paper's bounds at every step.
        ("fp16 adaptive", f"{FP16} scaler: layer_adaptive", 2.0**-17),
        ("fp16 adaptive, period 100", f"{FP16} scaler: layer_adaptive period=100", 2.0**-17),
        rate=0.03,
    )
    add(
        "drumond",
        "residual",
        ("fp32", "fp32", 1.0),
        ("hbfp8_16", HBFP, 1.0),
        ("hbfp12_16", "hbfp12_16", 1.0),
        ("4 bits, tiles of 24", FOUR, 1.0),
        ("4 bits, one exponent per tensor",
         FOUR.replace("forward: bfp4/tile24x24", "forward: bfp4/tensor").replace("/token", "/tensor"), 1.0),
        ("8 bits, one exponent per tensor",
         HBFP.replace("forward: bfp8/tile24x24", "forward: bfp8/tensor").replace("/token", "/tensor"), 1.0),
    )  # fmt: skip
    add(
        "micikevicius",
        "residual",
        ("fp32", "fp32", 1.0),
        ("fp16 with scaling and fp32 masters", f"{FP16} scaler: dynamic", 2.0**-20),
        ("fp16 without scaling", FP16, 2.0**-20),
    )
    add(
        "micikevicius",
        "deep",
        ("small steps: fp32", "fp32", 1.0),
        ("small steps: fp16 with scaling and fp32 masters", f"{FP16} scaler: dynamic", 1.0),
        ("small steps: fp16 without fp32 masters", f"{FP16} scaler: dynamic; master: fp16", 1.0),
        rate=1e-3,
    )
    return found


def trained(row: Row, seed: int) -> Trained:
    """One run."""
    if row.task == "translation":
        said = train_translator(row.recipe, seed=seed, loss_factor=row.loss_factor)
        return Trained(
            *(row.paper, row.task, row.name, row.recipe, row.loss_factor, seed),
            accuracy=said.words,
            whole=said.whole,
            loss=said.loss,
            squares=-1.0,
            skipped=said.skipped,
            diverged=said.diverged,
            every=translation_task.EVERY,
            losses=rounded(said.losses),
            scales=said.scales,
            layer_scales=said.layer_scales,
        )
    net = seeded({"residual": Residual, "deep": Deep}[row.task], seed)
    seen = train(net, row.recipe, seed=seed, epochs=row.epochs, rate=row.rate, loss_factor=row.loss_factor)
    return Trained(
        *(row.paper, row.task, row.name, row.recipe, row.loss_factor, seed),
        accuracy=seen.accuracy,
        whole=-1.0,
        loss=seen.loss,
        squares=seen.squares,
        skipped=seen.skipped,
        diverged=seen.diverged,
        every=training_tasks.EVERY,
        losses=rounded(seen.loss_curve),
        scales=seen.scale_curve,
        layer_scales=seen.scales,
    )


def rounded(curve: Sequence[float]) -> tuple[float, ...]:
    """To what a picture can show."""
    return tuple(round(loss, 4) for loss in curve)


def one_core(cores: multiprocessing.Queue[int]) -> None:
    """Begin a process that works on one core, where the system lets it choose."""
    torch.set_num_threads(1)
    core = cores.get()
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--only", action="append", help="paper, or paper and task: 'zhao', 'zhao, deep'; or a row")
    options.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    given = options.parse_args()
    chosen = [row for row in rows() if not given.only or any(one in f"{row.group}: {row.name}" for one in given.only)]
    taken = Taken(f"python benchmarks/papers/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
                  datetime.now(UTC).date().isoformat(), this_machine(PACKAGES))  # fmt: skip
    groups = [[row for row in chosen if row.group == group] for group in dict.fromkeys(row.group for row in chosen)]
    order = [(row.paper, row.task, row.name) for row in rows()]
    begun = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in range(given.jobs):
        cores.put(core)
    with ProcessPoolExecutor(given.jobs, mp_context=context, initializer=one_core, initargs=(cores,)) as workers:
        asked: dict[tuple[object, ...], list[Row]] = {}
        for row, seed in [(row, seed) for group in groups for seed in given.seeds for row in group]:
            asked.setdefault(row.run(seed), []).append(row)
        waiting = {workers.submit(trained, same[0], int(str(run[-1]))): same for run, same in asked.items()}
        for done in as_completed(waiting):
            for row in waiting[done]:
                run = replace(done.result(), paper=row.paper, row=row.name)
                add_trained(run, taken, order)
                print(f"{row.group}: {run.row}, seed {run.seed}: {run.accuracy:.4f}, loss {run.loss:.4f}  "
                      f"({time.perf_counter() - begun:.0f} s)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
