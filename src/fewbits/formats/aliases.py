"""What other libraries call the formats: names that are read, and never written."""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "torch."
"""What ``str(dtype)`` of torch puts in front of its names."""

ALIASES: Mapping[str, str] = {
    # numpy, torch, jax
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "bfloat16": "bf16",
    # ml_dtypes, torch
    "float8_e5m2": "fp8_e5m2",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2fnuz": "fp8_e5m2fnuz",
    "float8_e4m3fnuz": "fp8_e4m3fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz",
    "float8_e3m4": "fp8_e3m4",
    "float8_e8m0fnu": "e8m0",
    "float6_e3m2fn": "fp6_e3m2",
    "float6_e2m3fn": "fp6_e2m3",
    "float4_e2m1fn": "fp4_e2m1",
    "float4_e2m1fn_x2": "fp4_e2m1",
    # ONNX
    "float8e5m2": "fp8_e5m2",
    "float8e4m3fn": "fp8_e4m3",
    "float8e5m2fnuz": "fp8_e5m2fnuz",
    "float8e4m3fnuz": "fp8_e4m3fnuz",
    "float8e8m0": "e8m0",
    "float4e2m1": "fp4_e2m1",
    # XLA, MLIR
    "f8e5m2": "fp8_e5m2",
    "f8e4m3fn": "fp8_e4m3",
    "f8e5m2fnuz": "fp8_e5m2fnuz",
    "f8e4m3fnuz": "fp8_e4m3fnuz",
    "f8e4m3b11fnuz": "e4m3b11fnuz",
    "f8e3m4": "fp8_e3m4",
    "f8e8m0fnu": "e8m0",
    "f6e3m2fn": "fp6_e3m2",
    "f6e2m3fn": "fp6_e2m3",
    "f4e2m1fn": "fp4_e2m1",
    # PTX, and what is usual in prose
    "ue8m0": "e8m0",
    "fp8_e4m3fn": "fp8_e4m3",
    "fp4": "fp4_e2m1",
    "mxfp4_e2m1": "mxfp4",
    "ternary-optimal": "ternary",
}
"""Name elsewhere → text form here."""

_E4M3 = (
    "it means different formats in different libraries; choose fp8_e4m3, the one of OCP (largest value 448, no Inf; "
    "float8_e4m3fn elsewhere), or e4m3, the one with Inf (largest value 240; float8_e4m3 of ml_dtypes)"
)
_FP64 = "formats reach up to fp32; float64 arrays are taken as they are, and rounded once"

NOT_READ: Mapping[str, str] = {
    **dict.fromkeys(("float8_e4m3", "float8e4m3", "f8e4m3"), _E4M3),
    **dict.fromkeys(("fp64", "float64", "double", "f64"), _FP64),
}
"""Names elsewhere that stand for no one format here → why, and what to choose."""
