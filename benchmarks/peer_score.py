"""The real metric of a model, where it has one, for any form of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import minilm
from fewbits.evaluation import Predict
from fewbits.metrics import metric
from suite import LABELS, Member

Score = Callable[[Predict], float]
BATCH = 50


def has_score(member: Member, folder: Path) -> bool:
    """Whether `member` has weights whose accuracy means something, and data to take it on."""
    return member.name == "minilm" or LABELS in member.data(folder)


def score(member: Member, folder: Path) -> Score:
    """The metric of `member` over all data that it is tuned with, the same for every form."""
    if member.name == "minilm":
        agreement = minilm.Agreement.load(folder)
        return lambda predict: float(agreement(_single(predict, minilm.OUTPUT)).mean())
    data = member.data(folder)
    labels = data.pop(LABELS)
    found = metric(member.metric)

    def value(predict: Predict) -> float:
        rows = []
        for start in range(0, len(labels), BATCH):
            outputs = predict({name: array[start : start + BATCH] for name, array in data.items()})
            rows.append(found.rows(next(iter(outputs.values())), labels[start : start + BATCH], found.threshold))
        return found.value(np.concatenate(rows))

    return value


def _single(predict: Predict, name: str) -> Predict:
    """`predict` with its only output called `name`: a converted model may have another name for it."""
    return lambda inputs: {name: next(iter(predict(inputs).values()))}
