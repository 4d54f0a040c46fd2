"""What ONNX Runtime's CPU provider has an integer kernel for.

The menu only says what can be asked for; whether it really ran as integers is read back from the
optimised model, and whether it pays is measured.
"""

from __future__ import annotations

from fewbits.formats.integer import INT8R, UINT8
from fewbits.formats.scheme import FP32, INT8_STATIC, Granularity, Operand, Scheme
from fewbits.graph import Graph, Kind, Node, Tensor
from fewbits.grouping import Group
from fewbits.space import Menu, Refusal

INT8_TENSOR = Scheme(Operand(INT8R, Granularity.TENSOR), Operand(UINT8, Granularity.TENSOR))
"""For products of two activations, and joints: one scale for each operand."""


def menu(graph: Graph, group: Group) -> Menu:
    """fp32 and the int8 scheme for `group`, or the reason why there is none.

    Activations are u8 (asymmetric) and second operands s8: u8 x s8 is the pair with VNNI speed
    in ONNX Runtime, u8 x u8 is not.
    """
    scheme = INT8_STATIC if group.weight else INT8_TENSOR
    anchor = graph.node[group.name]
    reason = _refused_types(graph, anchor) or (
        _refused_product(graph, group, anchor) if group.is_product else _refused_joint(graph, group)
    )
    return Menu((FP32,), (Refusal(scheme, reason),)) if reason else Menu((FP32, scheme))


def _refused_types(graph: Graph, anchor: Node) -> str:
    for name in (*anchor.inputs, *anchor.outputs):
        tensor = graph.tensors.get(name)
        if tensor is not None and tensor.dtype not in ("float32", "unknown"):
            return f"it computes in {tensor.dtype}; int8 kernels take the place of float32 ones"
    return ""


def _refused_product(graph: Graph, group: Group, anchor: Node) -> str:
    if group.kind is Kind.CONV_TRANSPOSE:
        return "ONNX Runtime has no int8 kernel for transposed convolution on the CPU"
    if len(group.operands) == 0:
        return "it has no activation: all its operands are constants"
    if graph.is_constant(anchor.inputs[0]):
        return "its constant is the first operand; only a constant second operand is supported"
    if group.bias and not graph.is_constant(group.bias):
        return "its bias is computed, not a constant"
    if group.inner in graph.pinned or (group.inner != group.output and group.output in graph.pinned):
        return "a subgraph reads its output"
    match group.kind:
        case Kind.CONV:
            return _refused_conv(graph, group)
        case Kind.GEMM:
            return _refused_gemm(graph, group, anchor)
        case _:
            return _refused_matmul(graph, group, anchor)


def _refused_conv(graph: Graph, group: Group) -> str:
    if not group.weight:
        return "its weight is computed, not a constant"
    if group.output in graph.outputs:
        return "its output is the model's, which keeps fp32, and an int8 convolution cannot write floats"
    return ""


def _refused_gemm(graph: Graph, group: Group, anchor: Node) -> str:
    if not group.weight:
        return "its weight is computed, not a constant"
    if anchor.attributes.get("transA", 0):
        return "its first operand is transposed"
    if float(anchor.attributes.get("alpha", 1.0)) != 1.0 or float(anchor.attributes.get("beta", 1.0)) != 1.0:  # type: ignore[arg-type]
        return "it scales its operands (alpha, beta)"
    if group.bias and not _is_vector(graph, group.bias, graph.tensors[group.weight], anchor):
        return "its bias is not a vector with one entry per output"
    return ""


def _is_vector(graph: Graph, bias: str, weight: Tensor, anchor: Node) -> bool:
    shape = graph.tensors[bias].shape
    columns = weight.shape and weight.shape[0 if anchor.attributes.get("transB") else 1]
    return shape in ((columns,), (1, columns))


def _refused_matmul(graph: Graph, group: Group, anchor: Node) -> str:
    if not group.weight:
        return ""
    weight, source = graph.tensors[group.weight].shape, graph.tensors[anchor.inputs[0]].shape
    if weight is None or len(weight) != 2:
        return "its weight is not a matrix"
    if source is None or len(source) < 2:
        return "the rank of its input is not known to be 2 or more"
    return ""


def _refused_joint(graph: Graph, group: Group) -> str:
    if group.output in graph.outputs:
        return "its output is the model's, which keeps fp32"
    if group.inner in graph.pinned or group.output in graph.pinned:
        return "a subgraph reads its output"
    if group.kind in (Kind.ADD, Kind.MUL) and len(group.operands) != 2:
        return "it does not join two activations"
    return ""
