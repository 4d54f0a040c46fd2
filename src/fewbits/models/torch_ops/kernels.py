"""What ran, and what names of GPU kernels say of it: whether they multiply, and in which precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

WIDTHS: Final = (
    ("fp8", ("c10::Float8_e4m3fn", "c10::Float8_e5m2")),
    ("int8", ("signed char", "unsigned char")),
    ("bf16", ("c10::BFloat16",)),
    ("fp16", ("c10::Half",)),
    ("fp32", ("float",)),
    ("fp64", ("double",)),
)
"""Precision → the profiler's names of the types, narrow ones first."""
_KERNEL_NAMES: Final = (
    ("int4", re.compile(r"int4|tinygemm")),
    ("fp8", re.compile(r"e4m3|e5m2|f8f8|fp8|nvjet_(?:sm\d+_)?[qr]")),
    ("int8", re.compile(r"i8i8|s8s8|imma|int8|s8_|_i8")),
    ("tf32", re.compile(r"tf32|s1688(?:gemm|fprop)(?!_(?:f16|bf16|optimized_(?:f16|bf16)))|nvjet_(?:sm\d+_)?s(?!m\d)")),
    ("bf16", re.compile(r"bf16|bfloat16|nvjet_(?:sm\d+_)?t")),
    ("fp16", re.compile(r"f16|half|hmma|h1688|h16816|hgemm|nvjet_(?:sm\d+_)?h")),
    ("fp32", re.compile(r"sgemm|f32|float")),
)
"""Precision → what the names of CUDA kernels that multiply so have in them, the telling ones first. cuBLAS names the
types of operands and sums by letters: ``nvjet_sm90_tst`` multiplies bf16, ``hsh`` fp16, ``qqtst`` fp8, ``sss`` tf32."""
_SMALL: Final = ("bf16", "fp16")
_MULTIPLIES: Final = re.compile(r"mm|mv\Z|matmul|linear|conv(?!ert)|attention|_rnn|lstm|gru")
"""PyTorch's operators that do, by their names."""
_HELPS: Final = re.compile(
    r"mem(set|cpy)|nchwtonhwc|nhwctonchw|elementwise|reduce|transpose|im2col|convert|copy|pad", re.IGNORECASE
)
"""What operators that multiply launch besides: layouts, sums of parts, gates."""
_INNER: Final = re.compile(r"<(?:[\w:]+::)?(cutlass_\w+)")
_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of one call. `operator` is PyTorch's, `kernel` what computed it, `precision` that of what it read:
    the narrowest of its operands' types; ``""`` where nothing says."""

    operator: str
    kernel: str
    precision: str
    seconds: float


def cuda_precision(kernel: str, operands: Sequence[str]) -> str:
    """In which precision a CUDA kernel of this name reads. The name tells what the profiler's names of the types that
    its operator was given cannot (tf32, packed codes); of two small floats the types tell which: libraries call both
    ``f16``."""
    typed, lower = narrowest(operands), kernel.lower()
    named = next((what for what, pattern in _KERNEL_NAMES if pattern.search(lower)), "")
    if typed in _SMALL and named != "int4":
        return typed
    found = named or typed
    # Products of cuBLAS that are named so run on tensor cores, which take no float32.
    return "tf32" if lower.startswith("nvjet") and found == "fp32" else found


def narrowest(operands: Sequence[str]) -> str:
    """The precision of what reads operands of these types, in the profiler's names; ``""`` where nothing says."""
    return next((name for name, names in WIDTHS if any(one in names for one in operands)), "")


def multiplies(operator: str) -> bool:
    """Whether PyTorch's `operator` is a product, by its name."""
    return _MULTIPLIES.search(operator) is not None


def product_among(kernels: Sequence[Kernel]) -> Kernel | None:
    """The kernel that multiplies, the slowest if there are several; ``None`` if no operator is a product, or nothing
    tells in which precision."""
    products = [one for one in kernels if one.precision and multiplies(one.operator)]
    telling = [one for one in products if not _HELPS.search(one.kernel)]
    return max(telling or products, key=lambda one: one.seconds, default=None)


def named(kernel: Kernel) -> Kernel:
    """`kernel` called as it is shown: operator and kernel, without what templates and arguments say at length."""
    if kernel.kernel == kernel.operator:
        return kernel
    inner = _INNER.search(kernel.kernel)
    short = inner[1] if inner else kernel.kernel.removeprefix("void ").partition("<")[0].partition("(")[0]
    return replace(kernel, kernel=f"{kernel.operator} {short[:_MOST]}".strip())
