"""The next byte of Python source: a causal transformer over 96 bytes, built as GPT-2 is (Radford et al. 2019)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

import source_text
from source_text import Bytes, Part
from training import Batch, Labelled, Trained, fit

CONTEXT = 96
PIECE = 4096
CODES = 128
WIDTH, LAYERS, HEADS = 192, 4, 6
EVALUATION, CALIBRATION, HELD_OUT = 3000, 256, 96
STEPS, BATCH = 1200, 64
SEED = 5


class Attention(nn.Module):
    """Causal self-attention, written out: a product, a mask, a softmax, a product."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(WIDTH, 3 * WIDTH)
        self.outward = nn.Linear(WIDTH, WIDTH)
        future = torch.full((CONTEXT, CONTEXT), -1e4).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, context, width), the shape kept."""
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.inward(x).split(WIDTH, dim=-1)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS) + self.future
        found: Tensor = self.outward((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return found


class Layer(nn.Module):
    """Attention and a network of two layers, each normalised first and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.before_network = nn.LayerNorm(WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, context, width), the shape kept."""
        x = x + self.attention(self.before_attention(x))
        added: Tensor = x + self.network(self.before_network(x))
        return added


class TinyGpt(nn.Module):
    """Bytes to the logits of the byte that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(CODES, WIDTH)
        self.positions = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.last = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CODES, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, text: Tensor) -> Tensor:
        """Codes (batch, 96) to hidden states (batch, 96, width)."""
        states: Tensor = self.layers(self.codes(text) + self.positions)
        return states

    def forward(self, text: Tensor) -> Tensor:
        """Codes (batch, 96) to logits (batch, 128) of the next code."""
        logits: Tensor = self.head(self.last(self.hidden(text)[:, -1]))
        return logits


class EveryPosition(nn.Module):
    """The same network asked after every byte, which is how it is trained."""

    def __init__(self, model: TinyGpt) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: Tensor) -> Tensor:
        """Codes (batch, 96) to logits (batch, 96, 128)."""
        logits: Tensor = self.model.head(self.model.last(self.model.hidden(text)))
        return logits


def windows(pieces: list[Bytes], count: int, rng: np.random.Generator) -> Labelled:
    """`count` windows of 96 bytes, anywhere in any of `pieces`, and the byte that follows each."""
    text = _drawn(pieces, count, rng)
    return Labelled({"text": text[:, :-1]}, text[:, -1])


def _drawn(
    pieces: list[Bytes], count: int, rng: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Windows of 97 codes, shape (count, 97): ASCII, with the last code for all the rest."""
    chosen, starts = rng.integers(len(pieces), size=count), rng.integers(PIECE - CONTEXT, size=count)
    rows = [pieces[piece][start : start + CONTEXT + 1] for piece, start in zip(chosen, starts, strict=True)]
    return np.minimum(np.stack(rows).astype(np.int64), CODES - 1)


def build() -> Trained:
    """Train it."""
    rng = np.random.default_rng(SEED)
    found = source_text.pieces(source_text.files(), PIECE)
    parts = {part: [one.text for one in found if one.part is part] for part in Part}

    def batch() -> Batch:
        text = torch.from_numpy(_drawn(parts[Part.TRAINING], BATCH, rng))
        return (text[:, :-1],), text[:, 1:]

    module = TinyGpt()
    fit(EveryPosition(module), batch, steps=STEPS, rate=3e-3, decay=0.05)
    return Trained(
        module,
        windows(parts[Part.EVALUATION], EVALUATION, rng),
        windows(parts[Part.CALIBRATION], CALIBRATION, rng),
        windows(parts[Part.HELD_OUT], HELD_OUT, rng),
    )
