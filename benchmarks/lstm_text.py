"""Which package of the standard library a snippet of 128 bytes comes from: one LSTM layer over bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import source_text
from source_text import Bytes, Part
from training import Batch, Labelled, Trained, fit

PACKAGES = (
    "asyncio",
    "email",
    "encodings",
    "http",
    "idlelib",
    "importlib",
    "logging",
    "multiprocessing",
    "tkinter",
    "unittest",
    "urllib",
    "xml",
)
LENGTH = 128
PIECE = 512
CODES = 128
EMBEDDING = 64
HIDDEN = 192
EVALUATION, CALIBRATION, HELD_OUT = 2400, 288, 144
STEPS, BATCH = 600, 128
SEED = 1


class LstmText(nn.Module):
    """Bytes to classes: embedding, LSTM, the mean of its outputs, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CODES, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
        self.classifier = nn.Linear(HIDDEN, len(PACKAGES))

    def forward(self, text: Tensor) -> Tensor:
        """Codes (batch, 128) to logits (batch, classes)."""
        outputs, _ = self.lstm(self.embedding(text))
        logits: Tensor = self.classifier(outputs.mean(1))
        return logits


def texts() -> list[dict[Part, Bytes]]:
    """Per package the text of each part, shape (pieces, 512)."""
    found = []
    for package in PACKAGES:
        pieces = source_text.pieces(source_text.files(package), PIECE)
        found.append({part: np.stack([one.text for one in pieces if one.part is part]) for part in Part})
    return found


def samples(packages: list[dict[Part, Bytes]], part: Part, count: int, rng: np.random.Generator) -> Labelled:
    """`count` distinct snippets of `part`, equally many of each package, in random order."""
    each = count // len(PACKAGES)
    rows = []
    for package in packages:
        parts = package[part].reshape(-1, LENGTH)
        rows.append(parts[rng.choice(len(parts), each, replace=False)])
    order = rng.permutation(each * len(PACKAGES))
    text = np.concatenate(rows).astype(np.int64)[order]
    return Labelled({"text": np.minimum(text, CODES - 1)}, np.repeat(np.arange(len(PACKAGES)), each)[order])


def build() -> Trained:
    """Train it."""
    rng = np.random.default_rng(SEED)
    packages = texts()
    training = [package[Part.TRAINING] for package in packages]

    def batch() -> Batch:
        labels = rng.integers(len(PACKAGES), size=BATCH)
        starts = rng.integers(PIECE - LENGTH + 1, size=BATCH)
        rows = [
            training[label][rng.integers(len(training[label]))][start : start + LENGTH]
            for label, start in zip(labels, starts, strict=True)
        ]
        text = np.minimum(np.stack(rows).astype(np.int64), CODES - 1)
        return (torch.from_numpy(text),), torch.from_numpy(labels)

    module = LstmText()
    fit(module, batch, steps=STEPS, rate=6e-3)
    return Trained(
        module,
        samples(packages, Part.EVALUATION, EVALUATION, rng),
        samples(packages, Part.CALIBRATION, CALIBRATION, rng),
        samples(packages, Part.HELD_OUT, HELD_OUT, rng),
        # The dynamo exporter leaves the weights of an LSTM in slices that are put together when the graph runs.
        dynamo=False,
    )
