"""Modules and programs as users have them: converted with the same outward behaviour, or refused with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fewbits.errors import DataError, ModelError
from fewbits.formats.scheme import BF16, Scheme
from fewbits.grouping import group
from fewbits.models import is_torch, open_model
from fewbits.models.pytorch.examples import example_of
from fewbits.models.pytorch.model import TorchModel
from torch_nets import plan_of

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.randint(0, 10, (3, 5), generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """A linear layer, what is given besides, and a function of both."""

    def __init__(self, function: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(self, x)


@dataclass(frozen=True)
class Pair:
    first: torch.Tensor
    rest: dict[str, torch.Tensor]
    note: str = "kept"


class Twice(torch.autograd.Function):
    """A function with a derivative of its own."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


def outcome(module: nn.Module, x: torch.Tensor) -> tuple[object, object, object]:
    """What the module gives in evaluation, under a plan of nothing, and with all in bf16."""
    before = module.training
    model = TorchModel.of(module, {_argument(module): x})
    assert module.training is before
    with torch.no_grad():
        expected = module.eval()(x)
        found = model.module(plan_of(model, Scheme()))(x)
        low = model.module(plan_of(model, BF16))(x)
    module.train(before)
    return expected, found, low


def _argument(module: nn.Module) -> str:
    return "input" if isinstance(module, nn.Sequential | nn.EmbeddingBag) else "x"


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Pair):
        return tensors((value.first, value.rest))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def near(expected: object, low: object) -> bool:
    pairs = zip(tensors(expected), tensors(low), strict=True)
    return all(float((one - other).detach().norm()) < 0.03 * float(one.detach().norm()) + 1e-6 for one, other in pairs)


