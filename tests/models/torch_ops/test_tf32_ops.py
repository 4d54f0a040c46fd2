"""tf32 for one call leaves the switches of the process as they were."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fewbits.formats.floating import TF32
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scheme import TF32 as SCHEME
from fewbits.models.torch_ops.operation import Call, Sort
from fewbits.models.torch_ops.tf32_layers import Tf32
from fewbits.models.torch_ops.tf32_ops import tf32
from fewbits.models.torch_ops.writing import write
from torch_calls import EXACT, away, linear

matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = matmul.fp32_precision, conv.fp32_precision
    yield
    matmul.fp32_precision, conv.fp32_precision = before


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_the_switches_come_back(before: str) -> None:
    matmul.fp32_precision = conv.fp32_precision = before
    with tf32():
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    assert (matmul.fp32_precision, conv.fp32_precision) == (before, before)


def test_they_come_back_after_an_error() -> None:
    matmul.fp32_precision = "ieee"
    with pytest.raises(RuntimeError, match="no kernel"), tf32():
        raise RuntimeError("no kernel")
    assert matmul.fp32_precision == "ieee"


@pytest.mark.parametrize("wanted", ["highest", "high"])
def test_the_older_switch_still_says_what_it_said(wanted: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(wanted)
        with tf32():
            pass
        assert torch.get_float32_matmul_precision() == wanted
        assert torch.backends.cuda.matmul.allow_tf32 == (wanted == "high")
    finally:
        torch.set_float32_matmul_precision(before)


def test_calls_of_two_threads_do_not_leave_it_on() -> None:
    matmul.fp32_precision = "ieee"

    def call(_: int) -> None:
        for _ in range(100):
            with tf32():
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(4)))
    assert matmul.fp32_precision == "ieee"


def test_on_the_cpu_it_is_emulated() -> None:
    layer = linear("tf32")
    assert layer.weight is not None
    assert "runs on cuda" in Tf32.supported(layer.call)
    x, weight = (fake_quantize(one, TF32) for one in (layer.inputs[0], layer.weight))
    found = write(layer.call, layer.weight, layer.bias, emulate=True)(*layer.inputs)
    assert away(found, torch.nn.functional.linear(x, weight, layer.bias)) <= EXACT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ours_is_tf32_and_others_are_not() -> None:
    matmul.fp32_precision = "ieee"
    x, weight = torch.randn(64, 512, device="cuda"), torch.randn(96, 512)
    exact = x.double() @ weight.cuda().double().t()
    ours = write(Call(Sort.LINEAR, SCHEME, (96, 512), "cuda"), weight)(x)
    assert 1e-5 < away(ours, exact) < 2.0**-8
    assert away(x @ weight.cuda().t(), exact) < 1e-5
