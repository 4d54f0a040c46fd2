"""What the trained networks of the benchmark set share: the result of a builder, and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporting import Inputs

THREADS = 2
REPORTS = 10

# One batch: the module's inputs in order, and the classes, shape (batch,) or (batch, positions).
Batch = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True)
class Labelled:
    """Model inputs by name, each (samples, …), and the class of each sample, shape (samples,)."""

    inputs: Inputs
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Labelled:
        """The samples from `start` to before `stop`."""
        return Labelled({name: array[start:stop] for name, array in self.inputs.items()}, self.labels[start:stop])

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """What ``fewbits.tune`` reads: the inputs and ``labels``."""
        return {**self.inputs, "labels": self.labels}


@dataclass(frozen=True)
class Trained:
    """A trained module in eval mode, and three sets of samples that training did not see and that share none;
    `dynamo` is as in `exporting.Built`."""

    module: nn.Module
    evaluation: Labelled
    calibration: Labelled
    held_out: Labelled
    dynamo: bool = True


def fit(
    module: nn.Module,
    batch: Callable[[], Batch],
    *,
    steps: int,
    rate: float,
    decay: float = 0.01,
    tiles: bool = True,
) -> None:
    """Train `module` on `steps` batches and leave it in eval mode.

    Cross-entropy over the last axis, AdamW, one cycle of the learning rate (Smith and Topin 2018) up to `rate`,
    gradients clipped to norm 1. With `tiles`, products run in bfloat16 where the CPU has AMX, which takes a third of
    the time; depthwise convolutions are slower so.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    tiles = tiles and bool(torch.cpu.get_capabilities().get("amx_tile", False))
    module.train()
    total = 0.0
    for step in range(1, steps + 1):
        inputs, labels = batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=tiles):
            logits = module(*inputs)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % max(1, steps // REPORTS) == 0:
            print(f"  step {step} of {steps}: loss {total / max(1, steps // REPORTS):.3f}", flush=True)
            total = 0.0
    module.eval()


def shuffled(arrays: Labelled, size: int, rng: np.random.Generator) -> Callable[[], Batch]:
    """Batches of `size` samples drawn from `arrays` without replacement, in a new order each time round."""
    order: list[int] = []

    def draw() -> Batch:
        if len(order) < size:
            order[:] = rng.permutation(len(arrays)).tolist()
        rows, order[:] = np.array(order[:size]), order[size:]
        inputs = tuple(torch.from_numpy(array[rows]) for array in arrays.inputs.values())
        return inputs, torch.from_numpy(arrays.labels[rows])

    return draw
