"""Modules that cannot be exported: their layers are converted one by one, and everything else is as it was."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from fewbits.errors import ModelError, PlanError
from fewbits.formats.scheme import BF16, FP16, Scheme
from fewbits.models.pytorch.converted import size_of
from fewbits.models.pytorch.leaves import ConvertedLayers, LowLayer, convert_leaves
from fewbits.models.pytorch.model import TorchModel


class Branching(nn.Module):
    """Which layers run depends on the values, and the output is a product by the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.first = nn.Linear(16, 16)
        self.other = nn.Linear(16, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.table(x)
        y = self.first(y) if y.mean() > 0 else self.other(y)
        y = self.norm(y + self.conv(y.transpose(1, 2)).transpose(1, 2))
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return y @ self.table.weight.T


@pytest.fixture
def module() -> Branching:
    torch.manual_seed(0)
    return Branching()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randint(0, 12, (3, 5), generator=torch.Generator().manual_seed(0))


def exact(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = copy.deepcopy(module).eval()(x)
    return found


@pytest.mark.parametrize(("scheme", "most"), [(BF16, 0.03), (FP16, 0.004)])
def test_layers_compute_low_where_no_graph_is_to_be_had(
    module: Branching, x: torch.Tensor, scheme: Scheme, most: float
) -> None:
    with pytest.raises(ModelError, match=r"line \d+, in forward: y = self.first"):
        TorchModel.of(module, {"x": x})
    found = convert_leaves(module, lambda path, layer: scheme)
    expected = exact(module, x)
    assert 0 < float((found(x) - expected).norm() / expected.norm()) < most
    assert found(x).dtype == torch.float32
    low = {name: one.layer.weight.dtype for name, one in found.named_modules() if isinstance(one, LowLayer)}
    dtype = torch.bfloat16 if scheme == BF16 else torch.float16
    assert low == {f"module.{name}": dtype for name in ("table", "first", "other", "conv")}


def test_nothing_low_is_the_same_bit_for_bit(module: Branching, x: torch.Tensor) -> None:
    assert torch.equal(convert_leaves(module, lambda path, layer: Scheme())(x), exact(module, x))


def test_who_decides_sees_path_and_layer(module: Branching) -> None:
    asked: dict[str, nn.Module] = {}

    def decide(path: str, layer: nn.Module) -> Scheme:
        asked[path] = layer
        return BF16 if path == "conv" else Scheme()

    found = convert_leaves(module, decide)
    assert asked == {name: getattr(module, name) for name in ("table", "first", "other", "conv")}
    assert found.schemes == {"table": "fp32", "first": "fp32", "other": "fp32", "conv": "bf16"}


def test_the_given_module_is_left_as_it_was(module: Branching, x: torch.Tensor) -> None:
    module.train()
    before, code = {name: tensor.clone() for name, tensor in module.state_dict().items()}, repr(module)
    found = convert_leaves(module, lambda path, layer: BF16)
    found(x)
    found.double()
    assert repr(module) == code and module.training and all(one.requires_grad for one in module.parameters())
    assert {one.dtype for one in module.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_modules_that_reach_into_their_layers_are_left_whole() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 4))
    found = convert_leaves(module, lambda path, layer: BF16)
    assert found.schemes == {"0": "bf16", "2": "bf16"}
    x = torch.randn(3, 5, 16)
    expected = exact(module, x)
    assert float((found(x) - expected).norm() / expected.norm()) < 0.02


def test_what_is_given_back_is_a_module_like_any_other(module: Branching, x: torch.Tensor) -> None:
    found = convert_leaves(module, lambda path, layer: BF16)
    expected = found(x)
    assert torch.equal(copy.deepcopy(found)(x), expected)
    stream = io.BytesIO()
    torch.save(found, stream)
    again = torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    assert isinstance(again, ConvertedLayers) and torch.equal(again(x), expected)
    other = convert_leaves(Branching(), lambda path, layer: BF16)
    other.load_state_dict(found.state_dict())
    assert torch.equal(other(x), expected)
    assert "(conv): bf16" in str(found)
    assert not found.training and not any(one.requires_grad for one in found.parameters())
    with pytest.raises(ValueError, match="inference"):
        found.train()


def test_weights_are_stored_low_and_tied_weights_once() -> None:
    module = nn.Sequential(nn.Embedding(64, 16), nn.Linear(16, 64, bias=False))
    module[1].weight = module[0].weight
    found = convert_leaves(module, lambda path, layer: BF16)
    assert size_of(found) * 2 == size_of(module)


def test_a_layer_that_is_called_at_two_places_stays_one() -> None:
    layer = nn.Linear(8, 8)
    found = convert_leaves(nn.Sequential(layer, nn.ReLU(), layer), lambda path, layer: BF16)
    assert found.schemes == {"0": "bf16"}
    assert len({id(one) for one in found.modules() if isinstance(one, LowLayer)}) == 1
    assert isinstance(found.module[2], LowLayer)


def test_a_layer_alone_is_a_model() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(3, 8)
    assert torch.allclose(convert_leaves(layer, lambda path, layer: BF16)(x), layer(x), atol=0.03)


def test_what_stays_says_why() -> None:
    hooked, half = nn.Linear(8, 8), nn.Linear(8, 8).half()
    hooked.register_forward_hook(lambda layer, args, found: found * 2)
    module = nn.ModuleDict(
        {"norm": nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), "hooked": hooked, "short": half}
    )
    found = convert_leaves(module, lambda path, layer: BF16)
    assert found.schemes == {}
    assert "computed at every call" in found.kept["norm"]
    assert "hooks" in found.kept["hooked"] and "float16 already" in found.kept["short"]
    assert "(hooked): fp32, as it has hooks" in str(found)


def test_what_cannot_be_asked_for_is_refused(module: Branching) -> None:
    with pytest.raises(PlanError, match=r"table is to be w:int8.*bf16 and fp16 only"):
        convert_leaves(module, lambda path, layer: Scheme.parse("w:int8/channel a:uint8/tensor"))
    with pytest.raises(ModelError, match="no layer that could"):
        convert_leaves(nn.ReLU(), lambda path, layer: BF16)
