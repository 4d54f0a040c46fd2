"""Full forms of the papers on low-precision training: three seeds of every row, on digits and on a made translation.

The quick forms are in ``tests/papers/test_low_precision_training.py``, with the same nets. A row is the mean over seeds
of the held-out accuracy with the smallest and largest; the raw runs are stored.

    python benchmarks/papers/low_precision_training.py [--seeds 3] [--only mellempudi] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from torch import nn
from torch.nn import functional

from fewbits import training
from fewbits.errors import DivergenceError
from training_tasks import Deep, Residual, seeded, train

Task = Callable[[str, int], float]

FP8 = str(training.recipe("fp8_mellempudi"))
HBFP = str(training.recipe("hbfp8_16"))
FP16 = (
    "recipe: all_fp16; weight forward: fp16; activation forward: fp16; activation output: fp16; "
    "error backward: fp16 nonsaturate; error output: fp16 nonsaturate; gradient: fp16 nonsaturate; "
)
WORDS, LENGTH, BEGIN = 16, 8, 16


class Translator(nn.Module):
    """A small encoder-decoder transformer."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS + 1, width)
        self.places = nn.Parameter(torch.randn(LENGTH, width) * 0.1)
        encoder = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        decoder = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, 2)
        self.head = nn.Linear(width, WORDS)

    def forward(self, source: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Scores of the words of the translation, given those before each."""
        memory = self.encoder(self.words(source) + self.places)
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=source.device).triu(1)
        return self.head(self.decoder(self.words(before) + self.places, memory, tgt_mask=mask))


def sentences(count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources, what precedes each translated word, and translations: reversed, and each word another one by a rule."""
    source = torch.randint(0, WORDS, (count, LENGTH), generator=random)
    target = (source.flip(1) * 5 + 3) % WORDS
    before = torch.cat([torch.full((count, 1), BEGIN), target[:, :-1]], 1)
    return source, before, target


def translation(loss_factor: float, steps: int = 1500) -> Task:
    """Share of the words that are right, given those before."""

    def run(recipe: str, seed: int) -> float:
        model = seeded(Translator, seed)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        low, step = training.prepare(model, optimizer, recipe, seed=seed, planned=steps)
        random = torch.Generator().manual_seed(seed)
        try:
            for _ in range(steps):
                source, before, target = sentences(64, random)
                out = low(source, before)
                # Adam's updates do not depend on the factor, as long as nothing underflows.
                step(functional.cross_entropy(out.flatten(0, 1), target.flatten()) * loss_factor)
        except DivergenceError:
            return 0.0
        source, before, target = sentences(512, torch.Generator().manual_seed(10_000))
        low.eval()
        with torch.no_grad():
            return float((low(source, before).argmax(-1) == target).float().mean())

    return run


def images(kind: type[nn.Module], loss_factor: float = 1.0, epochs: int = 12, rate: float = 0.1) -> Task:
    """Accuracy on held-out digits."""

    def run(recipe: str, seed: int) -> float:
        model = seeded(kind, seed)
        return train(model, recipe, seed=seed, epochs=epochs, rate=rate, loss_factor=loss_factor).accuracy

    return run


def rows() -> dict[str, dict[str, tuple[Task, str]]]:
    """Paper → row → task and recipe."""
    nearest = FP8.replace(" stochastic", "")
    unscaled = FP8.replace("scaler: rising_floor", "scaler: none")
    four = HBFP.replace("bfp8", "bfp4")
    residual, small = images(Residual), images(Residual, 2.0**-12)
    smallest, slow = images(Residual, 2.0**-20), images(Deep, rate=1e-3)
    deep = images(Deep, 2.0**-17, rate=0.03)
    return {
        "mellempudi": {
            "residual net: fp32": (residual, "fp32"),
            "residual net: fp8": (small, FP8),
            "residual net: fp8 without stochastic rounding": (small, nearest),
            "residual net: fp8 without the floor": (small, unscaled),
            "residual net: fp8 without the floor, less small errors": (images(Residual, 2.0**-5), unscaled),
            "residual net: without both, less small errors": (
                images(Residual, 2.0**-5),
                unscaled.replace(" stochastic", ""),
            ),
            "translation: fp32": (translation(1.0), "fp32"),
            "translation: fp8": (translation(2.0**-6), FP8),
            "translation: fp8 without stochastic rounding": (translation(2.0**-6), nearest),
            "translation: fp8 without the floor": (translation(2.0**-6), unscaled),
        },
        "zhao": {
            "fp32": (deep, "fp32"),
            "fp16 without scale": (deep, FP16),
            "fp16 fixed": (deep, f"{FP16} scaler: static scale=1024"),
            "fp16 dynamic": (deep, f"{FP16} scaler: dynamic"),
            # These two are one run: with errors this small all scales stand at the paper's bounds at every step.
            "fp16 adaptive": (deep, f"{FP16} scaler: layer_adaptive"),
            "fp16 adaptive, period 100": (deep, f"{FP16} scaler: layer_adaptive period=100"),
        },
        "drumond": {
            "fp32": (residual, "fp32"),
            "hbfp8_16": (residual, HBFP),
            "hbfp12_16": (residual, "hbfp12_16"),
            "4 bits": (residual, four),
            "4 bits, one exponent per tensor": (
                residual,
                four.replace("forward: bfp4/tile24x24", "forward: bfp4/tensor").replace("/token", "/tensor"),
            ),
        },
        "micikevicius": {
            "fp32": (residual, "fp32"),
            "fp16": (smallest, f"{FP16} scaler: dynamic"),
            "fp16 without scaling": (smallest, FP16),
            "small steps: fp32": (slow, "fp32"),
            "small steps: fp16": (slow, f"{FP16} scaler: dynamic"),
            "small steps: fp16 without fp32 masters": (slow, f"{FP16} scaler: dynamic; master: fp16"),
        },
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", choices=list(rows()))
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for paper, tasks in rows().items():
        if given.only not in (None, paper):
            continue
        found[paper] = {}
        for name, (task, recipe) in tasks.items():
            begun = time.perf_counter()
            runs = [task(recipe, seed) for seed in range(given.seeds)]
            found[paper][name] = runs
            print(f"{paper:<13} {name:<56} {sum(runs) / len(runs):.4f} [{min(runs):.4f}, {max(runs):.4f}]  "
                  f"{time.perf_counter() - begun:.0f} s", flush=True)  # fmt: skip
            if given.out is not None:
                whole = {"command": f"python {shlex.join(sys.argv)}", "date": time.strftime("%Y-%m-%d"),
                         "torch": torch.__version__, "accuracy": found}  # fmt: skip
                given.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