def shifted(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    layer.register_forward_hook(lambda _, args, found: found * 3)
    return layer


class Shared(nn.Module):
    """A layer and a buffer that others have, too."""

    def __init__(self, offset: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("offset", offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.offset


class Tied(nn.Module):
    """A classifier whose weight is the table of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(x))


OFFSET = torch.arange(8.0)
LINEAR = nn.Linear(8, 8)
CONVERTED: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "hooks": (lambda: nn.Sequential(shifted(nn.Linear(8, 4))), X),
    "a shared buffer": (lambda: nn.Sequential(Shared(OFFSET), Shared(OFFSET)), X),
    "tied weights": (Tied, WORDS),
    "a module called twice": (lambda: nn.Sequential(LINEAR, nn.ReLU(), LINEAR), X),
    "batch norm and dropout in training": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).train(),
        X,
    ),
    "nested outputs": (lambda: Net(lambda net, x: {"a": (net.layer(x), [x * 2]), "b": {"c": net.layer(x) + 1}}), X),
    "an input as output": (lambda: Net(lambda net, x: (x, net.layer(x))), X),
    "one output twice": (lambda: Net(lambda net, x: [net.layer(x)] * 2), X),
    "an input view as output": (lambda: Net(lambda net, x: (x.T, net.layer(x).T)), X),
    "a weight as output": (lambda: Net(lambda net, x: (net.layer(x), net.layer.weight)), X),
    "part of a split": (lambda: Net(lambda net, x: net.layer(x).chunk(4, -1)[2] + net.layer(x).split(2, -1)[1]), X),
    "all results of a recurrent layer": (lambda: Net(lambda net, x: net.b(net.layer(x)), b=nn.LSTM(8, 4)), STEPS),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
            nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
            nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
        ),
        X,
    ),
    "lstm, gru": (
        lambda: Net(
            lambda net, x: net.b(net.a(x)[0])[0],
            a=nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True),
            b=nn.GRU(8, 6, batch_first=True),
        ),
        STEPS,
    ),
    "attention with its weights": (
        lambda: Net(lambda net, x: net.a(x, x, x), a=nn.MultiheadAttention(8, 2, batch_first=True)),
        STEPS,
    ),
    "a transformer": (
        lambda: Net(lambda net, x: net.a(x, x[:, 1:]), a=nn.Transformer(8, 2, 1, 1, 16, batch_first=True)),
        STEPS,
    ),
    "convolutions in one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(5, 4, 3, padding=1), nn.ConvTranspose1d(4, 4, 2), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3, padding=2)
        ),
        STEPS,
    ),
    "convolutions in three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ConvTranspose3d(4, 4, 2, groups=2), nn.BatchNorm3d(4)),
        torch.randn(3, 2, 5, 5, 5),
    ),
    "a bag of embeddings": (lambda: nn.EmbeddingBag(10, 4), WORDS),
    "checkpoints": (lambda: Net(lambda net, x: checkpoint(net.layer, x, use_reentrant=False)), X),
    "an own derivative": (lambda: Net(lambda net, x: Twice.apply(net.layer(x))), X),
    "a mask of infinity": (
        lambda: Net(lambda net, x: functional.softmax(net.layer(x).masked_fill(x > 1, -3.4e38), -1)),
        X,
    ),
    "softmax in a type": (lambda: Net(lambda net, x: net.layer(functional.softmax(x, -1, dtype=torch.float32))), X),
    "wrapped to be distributed": (lambda: nn.DataParallel(Net(lambda net, x: net.layer(x))), X),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_modules_of_all_sorts_give_the_same_and_near_it_in_bf16(name: str) -> None:
    torch.manual_seed(0)
    make, x = CONVERTED[name]
    module = make()
    inner = module.module if isinstance(module, nn.DataParallel) else module
    expected, found, low = outcome(inner, x)
    if inner is not module:
        found = TorchModel.of(module, {"x": x}).original()
        return
    pairs = zip(tensors(expected), tensors(found), strict=True)
    # torch's own attention and recurrent cells are other kernels when they are no graph.
    assert all(torch.equal(one, other) or torch.allclose(one, other, atol=1e-6) for one, other in pairs)
    assert type(found) is type(expected) and type(low) is type(expected)
    assert near(expected, low)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch: use the other one
def test_the_old_weight_norm_that_cannot_be_copied() -> None:
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.utils.spectral_norm(nn.Linear(8, 8)))
    expected, found, _ = outcome(module, X)
    assert torch.equal(tensors(expected)[0], tensors(found)[0])


def test_parametrised_weights_are_stored_once_and_low() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8, bias=False)))
    model = TorchModel.of(module, {"input": X})
    assert [(made.name, made.weight) for made in group(model.graph)] == [("0", "0.weight")]
    assert {name: one.dtype for name, one in model.module(plan_of(model, BF16)).named_parameters()} == {
        "graph_module.0.weight": torch.bfloat16
    }


def test_dataclasses_come_back_whole() -> None:
    module = Net(lambda net, x: Pair(net.layer(x), {"more": x + 1}))
    expected, found, low = outcome(module, X)
    assert isinstance(found, Pair) and isinstance(expected, Pair) and isinstance(low, Pair)
    assert torch.equal(found.first, expected.first) and torch.equal(found.rest["more"], expected.rest["more"])
    assert found.note == "kept"
    assert [tensor.name for tensor in TorchModel.of(module, {"x": X}).outputs] == ["first", "rest_more"]


def test_outputs_that_are_no_tensors_are_given_back_as_they_were() -> None:
    model = TorchModel.of(Net(lambda net, x: (3, net.layer(x), None, {"kind": "linear"})), {"x": X})
    found = model.module(plan_of(model, BF16))(X)
    assert isinstance(found, tuple) and (found[0], *found[2:]) == (3, None, {"kind": "linear"})
    assert found[1].shape == (3, 8) and len(model.outputs) == 1


def test_outputs_that_are_whole_numbers() -> None:
    expected, found, _ = outcome(Net(lambda net, x: net.layer(x).argmax(-1)), X)
    assert torch.equal(tensors(expected)[0], tensors(found)[0])


def test_arguments_that_are_no_tensors_are_part_of_the_graph() -> None:
    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, *, scale: float = 1.0, mask: torch.Tensor | None = None, mode: str = "a"):
            y = self.layer(x) * scale
            y = y if mask is None else y * mask
            return y if mode == "a" else -y

    module = Asked()
    model = TorchModel.of(module, {"x": X, "scale": 2.0, "mask": None, "mode": "b"})
    converted = model.module(plan_of(model, Scheme()))
    with torch.no_grad():
        assert torch.equal(converted(X, scale=2.0, mask=None, mode="b"), module(X, scale=2.0, mode="b"))
    with pytest.raises(DataError, match="part of its graph since"):
        converted(X, scale=3.0, mask=None, mode="b")
    with pytest.raises(DataError, match="missing: scale"):
        converted(X)
    with pytest.raises(DataError, match="no argument other"):
        converted(X, other=1)
    plain = TorchModel.of(module, {"x": X})
    assert torch.equal(plain.module(plan_of(plain, Scheme()))(X, mask=None), module(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_in_other_types_run_and_keep_them(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)
    model = TorchModel.of_items(module, [X])
    found = model.module(plan_of(model, BF16))
    assert not [scheme for scheme in found.schemes.values() if scheme != "fp32"]
    with torch.no_grad():
        assert torch.equal(found(X.to(dtype)), module(X.to(dtype)))


def test_what_is_float32_in_a_model_of_two_types_becomes_low() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short, self.whole = nn.Linear(8, 8).half(), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.whole(self.short(x.half()).float())

    module = Mixed()
    expected, found, low = outcome(module, X)
    assert torch.equal(tensors(expected)[0], tensors(found)[0]) and near(expected, low)
    model = TorchModel.of(module, {"x": X})
    assert plan_of(model, BF16).low == {"whole"}


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.count = 0
        self.size = 0
        self.last: torch.Tensor | None = None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor, what: str = "") -> torch.Tensor:
        if what == "buffer":
            self.seen += 1
        if what == "attribute":
            self.count += 1
        if what == "input":
            x += 1
        if what == "size":
            self.size = max(self.size, 8)
        if what == "tensor":
            self.last = self.layer(x)
        return self.layer(x) * (1 + self.count)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("buffer", "writes to its buffer seen"),
        ("attribute", "changes its attribute count at every call"),
        ("input", "writes to its input x"),
    ],
)
def test_modules_that_change_when_they_are_called_are_refused(what: str, message: str) -> None:
    module = Writing()
    with pytest.raises(ModelError, match=message):
        TorchModel.of(module, {"x": X.clone(), "what": what})
    assert module.count == 0 and module.seen == 0


@pytest.mark.parametrize("what", ["size", "tensor"])
def test_what_a_module_keeps_without_reading_it_does_no_harm(what: str) -> None:
    module = Writing()
    TorchModel.of(module, {"x": X.clone(), "what": what})
    assert module.size == 0 and module.last is None


def branching(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.layer(x)
    if y.sum() > 0:  # here
        return y
    return -y


def repeating(net: Net, x: torch.Tensor) -> torch.Tensor:
    for _ in range(int(x.abs().sum().item())):
        x = net.layer(x)
    return x


class Gathering(nn.Module):
    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        return args[0] + 1


class Dropping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x)


class Own:
    def __init__(self, value: object) -> None:
        self.value = value


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: object) -> Uncopied:
        raise TypeError("a handle cannot be copied")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript and torch.ao say that they are old
@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Net(branching),
            r"test_given.py, line \d+, in branching: if y.sum\(\) > 0:.*torch.where or torch.cond",
        ),
        (lambda: Net(repeating), r"test_given.py, line \d+, in repeating: for _ in range.*torch.where or torch.cond"),
        (Gathering, "no named arguments"),
        (Dropping, r"drops values at random.*training=self.training"),
        (lambda: Net(lambda net, x: Own(net.layer(x))), "tuples, lists, mappings and dataclasses"),
        (lambda: Net(lambda net, x: (net.layer(x), x.shape[0])), "a number that depends on its inputs"),
        (lambda: Uncopied(8, 8), "cannot be copied.*a handle"),
        (lambda: Net(lambda net, x: x, a=nn.LazyLinear(4)), "a.weight is not initialised yet"),
        (lambda: torch.jit.script(nn.Linear(8, 8)), "TorchScript.*made from"),
        (lambda: torch.jit.trace(nn.Linear(8, 8), X), "TorchScript.*made from"),
        (
            lambda: Net(lambda net, x: net.a(x), a=torch.ao.nn.quantized.dynamic.Linear(8, 8)),
            r"a \(Linear\) is quantised; .*float module",
        ),
        (lambda: Net(lambda net, x: net.layer(x, x)), r"test_given.py, line \d+"),
    ],
)
def test_what_cannot_be_exported_is_told_with_its_line(make: Callable[[], nn.Module], message: str) -> None:
    module = make()
    linear = isinstance(module, nn.Linear | torch.jit.ScriptModule)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        TorchModel.of(module, {"args" if isinstance(module, Gathering) else "input" if linear else "x": X})


def test_a_failing_export_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError):
        TorchModel.of(Net(branching), {"x": X})
    assert capfd.readouterr() == ("", "")


def test_arguments_that_forward_does_not_name_are_refused() -> None:
    with pytest.raises(ModelError, match=r"no argument of the name y; it takes x.*wrap it"):
        TorchModel.of(Net(lambda net, x: x), {"x": X, "y": X})


class TestExported:
    """Programs that ``torch.export`` made."""

    @staticmethod
    def program(module: nn.Module) -> torch.export.ExportedProgram:
        samples = torch.export.Dim("samples")
        return torch.export.export(module, (X,), {"y": X}, dynamic_shapes={"x": {0: samples}, "y": {0: samples}})

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": self.norm(self.layer(x)) + y}

    def test_is_a_model_as_it_stands_and_from_its_file(self, tmp_path: Path) -> None:
        module = self.Sum().eval()
        program = self.program(module)
        path = tmp_path / "sum.pt2"
        torch.export.save(program, path)
        more = torch.randn(7, 8)
        for source in (program, path, str(path)):
            assert is_torch(source)
            model = open_model(source)
            assert isinstance(model, TorchModel)
            assert [made.name for made in group(model.graph)] == ["layer", "add"]
            assert [tensor.name for tensor in model.inputs] == ["x", "y"]
            assert model.source == (None if source is program else path)
            found = model.module(plan_of(model, Scheme()))(more, y=more)
            with torch.no_grad():
                assert isinstance(found, dict) and torch.equal(found["sum"], module(more, more)["sum"])

    def test_in_training_it_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"norm.running_mean|norm.num_batches"):
            open_model(self.program(self.Sum().train()))

    def test_files_that_hold_none(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="there is no file"):
            open_model(tmp_path / "none.pt2")
        (tmp_path / "bad.pt2").write_bytes(b"PK\3\4 not an archive")
        with pytest.raises(ModelError, match="holds no exported program"):
            open_model(tmp_path / "bad.pt2")


def test_the_export_is_where_the_module_is() -> None:
    """No GPU is needed to see it: tensors on the device ``meta`` have no values."""
    module = nn.Sequential(nn.Linear(8, 4))
    example, _ = example_of(copy.deepcopy(module).to("meta"), [X.numpy()])
    assert {tensor.device.type for tensor in example.values() if isinstance(tensor, torch.Tensor)} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_module_on_a_gpu_takes_data_from_the_cpu() -> None:
    module = nn.Sequential(nn.Linear(8, 4)).cuda()
    model = TorchModel.of_items(module, [X.numpy()])
    found = model.module(plan_of(model, BF16))
    assert found(X.cuda()).device.type == "cuda"
