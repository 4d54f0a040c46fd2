"""A made translation and a small encoder-decoder transformer that learns it, for the papers on low-precision training.

The language that is translated from says ``the green old horse sees a bird``: an article, up to two adjectives and a
noun; a verb; and the same again. The other one says ``a bird the horse old green sees``: the object comes first, the
verb last, adjectives follow their noun in reverse order, and articles, adjectives and the verb agree with the class of
a noun (the verb with its object). So words move, and most have several translations. There are 3 million sentences of
up to 9 words: those that are tested with are not trained on.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import nn
from torch.nn import functional

from fewbits import training
from fewbits.errors import DivergenceError

PAD, BEGIN, END = 0, 1, 2
ARTICLES, NOUNS, ADJECTIVES, VERBS, CLASSES = 2, 8, 6, 6, 2
LONGEST = 10
SOURCE_WORDS = 3 + ARTICLES + NOUNS + ADJECTIVES + VERBS
TARGET_WORDS = 3 + NOUNS + CLASSES * (ARTICLES + ADJECTIVES + VERBS)
EVERY = 20
"""Steps per point of a curve."""

Sentences = tuple[torch.Tensor, torch.Tensor]
"""Sources and translations, (count, LONGEST) each; both end with END and are padded."""


def phrase(random: Random) -> tuple[list[int], list[int], int]:
    """An article, adjectives and a noun; their translation; the class of the noun."""
    article, noun = random.randrange(ARTICLES), random.randrange(NOUNS)
    adjectives = [random.randrange(ADJECTIVES) for _ in range(random.randrange(3))]
    kind = (noun // 2 + noun) % CLASSES
    first = 3
    source = [first + article]
    source += [first + ARTICLES + NOUNS + one for one in adjectives]
    source += [first + ARTICLES + noun]
    agreeing = first + NOUNS + kind * (ARTICLES + ADJECTIVES + VERBS)
    target = [agreeing + article, first + (noun * 5 + 2) % NOUNS]
    target += [agreeing + ARTICLES + one for one in reversed(adjectives)]
    return source, target, kind


def sentence(random: Random) -> tuple[list[int], list[int]]:
    """A sentence and its translation, both with END."""
    subject, object_, verb = phrase(random), phrase(random), random.randrange(VERBS)
    source = [*subject[0], 3 + ARTICLES + NOUNS + ADJECTIVES + verb, *object_[0], END]
    agreeing = 3 + NOUNS + object_[2] * (ARTICLES + ADJECTIVES + VERBS) + ARTICLES + ADJECTIVES
    return source, [*object_[1], *subject[1], agreeing + verb, END]


def sentences(count: int, random: Random, without: Set[tuple[int, ...]] = frozenset()) -> Sentences:
    """`count` sentences as they come, none of which has a source that is among `without`."""
    pairs: list[tuple[list[int], list[int]]] = []
    while len(pairs) < count:
        pair = sentence(random)
        if tuple(pair[0]) not in without:
            pairs.append(pair)
    padded = [[[*words, *[PAD] * (LONGEST - len(words))] for words in side] for side in zip(*pairs, strict=True)]
    return torch.tensor(padded[0]), torch.tensor(padded[1])


@lru_cache(1)
def held_out() -> tuple[Sentences, frozenset[tuple[int, ...]]]:
    """What is tested with, and its sources without padding."""
    found = sentences(500, Random("held out"))
    return found, frozenset(tuple(word for word in source if word != PAD) for source in found[0].tolist())


class Translator(nn.Module):
    """An encoder-decoder transformer (Vaswani et al. 2017) with learnt places."""

    def __init__(self, width: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.sources = nn.Embedding(SOURCE_WORDS, width)
        self.targets = nn.Embedding(TARGET_WORDS, width)
        self.places = nn.Parameter(torch.randn(LONGEST, width) * 0.1)
        encoder = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        decoder = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, layers)
        self.head = nn.Linear(width, TARGET_WORDS)

    def forward(self, source: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Scores of every word of the translation, given the words before it."""
        return self.decoded(self.encoded(source), source, before)

    def encoded(self, source: torch.Tensor) -> torch.Tensor:
        """What the decoder reads of a source."""
        return self.encoder(self.sources(source) + self.places, src_key_padding_mask=source == PAD)

    def decoded(self, memory: torch.Tensor, source: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Scores of the words behind each of `before`."""
        length = before.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        out = self.decoder(
            self.targets(before) + self.places[:length], memory, later, memory_key_padding_mask=source == PAD
        )
        return self.head(out)


def shifted(target: torch.Tensor) -> torch.Tensor:
    """What precedes each word of `target`."""
    return torch.cat([torch.full((len(target), 1), BEGIN), target[:, :-1]], 1)


def cross_entropy(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean over words that are no padding."""
    return functional.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=PAD)


def greedy(model: nn.Module, source: torch.Tensor) -> torch.Tensor:
    """Translations word by word, each the likeliest behind those before it."""
    out = torch.full((len(source), 1), BEGIN)
    for _ in range(LONGEST):
        following = model(source, out)[:, -1].argmax(-1)
        out = torch.cat([out, following[:, None]], 1)
    return out[:, 1:]


@dataclass(frozen=True)
class Translated:
    """How a training ended, on held-out sentences: `loss` per word given those before it, `words` that are right of
    greedy translations, `whole` translations that are right; the curves are of training, a point for every 20 steps."""

    words: float
    whole: float
    loss: float
    skipped: int
    diverged: bool
    losses: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    layer_scales: tuple[float, ...] = ()


def train_translator(
    recipe: str | training.Recipe,
    *,
    seed: int = 0,
    steps: int = 400,
    rate: float = 3e-3,
    batch: int = 48,
    layers: int = 1,
    loss_factor: float = 1.0,
) -> Translated:
    """Train a translator by Adam; the rate rises for a tenth of the steps and then falls linearly.

    `loss_factor` multiplies the loss: Adam's updates do not depend on it as long as nothing underflows.
    """
    (test_source, test_target), tested = held_out()
    torch.manual_seed(seed)
    model = Translator(layers=layers)
    # Adam's epsilon stands beside magnitudes of gradients.
    optimizer = torch.optim.Adam(model.parameters(), rate, (0.9, 0.98), 1e-9 * loss_factor)
    low, step = training.prepare(model, optimizer, recipe, seed=seed, planned=steps)
    warm = max(steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda index: min((index + 1) / warm, max(steps - index, 1) / max(steps - warm, 1))
    )
    random = Random(f"seed {seed}")
    losses: list[float] = []
    scales: list[float] = []
    skipped, diverged = 0, False
    for index in range(steps):
        source, target = sentences(batch, random, tested)
        loss = cross_entropy(low(source, shifted(target)), target)
        if index % EVERY == 0:
            losses.append(0.0)
            scales.append(step.scale)
        losses[-1] += float(loss.detach()) / EVERY
        try:
            status = step(loss * loss_factor)
        except DivergenceError:
            diverged = True
            break
        skipped += not status.stepped
        if status.stepped:
            schedule.step()
    low.eval()
    with torch.no_grad():
        loss = float(cross_entropy(low(test_source, shifted(test_target)), test_target))
        found = greedy(low, test_source)
    real = test_target != PAD
    right = (found == test_target) | ~real
    return Translated(
        float(right[real].float().mean()),
        float(right.all(1).float().mean()),
        loss,
        skipped,
        diverged,
        tuple(losses),
        tuple(scales),
        tuple(step.layer_scales.values()),
    )
