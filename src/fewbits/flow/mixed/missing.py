"""What a machine lacks to compute in a small float by itself."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.formats.text import parse
from fewbits.machine import Gpu, Machine
from fewbits.native import Use, native, on_cpu, on_gpu


def missing(precision: str, machine: Machine, gpus: Sequence[Gpu] = ()) -> str:
    """What is not there to multiply `precision` on the first of `gpus`, or the CPU where there are none; "" if nothing
    is missing."""
    supports = on_gpu(gpus[0]) if gpus else on_cpu(machine.features)
    found = native(parse(precision), supports)
    if any(support.use is Use.PRODUCTS for support in found):
        return ""
    device = gpus[0].name if gpus else machine.cpu
    wanted = {"bf16": "AVX512-BF16, AMX-BF16 or FEAT_BF16", "fp16": "AVX512-FP16, AMX-FP16 or FEAT_FP16"}
    return f"{device} has no instructions that multiply {precision} ({'tensor cores' if gpus else wanted[precision]})"
