"""A layer as large language models have them: correlated inputs, and a few channels that are far larger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewbits.refine.gram import Gram

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """A weight (outputs, inputs), inputs to refine it with and others to judge it by (samples, inputs)."""

    weight: Float
    inputs: Float
    held: Float

    @property
    def gram(self) -> Gram:
        """The second moments of the inputs."""
        return Gram.of(self.inputs[None])

    def error(self, values: NDArray[np.floating]) -> float:
        """Squared error of the outputs with `values` as the weight over the squared outputs, on held-out inputs."""
        outputs, change = self.held @ self.weight.T, self.held @ (values - self.weight).T
        return float(np.square(change).sum() / np.square(outputs).sum())


def problem(seed: int, size: int = 256, outputs: int | None = None, outliers: int = 6, gain: float = 30) -> Problem:
    """Inputs ``x (I + N / sqrt(size))`` of normal x and N, `outliers` channels of them times `gain`."""
    rng = np.random.default_rng(seed)
    mix = np.eye(size) + rng.normal(size=(size, size)) / np.sqrt(size)
    gains = np.ones(size)
    gains[rng.choice(size, outliers, replace=False)] = gain
    weight = rng.normal(size=(outputs or size, size)) / np.sqrt(size)
    inputs, held = ((rng.normal(size=(1024, size)) @ mix * gains).astype(np.float32) for _ in range(2))
    return Problem(weight.astype(np.float32), inputs, held)
