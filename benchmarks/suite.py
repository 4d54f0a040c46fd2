"""The models of the benchmark set: what each is tuned for, and its files in the cache folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import minilm

THREADS = 2
LABELS = "labels"

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Member:
    """One model of the set. `samples` of its data are used for tuning; `note` says what its weights are."""

    name: str
    title: str
    samples: int
    metric: str
    max_loss: str
    note: str

    def model(self, folder: Path) -> Path:
        """The original's path. Stops if it has not been built."""
        path = folder / f"{self.name}.onnx"
        if not path.is_file():
            raise SystemExit(f"{path} is not there: run python benchmarks/models.py --only {self.name}")
        return path

    def data(self, folder: Path) -> Arrays:
        """What the model is tuned with."""
        return {name: array[: self.samples] for name, array in _load(folder / f"{self.name}.npz").items()}

    def calibration(self, folder: Path) -> Arrays | None:
        """Inputs for the ranges only, where the model has such."""
        path = folder / f"{self.name}-calibration.npz"
        return _load(path) if path.is_file() else None

    def held_out(self, folder: Path) -> Arrays:
        """Inputs that no tuning saw, for the output error."""
        return _load(folder / f"{self.name}-held-out.npz")

    def one(self, folder: Path) -> Arrays:
        """The single sample whose latency is measured."""
        return {name: array[:1] for name, array in self.data(folder).items() if name != LABELS}


# With random weights accuracy says nothing: any budget is arbitrary. This one only keeps broken conversions out.
_RANDOM = ("cosine", "0.1", "random weights: latency only")
_TRAINED = ("accuracy", "0.01")
_MEMBERS = (
    Member("resnet50", "ResNet-50", 64, *_RANDOM),
    Member("mobilenetv2", "MobileNetV2", 64, *_RANDOM),
    Member("vit_s", "ViT-S/16", 64, *_RANDOM),
    Member("bert_base", "BERT-base, 128 tokens", 128, *_RANDOM),
    Member(
        "minilm",
        "all-MiniLM-L6-v2, 64 tokens",
        512,
        "retrieval agreement",
        "5%",
        f"pretrained: top-1 retrieval agreement over {minilm.SENTENCES:,} docstrings",
    ),
    Member("lstm_text", "LSTM, 128 bytes", 2400, *_TRAINED, "trained: which package a snippet of source is from"),
    Member("se_depthwise", "MobileNetV3-like, 64x64", 3000, *_TRAINED, "trained: printed characters, turned and noisy"),
    Member(
        "depthwise_glyphs",
        "MobileNetV2-like, 32x32",
        3000,
        "accuracy",
        "0.005",
        "trained: printed characters, turned and noisy; channels of very different size",
    ),
    Member("conv1d_sound", "1-D ResNet, 8,000 samples", 2400, *_TRAINED, "trained: synthesised sounds in noise"),
    Member("recommender", "DLRM-like, five tables", 4000, *_TRAINED, "trained: likes from a model with hidden factors"),
    Member("tiny_gpt", "GPT-like, 96 bytes", 3000, *_TRAINED, "trained: the next byte of Python source"),
)
SUITE: Mapping[str, Member] = {member.name: member for member in _MEMBERS}


def _load(path: Path) -> Arrays:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
