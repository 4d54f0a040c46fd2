"""What ONNX Runtime's CPU provider has an integer kernel for.

The menu only says what can be asked for; whether it really ran as integers is read back from the
optimised model, and whether it pays is measured.
"""

from __future__ import annotations

from fewbits.eligibility import obstacle
from fewbits.formats.scheme import FP32, INT8_STATIC, INT8_TENSOR, UINT8_TENSOR, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.space import Menu, Refusal

INT8_BOTH_TENSORS = Scheme(INT8_TENSOR, UINT8_TENSOR)
"""For products of two activations, and joints: one scale for each operand."""


def menu(graph: Graph, group: Group) -> Menu:
    """fp32 and the int8 scheme for `group`, or the reason why there is none.

    Activations are u8 with a zero point, which holds negative values too, and second operands s8:
    u8 x s8 is the pair with VNNI speed in ONNX Runtime, u8 x u8 is not. Signed activations are not
    offered: on x86 the runtime turns them into u8 or, before a Gemm with float output, runs float.
    """
    scheme = INT8_STATIC if group.weight else INT8_BOTH_TENSORS
    reason = _no_kernel(group) or obstacle(graph, group)
    return Menu((FP32,), (Refusal(scheme, reason),)) if reason else Menu((FP32, scheme))


def _no_kernel(group: Group) -> str:
    if group.kind is Kind.CONV_TRANSPOSE:
        return "ONNX Runtime has no int8 kernel for transposed convolution on the CPU"
    return ""
