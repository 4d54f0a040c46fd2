"""The Triton kernels give numpy's bits: in Triton's interpreter everywhere, on CUDA where there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewbits.formats.floating import E4M3
from fewbits.formats.numerics import philox, reference
from fewbits.formats.numerics.array import round_array
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize, fake_quantize, quantize
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.text import parse

HERE = Path(__file__).parent
KEY = NoiseKey(2**63 + 5, step=2**31 + 1, tensor=2**32 - 1)

pytest.importorskip("triton", reason="triton is not installed")

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def child(script: str, **variables: str) -> str:
    """What `script` of this folder prints, in a process where Triton has not been imported yet."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    done = subprocess.run([sys.executable, HERE / script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(child("device_laws.py", TRITON_INTERPRET="1"))
    return found


@pytest.mark.parametrize("group", ["casts", "types", "layouts", "given scales"])
def test_interpreted_kernels_give_the_bits_of_numpy(interpreted: dict[str, list[str]], group: str) -> None:
    assert interpreted[group] == []


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler is there for Linux only")
def test_kernels_compile_for_hopper_without_loss_of_precision(tmp_path: Path) -> None:
    """The compiler takes more than the interpreter: types, layouts, instructions."""
    kernels = json.loads(child("compile_kernels.py", TRITON_CACHE_DIR=str(tmp_path)))
    assert set(kernels) == {"cast, fp32", "cast, bf16 to codes", "mx, bf16 to codes", "int8 in planes", "noise", "amax"}
    for name, ptx in kernels.items():
        # Flushed subnormals, fused multiply-add and divisions that are merely near would change results.
        for instruction in (".ftz", "fma.rn.f32", "div.full", "div.approx", "rcp.approx"):
            assert instruction not in ptx, f"{name} uses {instruction}"
        assert "ld.global.v4" in ptx or "ld.global.v2" in ptx, f"{name} loads element by element"
    assert "div.rn.f32" in kernels["int8 in planes"]
    assert "cvt.rn.satfinite.e4m3x2.f32" in kernels["mx, bf16 to codes"]
    assert "mul.wide.u32" in kernels["noise"] or "mul.hi.u32" in kernels["noise"]


class TestCuda:
    pytestmark = gpu

    def test_every_format_mode_and_layout_gives_the_bits_of_numpy(self) -> None:
        from formats.kernels.device_laws import failures

        found = failures("cuda", elements=1 << 20, thorough=True)
        assert [message for messages in found.values() for message in messages] == []

    @pytest.mark.parametrize("text", ["nf4/g64", "ternary/channel", "binary/tensor", "kmeans3/channel", "mxfp4"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_what_has_no_kernel_goes_by_way_of_the_cpu(self, text: str, dtype: torch.dtype) -> None:
        x = torch.randn(8, 64, dtype=dtype)
        here, there = quantize(x, text), quantize(x.cuda(), text)
        assert there.codes.is_cuda and torch.equal(there.codes.cpu(), here.codes)
        assert torch.equal(dequantize(there).cpu(), dequantize(here))
        assert torch.equal(fake_quantize(x.cuda(), text).cpu(), fake_quantize(x, text))

    @pytest.mark.parametrize("rounding", list(Rounding))
    def test_other_memory_layouts_and_out(self, rounding: Rounding) -> None:
        key = KEY if rounding is Rounding.STOCHASTIC else None
        x = torch.randn(70, 90, device="cuda").T
        expected = reference.fake_quantize(x.cpu().numpy(), parse("mxfp8_e4m3"), None, rounding, Overflow.SATURATE, key)
        found = fake_quantize(x, "mxfp8_e4m3", rounding=rounding, key=key)
        assert np.array_equal(found.cpu().numpy(), expected)
        own = x.contiguous()
        assert fake_quantize(own, "mxfp8_e4m3", rounding=rounding, key=key, out=own) is own
        assert np.array_equal(own.cpu().numpy(), expected)

    def test_nan_without_code_is_counted_and_placed(self) -> None:
        from fewbits.errors import DataError

        x = torch.zeros(4, 64, device="cuda")
        x[2, 5] = x[3, 1] = torch.nan
        with pytest.raises(DataError, match=r"2 of 256 .*\[2, 5\]"):
            quantize(x, "int8r/channel")

    def test_codes_are_those_of_torch(self) -> None:
        every = torch.arange(1 << 16, dtype=torch.int32, device="cuda").to(torch.int16).view(torch.bfloat16)
        for name, dtype in (("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)):
            x = every[every.float().abs() <= torch.finfo(dtype).max]
            found: QTensor[torch.Tensor] = quantize(x, name)
            assert torch.equal(found.codes, x.to(dtype).view(torch.uint8))

    def test_more_than_2_to_the_31_elements(self) -> None:
        count = (1 << 31) + 4096
        free, _ = torch.cuda.mem_get_info()
        if free < 5 * count:
            pytest.skip(f"needs {5 * count >> 30} GiB of GPU memory")
        x = torch.empty(count, dtype=torch.bfloat16, device="cuda")
        x.normal_(generator=torch.Generator("cuda").manual_seed(1))
        tail = x[-4096:].float().cpu().numpy()
        fake_quantize(x, "fp8_e4m3", rounding="stochastic", key=KEY, out=x)
        words = philox.noise(KEY, 4096, start=count - 4096)
        expected = round_array(tail, E4M3.grid, Rounding.STOCHASTIC, Overflow.SATURATE, words)
        assert np.array_equal(x[-4096:].float().cpu().numpy(), expected)
