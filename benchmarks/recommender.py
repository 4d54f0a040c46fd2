"""Will a user like an item: five embedding tables and a small network, like DLRM (Naumov et al. 2019).

The interactions are made from a model with hidden factors: users and items have hidden vectors, items lean towards
their category's, regions and devices shift everything, and four numbers say something about the moment. The answer is
drawn with the probability that this gives, so that no network can be right every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training import Labelled, Trained, fit, shuffled

USERS, ITEMS, CATEGORIES, REGIONS, DEVICES = 60_000, 24_000, 400, 2_000, 16
TABLES = {"user": USERS, "item": ITEMS, "category": CATEGORIES, "region": REGIONS, "device": DEVICES}
WIDTH = 64
DENSE = 8
FACTORS = 3
TRAINING, EVALUATION, CALIBRATION, HELD_OUT = 3_200_000, 4000, 512, 256
# One pass: a second one would learn the answers of single users by heart.
STEPS, BATCH = 780, 4096
SEED = 4

Floats = NDArray[np.float32]


class Recommender(nn.Module):
    """Embeddings and dense features meet in all their dot products; a network of three layers decides."""

    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(rows, WIDTH) for name, rows in TABLES.items()})
        for table in self.tables.values():
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.05)
        self.bottom = nn.Sequential(nn.Linear(DENSE, 128), nn.ReLU(), nn.Linear(128, WIDTH), nn.ReLU())
        vectors = len(TABLES) + 1
        rows, columns = np.triu_indices(vectors, 1)
        self.register_buffer("pairs", torch.from_numpy(rows * vectors + columns), persistent=False)
        self.top = nn.Sequential(
            nn.Linear(WIDTH + len(rows), 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 2)
        )

    def forward(
        self, user: Tensor, item: Tensor, category: Tensor, region: Tensor, device: Tensor, dense: Tensor
    ) -> Tensor:
        """Indices (batch,) each and dense features (batch, 8) to logits (batch, 2): dislikes, likes."""
        indices = (user, item, category, region, device)
        about = self.bottom(dense)
        looked_up = [table(index) for table, index in zip(self.tables.values(), indices, strict=True)]
        vectors = torch.stack([about, *looked_up], 1)
        products = (vectors @ vectors.transpose(1, 2)).flatten(1)[:, self.pairs]
        logits: Tensor = self.top(torch.cat([about, products], 1))
        return logits


@dataclass(frozen=True)
class World:
    """The hidden truth: vectors (rows, factors) of users and items, shifts (rows,), and what dense features weigh."""

    users: Floats
    items: Floats
    user_shift: Floats
    item_shift: Floats
    region_shift: Floats
    device_weights: Floats
    category: NDArray[np.int64]
    region: NDArray[np.int64]

    @classmethod
    def make(cls, rng: np.random.Generator) -> World:
        """A world in which the logit has a standard deviation of about 2.7."""

        def normal(*shape: int) -> Floats:
            return rng.standard_normal(shape, np.float32)

        category = rng.integers(CATEGORIES, size=ITEMS)
        items = 0.6 * normal(CATEGORIES, FACTORS)[category] + 0.3 * normal(ITEMS, FACTORS)
        return cls(
            users=normal(USERS, FACTORS),
            items=items.astype(np.float32),
            user_shift=1.5 * normal(USERS),
            item_shift=1.5 * normal(ITEMS),
            region_shift=0.4 * normal(REGIONS),
            device_weights=0.4 * normal(DEVICES, DENSE),
            category=category,
            region=rng.integers(REGIONS, size=USERS),
        )

    def interactions(self, count: int, rng: np.random.Generator) -> Labelled:
        """`count` interactions: users evenly, items by popularity, no pair of user and item twice."""
        user = rng.integers(USERS, size=2 * count)
        item = (ITEMS * rng.random(2 * count) ** 2).astype(np.int64)
        _, first = np.unique(user * ITEMS + item, return_index=True)
        chosen = rng.permutation(first)[:count]
        user, item = user[chosen], item[chosen]
        region, device = self.region[user], rng.integers(DEVICES, size=count)
        dense = rng.standard_normal((count, DENSE), np.float32)
        taste = (self.users[user] * self.items[item]).sum(1)
        shift = self.user_shift[user] + self.item_shift[item] + self.region_shift[region]
        logit = taste + shift + (dense * self.device_weights[device]).sum(1)
        labels = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int64)
        indices = {"user": user, "item": item, "category": self.category[item], "region": region, "device": device}
        return Labelled({**indices, "dense": dense}, labels)


def build() -> Trained:
    """Train it."""
    rng = np.random.default_rng(SEED)
    sizes = np.cumsum((EVALUATION, CALIBRATION, HELD_OUT, TRAINING)).tolist()
    made = World.make(rng).interactions(sizes[-1], rng)
    module = Recommender()
    fit(module, shuffled(made.part(sizes[2], sizes[3]), BATCH, rng), steps=STEPS, rate=1e-2, decay=0.5)
    return Trained(module, made.part(0, sizes[0]), made.part(sizes[0], sizes[1]), made.part(sizes[1], sizes[2]))
