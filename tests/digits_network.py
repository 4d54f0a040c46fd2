"""A small network trained on scikit-learn's digits: what papers' claims are checked on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_digits

Float = NDArray[np.float32]

LAYERS = (64, 96, 96, 10)
TRAINED, EPOCHS, BATCH, RATE, MOMENTUM = 1297, 60, 32, 0.05, np.float32(0.9)


@dataclass(frozen=True)
class Network:
    """A perceptron 64-96-96-10 with weights of shape (outputs, inputs), and the digits it has not seen."""

    weights: tuple[Float, ...]
    biases: tuple[Float, ...]
    images: Float
    labels: NDArray[np.int64]
    seen: Float
    """The images that it was trained with."""

    def logits(self, weights: tuple[Float, ...]) -> Float:
        return outputs(weights, self.biases, self.images)[-1]

    def accuracy(self, weights: tuple[Float, ...]) -> float:
        return float(np.mean(self.logits(weights).argmax(axis=1) == self.labels))


def outputs(weights: tuple[Float, ...], biases: tuple[Float, ...], x: Float) -> list[Float]:
    """Of every layer, before the ReLU that follows all but the last."""
    found = []
    for w, b in zip(weights, biases, strict=True):
        found.append(x @ w.T + b)
        x = np.maximum(found[-1], 0)
    return found


@cache
def trained(seed: int) -> Network:
    """Momentum, cross entropy, weights that begin normal (He et al., arXiv 1502.01852)."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    weights = [rng.standard_normal((n, m), np.float32) * np.float32(np.sqrt(2 / m)) for m, n in pairwise(LAYERS)]
    biases = [np.zeros(n, np.float32) for n in LAYERS[1:]]
    both = (weights, [np.zeros_like(w) for w in weights]), (biases, [np.zeros_like(b) for b in biases])
    for epoch in range(EPOCHS):
        rate = RATE * (1 - epoch / EPOCHS)
        for batch in np.split(rng.permutation(TRAINED)[: TRAINED // BATCH * BATCH], TRAINED // BATCH):
            inputs, signal = [x[batch]], x[batch]
            for w, b in zip(weights, biases, strict=True):
                signal = inputs[-1] @ w.T + b
                inputs.append(np.maximum(signal, 0))
            back = softmax(signal, axis=1)
            back[np.arange(BATCH), y[batch]] -= 1
            for layer in reversed(range(len(weights))):
                gradients = back.T @ inputs[layer] / BATCH, back.mean(axis=0)
                back = back @ weights[layer] * (inputs[layer] > 0)
                for (values, speeds), gradient in zip(both, gradients, strict=True):
                    speeds[layer] = MOMENTUM * speeds[layer] - np.float32(rate) * gradient
                    values[layer] = values[layer] + speeds[layer]
    return Network(tuple(weights), tuple(biases), x[TRAINED:], y[TRAINED:], x[:TRAINED])
