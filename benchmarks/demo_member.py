"""The demo's digits as a member of the set: a small convolutional network with a real metric, and no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewbits.demo import demo_calibration, demo_data, demo_model
from suite import LABELS, Arrays, Member


@dataclass(frozen=True)
class Demo(Member):
    """Files out of the package instead of the cache folder. The first `samples` of the 899 digits that training did
    not see are for tuning, the others for the output error."""

    def model(self, folder: Path) -> Path:
        """The original's path."""
        return demo_model()

    def data(self, folder: Path) -> Arrays:
        """What the model is tuned with."""
        return {name: array[: self.samples] for name, array in _load(demo_data()).items()}

    def calibration(self, folder: Path) -> Arrays | None:
        """Inputs for the ranges only."""
        return _inputs(_load(demo_calibration()))

    def held_out(self, folder: Path) -> Arrays:
        """Inputs that no tuning saw, for the output error."""
        return {name: array[self.samples :] for name, array in _inputs(_load(demo_data())).items()}


DIGITS = Demo("digits", "the demo's digits", 800, "accuracy", "1%", "trained: accuracy on digits that it never saw")


def _inputs(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name != LABELS}


def _load(path: Path) -> Arrays:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
