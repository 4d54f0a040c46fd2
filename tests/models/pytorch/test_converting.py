"""A PyTorch module under a plan: same call, same function, fewer bits, and the original as it was."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from fewbits.formats.scheme import BF16, FP16, Scheme
from fewbits.models.pytorch.casting import borders
from fewbits.models.pytorch.converted import artifact, opened, size_of
from fewbits.models.pytorch.model import TorchModel
from torch_nets import Residual, encoder, plan_of


def error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).norm() / expected.norm())


def in_fp32(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = copy.deepcopy(module).eval()(x)
    return found


def test_a_stack_of_layers_in_bf16_has_one_cast_in_and_one_out() -> None:
    torch.manual_seed(0)
    module, x = encoder(), torch.randn(3, 5, 16)
    model = TorchModel.of(module, {"src": x})
    converted = model.module(plan_of(model, BF16))
    found = [node.kwargs["dtype"] for node in borders(converted.graph)]
    assert found == [torch.bfloat16, torch.float32]
    assert error(in_fp32(module, x), converted(x)) < 0.02


def test_weights_of_a_region_are_stored_low() -> None:
    module = encoder(4)
    model = TorchModel.of(module, {"src": torch.randn(3, 5, 16)})
    assert size_of(model.module(plan_of(model, BF16))) == size_of(module) / 2


@pytest.mark.parametrize("scheme", [BF16, FP16])
def test_batch_norms_fold_and_the_function_stays(scheme: Scheme) -> None:
    torch.manual_seed(0)
    module, x = Residual(), torch.randn(4, 3, 8, 8)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(plan_of(model, scheme))
    assert not [node for node in converted.graph.nodes if "batch_norm" in str(node.target)]
    assert error(in_fp32(module, x), converted(x)) < 0.02


def test_nothing_low_is_the_same_function_bit_for_bit() -> None:
    module, x = Residual(), torch.randn(4, 3, 8, 8)
    model = TorchModel.of(module, {"x": x})
    assert torch.equal(model.module(plan_of(model, Scheme()))(x), in_fp32(module, x))


def test_the_given_module_is_left_as_it_was() -> None:
    module, x = Residual().train(), torch.randn(4, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    code = repr(module)
    model = TorchModel.of(module, {"x": x})
    model.module(plan_of(model, BF16))(x)
    assert module.training and repr(module) == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch.compile's own
def test_what_is_given_back_is_a_module_like_any_other() -> None:
    torch.manual_seed(0)
    module, x = Residual(), torch.randn(4, 3, 8, 8)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(plan_of(model, BF16))
    expected = converted(x)
    assert torch.equal(copy.deepcopy(converted)(x), expected)
    assert torch.equal(opened(artifact(converted).content)(x), expected)
    stream = io.BytesIO()
    torch.save(converted.state_dict(), stream)
    other = copy.deepcopy(converted)
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.data.zero_()
    other.load_state_dict(torch.load(io.BytesIO(stream.getvalue())))
    assert torch.equal(other(x), expected)
    assert error(torch.compile(converted)(x), expected) < 0.02
    assert "(stem): bf16" in str(converted)


def test_any_number_of_samples_can_be_given() -> None:
    module = Residual()
    model = TorchModel.of(module, {"x": torch.randn(3, 3, 8, 8)})
    converted = model.module(plan_of(model, BF16))
    assert converted(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    assert converted(x=torch.randn(7, 3, 8, 8)).shape == (7, 10)
