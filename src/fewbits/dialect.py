"""How each runtime wants a plan written down: the same decision, other nodes.

What a runtime fuses to one low-precision kernel depends on the form of the graph around it. The reasons are
measured (docs/design.md, "What is known about the runtimes"); the tests of each form hold the runtime to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a converted graph.

    `gemm`: products by a constant matrix become Gemm with an int32 bias, inputs of higher rank are reshaped;
    otherwise they stay MatMul and Add. `isolates`: what would tempt the runtime to quantise a float node by itself,
    or to fuse one to float before it looks for codes, is kept apart. `blocks`: products whose weight alone is in
    codes become MatMulNBits; otherwise the weight stands behind a DequantizeLinear. `repeats`: reshapes and
    transposes of codes have quantisers on both sides, not only in front. `attention`: one kernel runs both products
    of an attention, with codes or floats for either, but casts only for both. `spreads`: what stands between bf16
    products without being a group computes in bf16, too, for which the runtime must have kernels. `limits`: a quantiser
    behind a maximum over an axis is kept apart from it, as the runtime computes the two wrong together. `emulates`: no
    codes at all, but a float model that rounds to the values that codes would stand for.
    """

    gemm: bool = False
    isolates: bool = False
    blocks: bool = False
    repeats: bool = False
    attention: bool = False
    spreads: bool = True
    limits: bool = False
    emulates: bool = False


PLAIN: Final = Dialect()
"""Q/DQ pairs and casts around the nodes as they are: what most runtimes fuse best."""

_DIALECTS: Final[Mapping[str, Dialect]] = {
    "onnxruntime": Dialect(gemm=True, isolates=True, blocks=True, repeats=True, spreads=False),
    "openvino": Dialect(attention=True, limits=True),
    "simulated": Dialect(emulates=True),
}


def dialect(target: str) -> Dialect:
    """The form for `target`, a text such as ``openvino:cpu``; the plain one for runtimes without wishes."""
    return _DIALECTS.get(target.partition(":")[0], PLAIN)
