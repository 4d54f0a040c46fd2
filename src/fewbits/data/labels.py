"""The labels of a dataset without its inputs, where it can give them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from fewbits.data.batches import Array, Dataset

_STEP = 256


@runtime_checkable
class Labelled(Protocol):
    """A dataset that knows its labels without reading its inputs."""

    @property
    def labels(self) -> Array | None:
        """Labels of shape (samples, …); ``None`` if there are none or their shapes differ."""


def labels_of(dataset: Dataset) -> Array | None:
    """All labels in order, shape (samples, …); ``None`` if there are none or their shapes differ."""
    if not dataset.has_labels:
        return None
    if isinstance(dataset, Labelled):
        return dataset.labels
    parts = [batch.labels for batch in dataset.batches(_STEP) if batch.labels is not None]
    alike = len({part.shape[1:] for part in parts}) == 1
    return np.concatenate(parts) if alike else None
