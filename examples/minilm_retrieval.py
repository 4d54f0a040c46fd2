"""Tune a real sentence encoder and keep its search results: all-MiniLM-L6-v2 over docstrings of the standard library.

Build the model and its sentences once, then tune::

    pip install fewbits[bench]
    python benchmarks/models.py --only minilm
    python examples/minilm_retrieval.py

There are no labels: what is good enough is said by a function. It embeds 2,100 sentences and asks for each whether
its nearest neighbour is still the one that the original model finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fewbits
from fewbits.console import stderr_progress

FOLDER = Path.home() / ".cache" / "fewbits" / "benchmarks"
BATCH = 50

Arrays = Mapping[str, NDArray[Any]]

sentences = np.load(FOLDER / "minilm.npz")
neighbours = np.load(FOLDER / "minilm-nearest.npz")["nearest"]


def agreement(predict: Callable[[Arrays], Arrays]) -> NDArray[np.float64]:
    """One score per sentence: 1 where the nearest other sentence is the original's, else 0."""
    ids, mask = sentences["input_ids"], sentences["attention_mask"]
    parts = [
        predict({"input_ids": ids[i : i + BATCH], "attention_mask": mask[i : i + BATCH]})["sentence_embedding"]
        for i in range(0, len(ids), BATCH)
    ]
    embeddings = np.concatenate(parts)
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    return (cosine.argmax(axis=1) == neighbours).astype(np.float64)


if __name__ == "__main__":
    with stderr_progress() as progress:
        result = fewbits.tune(
            FOLDER / "minilm.onnx",
            {name: sentences[name][:512] for name in sentences.files},
            calibration=FOLDER / "minilm-calibration.npz",
            evaluate=agreement,
            max_loss="5%",
            out="runs/minilm",
            progress=progress,
        )
    print(result)
    print(result.outcome.advice)
