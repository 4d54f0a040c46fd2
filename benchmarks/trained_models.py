"""Trains six small networks of different shapes, as ONNX with data: ``python benchmarks/trained_models.py``.

Each is trained in a few minutes on two cores, seeded, on data that are made here or come with Python, so that
accuracy means something without a download. Per network NAME, into the cache folder: ``NAME.onnx``; ``NAME.npz``
(inputs and ``labels`` to tune with), ``NAME-calibration.npz`` and ``NAME-held-out.npz`` (inputs only). No sample is
in two of them, and training saw none. ``models.py`` builds these too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import conv1d_sound
import depthwise_glyphs
import lstm_text
import minilm
import recommender
import se_depthwise
import tiny_gpt
from exporting import Built, check, export, session
from training import THREADS, Labelled, Trained

OUTPUT = "logits"
BATCH = 50
SEED = 0

BUILDERS: Mapping[str, Callable[[], Trained]] = {
    "lstm_text": lstm_text.build,
    "se_depthwise": se_depthwise.build,
    "depthwise_glyphs": depthwise_glyphs.build,
    "conv1d_sound": conv1d_sound.build,
    "recommender": recommender.build,
    "tiny_gpt": tiny_gpt.build,
}


def build(name: str, folder: Path) -> Path:
    """Train network `name` and write it with its data into `folder`, unless it is there; the model's path."""
    path = folder / f"{name}.onnx"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    began = perf_counter()
    trained = BUILDERS[name]()
    seconds = perf_counter() - began
    inputs, held_out = trained.evaluation.inputs, trained.held_out.inputs
    np.savez(folder / f"{name}.npz", **trained.evaluation.arrays())
    np.savez(folder / f"{name}-calibration.npz", **trained.calibration.inputs)
    np.savez(folder / f"{name}-held-out.npz", **held_out)
    built = Built(trained.module, inputs, held_out, {0: "batch"}, OUTPUT, trained.dynamo)
    partial = path.with_suffix(".partial")
    export(built, partial)
    check(built, partial)
    score = accuracy(partial, trained.evaluation)
    print(f"{name}: accuracy {score:.4f} on {len(trained.evaluation):,} samples not trained on; {seconds:.0f} s")
    partial.rename(path)
    return path


def accuracy(path: Path, samples: Labelled) -> float:
    """The share of `samples` that the file at `path` puts into the right class."""
    model = session(path)
    right = 0
    for start in range(0, len(samples), BATCH):
        some = samples.part(start, start + BATCH)
        right += int((model.run([OUTPUT], dict(some.inputs))[0].argmax(1) == some.labels).sum())
    return right / len(samples)


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description="Train the small networks of the benchmark set.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where to put them (default: %(default)s)")
    parser.add_argument("--only", choices=tuple(BUILDERS), action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    for name in arguments.only or BUILDERS:
        path = build(name, arguments.dir)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
