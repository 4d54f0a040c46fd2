"""Compile the Triton kernels for an H100 or H200, which needs no GPU, and print their PTX as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fewbits.formats.kernels import triton_kernels, triton_tensors
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.text import parse

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int8: "*i8", torch.int32: "*i32"}


class Recorded:
    """Stands in for a kernel: takes the arguments of its launch, and compiles it for them."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.ptx = ""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compile

    def compile(self, *arguments: Any, **named: Any) -> None:
        options = {name: named.pop(name) for name in ("num_warps", "enable_fp_fusion") if name in named}
        given = dict(zip(self.kernel.arg_names, arguments, strict=False)) | named
        names, signature, constants, aligned = self.kernel.arg_names, {}, {}, {}
        for place, parameter in enumerate(self.kernel.params):
            value = given[parameter.name]
            if parameter.is_constexpr:
                # What a launch on CUDA would pass.
                signature[parameter.name] = "constexpr"
                constants[(place,)] = value or parameter.name in ("NATIVE", "HARDWARE" if HARDWARE else "")
            elif isinstance(value, torch.Tensor):
                signature[parameter.name], aligned[(place,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
                if parameter.name == "columns" and value % 16 == 0:
                    aligned[(place,)] = [["tt.divisibility", 16]]
        assert set(signature) == set(names)
        source = ASTSource(self.kernel, signature, constexprs=constants, attrs=aligned)
        self.ptx = triton.compile(source, target=HOPPER, options=options).asm["ptx"]


def ptx(kernel: str, format: str, dtype: torch.dtype, shape: tuple[int, ...], rounding: str, codes: bool) -> str:
    """Of `kernel` as it is launched for one cast."""
    kernels = {name: getattr(triton_kernels, name) for name in LAUNCHED}
    recorded = {name: Recorded(function) for name, function in kernels.items()}
    for name, stand_in in recorded.items():
        setattr(triton_kernels, name, stand_in)
    x, way = torch.zeros(shape, dtype=dtype), (Rounding(rounding), Overflow.SATURATE)
    key = NoiseKey(1) if rounding == "stochastic" else None
    if codes:
        triton_tensors.quantize(x, parse(format), None, *way, key)
    else:
        triton_tensors.fake_quantize(x, parse(format), None, *way, key, torch.empty_like(x))
    for name, function in kernels.items():
        setattr(triton_kernels, name, function)
    return recorded[kernel].ptx


LAUNCHED = ("cast_tiles", "cast_planes", "magnitudes", "finish_scales", "limits")
HARDWARE = False

if __name__ == "__main__":
    plain = (1024, 4096)
    found = {
        "cast, fp32": ptx("cast_planes", "fp8_e5m2", torch.float32, plain, "nearest_even", codes=False),
        "int8 in planes": ptx("cast_planes", "uint8/tensor", torch.float32, plain, "nearest_even", codes=True),
        "amax": ptx("magnitudes", "int8r/tensor", torch.float32, plain, "nearest_even", codes=True),
        "noise": ptx("cast_tiles", "nvfp4", torch.bfloat16, plain, "stochastic", codes=True),
    }
    HARDWARE = True
    found["cast, bf16 to codes"] = ptx("cast_planes", "fp8_e4m3", torch.bfloat16, plain, "nearest_even", codes=True)
    found["mx, bf16 to codes"] = ptx(
        "cast_tiles", "mxfp8_e4m3-rceil", torch.bfloat16, plain, "nearest_even", codes=True
    )
    json.dump(found, sys.stdout)
