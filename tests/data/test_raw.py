"""Data as PyTorch users have it: what a module is exported with, and the same data as a dataset."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fewbits.data import DataSource, open_data
from fewbits.data.raw import look
from fewbits.errors import DataError
from fewbits.models.pytorch.model import TorchModel

X = torch.randn(11, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(11) % 3


class One(nn.Module):
    """One input, and labels that it does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.layer(x) if mask is None else self.layer(x) * mask


class Two(One):
    """Two inputs."""

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.layer(x) + self.layer(z)


def once(batches: list[object]) -> Iterator[object]:
    yield from batches


SOURCES: dict[str, Callable[[], object]] = {
    "a loader of pairs": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "a loader of tensors in lists": lambda: DataLoader(TensorDataset(X), batch_size=4),
    "a loader of tensors": lambda: DataLoader(X, batch_size=4),  # type: ignore[arg-type]
    "a loader of mappings": lambda: DataLoader(
        [{"x": one, "labels": label} for one, label in zip(X, Y, strict=True)], batch_size=4
    ),
    "one tensor": lambda: X,
    "a pair of tensors": lambda: (X, Y),
    "a mapping": lambda: {"x": X.numpy(), "labels": Y.numpy()},
    "a generator": lambda: once([(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]),
    "pairs of numpy": lambda: [(X[:4].numpy(), Y[:4].numpy()), (X[4:].numpy(), Y[4:].numpy())],
    "batches of one": lambda: [(X[place : place + 1], Y[place : place + 1]) for place in range(11)],
    "mappings with what is not given": lambda: [{"x": X, "mask": None, "labels": Y}],
    # What a BatchEncoding of transformers is.
    "mappings that are no dict": lambda: [
        UserDict({"x": X[:4], "labels": Y[:4]}),
        UserDict({"x": X[4:], "labels": Y[4:]}),
    ],
    "tuples of inputs": lambda: [((X[:4],), Y[:4]), ((X[4:],), Y[4:])],
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_form_says_the_same(name: str) -> None:
    raw = look(SOURCES[name]())  # type: ignore[arg-type]
    model = TorchModel.of_items(One(), raw.items)
    assert [(tensor.name, len(tensor.shape or ())) for tensor in model.inputs] == [("x", 2)]
    assert isinstance((model.inputs[0].shape or (0,))[0], str), "the number of samples is free"
    data = open_data(raw.source, model.inputs)
    assert data.samples == 11
    assert np.array_equal(np.concatenate([batch.inputs["x"] for batch in data.batches(3)]), X.numpy())
    assert data.has_labels is (name not in ("a loader of tensors in lists", "a loader of tensors", "one tensor"))


@pytest.mark.parametrize(
    "batch", [((X, X + 1), Y), [(X, X + 1), Y], {"x": X, "z": X + 1, "labels": Y}], ids=["tuple", "list", "mapping"]
)
def test_several_inputs_have_names_or_an_order(batch: object) -> None:
    raw = look([batch])
    model = TorchModel.of_items(Two(), raw.items)
    (found,) = open_data(raw.source, model.inputs).batches(20)
    assert np.array_equal(found.inputs["x"], X.numpy()) and np.array_equal(found.inputs["z"], X.numpy() + 1)
    assert found.labels is not None and np.array_equal(found.labels, Y.numpy())


def test_axes_that_differ_between_batches_are_free() -> None:
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(1)

    model = TorchModel.of_items(Sums(), look([torch.zeros(2, 5, 8), torch.zeros(3, 7, 8)]).items)
    shape = model.inputs[0].shape
    assert shape is not None and [isinstance(size, str) for size in shape] == [True, True, False]


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        (One(), [{"x": X, "label": Y}], r"no argument 'label' \(if it holds the labels, name it 'labels'\)"),
        (One(), [{"x": X, "more": Y}], "no argument 'more'; it takes x, mask, labels"),
        (One(), [(X, X, Y)], r"a batch has 3 parts; give \(inputs, labels\)"),
        (Two(), [(X, Y)], "needs x, z, but a batch has 1 array without a name"),
        (Two(), [((X, X, X), Y)], "needs x, z, but a batch has 3 arrays"),
        (One(), [{"x": X, "mask": 1.0}], "'mask' is a single value.*belongs into the module"),
        (One(), [{"x": "words"}], "'x' is str; give an array of numbers"),
        (One(), [X[:0]], r"shape \(0, 8\): there is nothing in it"),
        (One(), [], "no batches"),
        (One(), 5, "int cannot be read as data"),
    ],
)
def test_what_does_not_go_together_is_told(module: nn.Module, source: DataSource, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TorchModel.of_items(module, look(source).items)
