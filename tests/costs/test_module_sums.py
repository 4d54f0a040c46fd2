"""Prices of sums that a convolution takes along, as PyTorch on the CPU computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fewbits.costs.cache import CostCache
from fewbits.costs.measured import Measuring, cost_table
from fewbits.costs.table import CostTable
from fewbits.data.batches import Arrays, Batch
from fewbits.formats.scheme import FP32, INT8_STATIC
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models.protocol import Artifact
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from fewbits.progress import Silent
from fewbits.targets.protocol import Executed
from fewbits.targets.pytorch import Torch
from torch_nets import Sums

INT8 = str(INT8_STATIC)
X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CostCache]:
    with CostCache.open(tmp_path / "costs.sqlite") as opened:
        yield opened


@pytest.fixture
def unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are believed: reading oneDNN's log takes a process for each of a few models."""
    monkeypatch.setattr("fewbits.targets.pytorch_eager._products", lambda *_: {})


def model(*, short: bool = False) -> TorchModel:
    torch.manual_seed(1)
    return TorchModel.of(Sums(short=short).eval(), {"x": X})


def priced(one: TorchModel, cache: CostCache, *, target: Torch | None = None) -> CostTable:
    groups = group(one.graph)
    (values,) = one.observe([Batch({"x": X.numpy()})], sorted({name for made in groups for name in made.operands}))
    wanted = {made.name: (FP32, INT8_STATIC) for made in groups if made.kind is Kind.ADD}
    return cost_table(Measuring(one, target or Torch.of(1), groups, values, Silent()), wanted, cache)


def test_which_convolution_takes_a_sum_along_and_who_reads_it() -> None:
    found = model().inside
    assert {name: place.product.name for name, place in found.items()} == {
        "add": "second.0",
        "add_1": "second.1",
        "add_2": "second.2",
    }
    assert {name: [one.name for one in place.reader] for name, place in found.items()} == {
        "add": ["first.1"],
        "add_1": ["first.2"],
        # A mean reads floats.
        "add_2": [],
    }


def test_a_sum_in_codes_is_priced_inside_its_convolution(cache: CostCache) -> None:
    table = priced(model(), cache)
    for name in ("add", "add_1"):
        cost = table.costs[name][INT8]
        # The convolution's own kernel, in codes: no addition of floats goes by the name of int8.
        assert (cost.precision, cost.refusal) == ("int8", "")
        assert cost.kernel.startswith(("matmul ", "convolution ")) and "add" not in cost.kernel
        # What is added is made codes where it is floats.
        assert cost.entry > 0
        assert table.along[name].product == f"second.{name[4:] or 0}"
        assert table.costs[name]["fp32"].kernel == "add.Tensor"
    refused = table.costs["add_2"][INT8].refusal
    assert "added in floats" in refused and "add_2" not in table.along
    # Equal sums are measured once, and never again.
    assert table.costs["add"] == table.costs["add_1"]
    again = priced(model(), cache)
    assert again.measured == 0 and (again.costs, again.along) == (table.costs, table.along)


def test_a_convolution_may_read_one_sum_and_take_the_next_along(cache: CostCache, unlogged: None) -> None:
    one = model(short=True)
    assert [place.reader[0].name for place in one.inside.values() if place.reader] == ["first.1", "first.2"]
    assert [place.product.name for place in one.inside.values()] == ["first.0", "first.1", "first.2"]
    table = priced(one, cache)
    assert {table.costs[name][INT8].precision for name in ("add", "add_1")} == {"int8"}


class Told(Torch):
    """PyTorch with made-up seconds for convolutions that take sums along."""

    __slots__ = ()

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        ran = super().executed(artifact, inputs, calls)
        names = {one.name for one in ran}
        inside = {"second.0", "first.1"} <= names
        return [replace(one, seconds=self.seconds(one, inside=inside)) for one in ran]

    def seconds(self, one: Executed, *, inside: bool) -> float:
        if one.precision == "boundary":
            return 0.25
        if one.name.startswith("second"):
            return 5.0 if len(one.outputs) > 1 else 7.0 if inside else 2.0
        return 4.0 if one.name.startswith("add") else 1.0


def test_a_price_is_what_the_convolution_takes_longer(cache: CostCache, unlogged: None) -> None:
    table = priced(model(), cache, target=Told.of(1))
    codes = table.costs["add"][INT8]
    # Twice what making codes of one operand takes, as the search counts half for each of two.
    assert (codes.entry, codes.compute) == (0.5, 5.0 - 2.0)
    # Read by floats, floats are added.
    assert codes.exit == 7.0 - 5.0
    assert table.along["add"].seconds == 7.0 - 2.0
    # Addition and activation, each a call of its own.
    assert table.costs["add"]["fp32"].compute == 4.0 + 1.0


def test_the_converted_model_says_what_it_takes_along() -> None:
    one = model()
    names = [made.name for made in group(one.graph) if made.name != "add_2"]
    ranges = {name: (-4.0, 4.0) for made in group(one.graph) for name in made.operands}
    plan = Plan(one.sha256, {name: Choice(INT8, "") for name in names}, ranges)
    along = {label.name: label.along for label in one.module(plan).labels if label.along}
    # The other sum is read by one in floats, too.
    assert along == {"second.0": ("add",)}
    floats = Plan(one.sha256, {name: Choice(INT8, "") for name in names if "add" not in name}, ranges)
    assert not any(label.along for label in one.module(floats).labels)


def test_a_sum_is_cut_out_with_what_stands_around_it() -> None:
    """The numbers of the piece are those that the whole has there."""
    one = model()
    place = one.inside["add"]
    made = next(made for made in group(one.graph) if made.name == "add")
    nodes = [name for part in (place.product, made, *place.reader) for name in part.nodes]
    piece = replace(made, nodes=tuple(nodes))
    cut = one.regions([piece], {})
    assert isinstance(cut.model, TorchModel)
    assert [one.name for one in group(cut.model.graph)] == ["second.0", "add", "first.1"]
    (whole,) = one.observe([Batch({"x": X.numpy()})], [*cut.inputs.values(), place.reader[0].output])
    given = {name: torch.from_numpy(whole[tensor]) for name, tensor in cut.inputs.items()}
    (found,) = cut.model.module(Plan(cut.model.sha256, {}, {}))(**given)  # type: ignore[misc]
    np.testing.assert_allclose(found.numpy(), whole[place.reader[0].output], rtol=1e-5, atol=1e-6)
