"""Which groups can be written in which scheme, from the graph's structure alone, whatever the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fewbits.formats.granularity import Channel
from fewbits.formats.granularity import Group as Block
from fewbits.formats.granularity import Tensor as OneScale
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import REAL, ScaledFormat
from fewbits.formats.scheme import INT8_DYNAMIC, INT8_STATIC, INT8_WEIGHT, TF32, UINT8_TENSOR, Scheme
from fewbits.graph import Graph, Kind, Node, Tensor
from fewbits.grouping import MATRICES, RECURRENT, Group

_FEW_BITS: Final = 4
_IMAGE_AXES: Final = 4
_TABLE_BITS: Final = (8, 4)
_MATRIX_BITS: Final = (8,)
_LENGTHS: Final = 4
"""The place of the lengths of the sequences among what a recurrent layer reads."""
_OF_DATA: Final = (0, 4, 5, 6)
"""What may depend on data there: the sequences, their lengths, the first states."""


def module_obstacle(graph: Graph, group: Group, scheme: Scheme) -> str:
    """Why `group` of a PyTorch module cannot be written in `scheme`; "" if it can. Tables are held in small floats,
    too, in which their rows then come out; products on codes give floats; tf32 is a way to multiply."""
    if group.kind is Kind.GATHER and scheme.is_cast:
        return "" if scheme != TF32 else "rows are looked up, not multiplied"
    if group.kind in RECURRENT:
        return _recurrent_call(graph, group, scheme)
    if scheme == TF32:
        multiplies = group.is_product and group.kind not in (Kind.ATTENTION, Kind.CONV_TRANSPOSE)
        if multiplies and _pads_one_side(graph.node[group.name]):
            return "its padding is asymmetric, which no kernel of tf32 takes"
        if group.constant:
            return "its constant stands first or is more than one matrix, which no kernel of tf32 takes"
        return _cast(graph, group) if multiplies else "only products are computed in tf32"
    if not scheme.is_fp32 and not scheme.is_cast and not (group.is_product or group.kind is Kind.GATHER):
        if group.kind is not Kind.ADD or scheme != INT8_STATIC:
            return "joints are computed in floats only, but for sums in int8 with ranges"
        if not any(convolution_before(graph, name) for name in group.operands):
            return "a sum is computed on codes behind a convolution over 2 axes that nothing else reads"
    if not scheme.is_fp32 and not scheme.is_cast:
        if group.kind is Kind.CONV_TRANSPOSE:
            return "a transposed convolution is computed in floats only"
        if group.kind is Kind.MATMUL and not group.weight:
            return "no kernel of codes multiplies anything but an activation by one constant matrix that comes second"
    attributes = graph.node[group.name].attributes
    if group.kind is Kind.GEMM and not scheme.is_cast and any(attributes.get(one, 1) != 1 for one in ("alpha", "beta")):
        return (
            "" if scheme.is_fp32 else "it scales its product or its bias (alpha, beta), which no kernel of codes does"
        )
    return obstacle(graph, group, scheme, gives_floats=True)


def _pads_one_side(anchor: Node) -> bool:
    """Whether a convolution pads less in front than behind, or more."""
    pads = _sizes(anchor.attributes.get("pads", ()))
    return pads[: len(pads) // 2] != pads[len(pads) // 2 :]


def _recurrent_call(graph: Graph, group: Group, scheme: Scheme) -> str:
    """Of PyTorch: one call, for all layers and directions; int8 matrices, alone or with ranges found at every call."""
    anchor = graph.node[group.name]
    reason = _wrong_type(graph, anchor)
    if scheme.is_fp32 or reason:
        return reason
    if scheme == TF32:
        return "a recurrent layer has no switch for tf32"
    if scheme.is_cast:
        return _infinite(graph, group)
    states = 2 if group.kind is Kind.LSTM else 1
    if not all(graph.is_constant(name) for name in anchor.inputs[1:-states]):
        return "its matrices or its biases depend on data"
    if scheme.weight != INT8_WEIGHT.weight or not (scheme.is_weight_only or (scheme.dynamic and not scheme.smoothed)):
        return (
            "a recurrent layer is written in floats, with int8 matrices of one scale per row, alone or with ranges "
            "found at every call, only"
        )
    if scheme.is_weight_only:
        return ""
    if group.kind is Kind.RNN:
        return "an RNN has no form with ranges found at every call, only LSTM and GRU have"
    if scheme.activation != INT8_DYNAMIC.activation:
        return f"its kernel reads unsigned codes of 8 bits with one range for the whole, not {scheme.activation}"
    cells = int(str(anchor.attributes["num_layers"])) * (2 if anchor.attributes["bidirectional"] else 1)
    if len(anchor.inputs) - 1 - states != cells * (4 if anchor.attributes["has_biases"] else 2):
        return "it projects its state, which no integer kernel does"
    return ""


def convolution_before(graph: Graph, tensor: str) -> str:
    """The convolution over 2 axes that gives `tensor` to one reader, straight or through its batch norm; "" if there is
    none."""
    node = graph.producer.get(tensor) if graph.only_consumer(tensor) is not None else None
    if node is not None and node.kind is Kind.BATCH_NORM and graph.only_consumer(node.inputs[0]) is node:
        node = graph.producer.get(node.inputs[0])
    if node is None or node.kind is not Kind.CONV:
        return ""
    shape = _shape(graph.tensors.get(node.inputs[1]))
    return node.name if shape is not None and len(shape) == _IMAGE_AXES else ""


def obstacle(graph: Graph, group: Group, scheme: Scheme, *, gives_floats: bool = False) -> str:
    """Why `group` cannot be written in `scheme`; "" if it can. `gives_floats`: a product on codes can give floats,
    whatever it is; otherwise a convolution cannot."""
    if scheme.is_fp32:
        return ""
    if _is_empty(graph, group):
        return "it works on tensors without elements"
    if scheme.dynamic and scheme.activation != UINT8_TENSOR and not gives_floats:
        return "ranges that are found at every call are those of uint8 with one scale for the tensor there"
    if scheme.dynamic and scheme.smoothed and not gives_floats:
        return "what finds its range at every call is not smoothed there"
    if group.kind in RECURRENT:
        return _recurrent(graph, group, scheme)
    if group.kind is Kind.GATHER:
        return _table(graph, group, scheme)
    if scheme == TF32:
        return "tf32 is how a GPU multiplies fp32, and no type that a file can have"
    if scheme.is_cast:
        return _cast(graph, group)
    if group.kind is Kind.ATTENTION:
        return "attention that is one call is computed in floats only"
    if scheme.is_static:
        return _static(graph, group, smoothed=scheme.smoothed, gives_floats=gives_floats)
    return _stored(graph, group, scheme)


def _recurrent(graph: Graph, group: Group, scheme: Scheme) -> str:
    anchor = graph.node[group.name]
    reason = _wrong_type(graph, anchor, passing=_LENGTHS)
    if reason:
        return reason
    if scheme.dynamic:
        return _recurrent_dynamic(graph, group, anchor)
    if not scheme.is_weight_only:
        return (
            "a recurrent layer is written in fp32, as codes of its matrices, or with ranges found at every call, only"
        )
    for place in MATRICES:
        reason = _rows(graph, anchor.inputs[place], scheme, _MATRIX_BITS)
        reason = reason or _read_by_others(graph, anchor, anchor.inputs[place])
        if reason:
            return reason
    return ""


def _recurrent_dynamic(graph: Graph, group: Group, anchor: Node) -> str:
    if group.kind is not Kind.LSTM:
        return f"{anchor.op} has no form with ranges found at every call, only LSTM has"
    if anchor.attributes.get("layout", 0):
        return "its batch comes first (layout), which no integer kernel takes"
    open_ones = [name for place, name in enumerate(anchor.inputs) if name and place not in (*_OF_DATA, *MATRICES)]
    if not all(graph.is_constant(name) for name in open_ones):
        return "its bias or its peepholes depend on data, which no integer kernel takes"
    return ""


def _table(graph: Graph, group: Group, scheme: Scheme) -> str:
    """Codes of the rows alone."""
    shape = _shape(graph.tensors.get(group.operands[0]))
    if shape is None:
        return "the rank of its indices is not known"
    reason = _rows(graph, group.weight, scheme, _TABLE_BITS)
    return reason or _read_by_others(graph, graph.node[group.name], group.weight)


def _rows(graph: Graph, name: str, scheme: Scheme, whole: Sequence[int]) -> str:
    """Why the constant `name` cannot be stored as codes with scales for its rows, or 4 bits with scales for blocks of
    them; `whole`: the bits that rows with one scale may have."""
    stored, shape = scheme.weight if scheme.is_weight_only else None, _shape(graph.tensors.get(name)) or ()
    said = " or ".join(map(str, whole))
    form = f"its rows are stored as they are, in {said} bits with one scale, or in 4 bits with one per block, only"
    if not isinstance(stored, ScaledFormat) or not isinstance(stored.element, IntFormat) or stored.scale != REAL:
        return form
    sharing, bits = stored.granularity, stored.element.bits
    if isinstance(sharing, Block) and bits == _FEW_BITS and sharing.axis in (-1, len(shape) - 1):
        if not isinstance(shape[-1], int) or shape[-1] % sharing.size or sharing.size % 2:
            return f"its rows of {shape[-1]} elements are no multiple of an even number that share a scale"
    elif sharing != Channel() or bits not in whole or (bits > _FEW_BITS and not stored.element.signed):
        return form
    return ""


def _read_by_others(graph: Graph, anchor: Node, name: str) -> str:
    """Why fewer bits of the constant `name` would only add to what is stored. A product that shares a table with a
    look-up, as classifiers do, can be coded, too."""
    source = graph.stored(name)
    others = [
        node
        for node in graph.readers(source)
        if node is not anchor
        and not (
            anchor.kind is Kind.GATHER
            and node.kind in (Kind.MATMUL, Kind.GEMM)
            and graph.stored(node.inputs[1]) == source
            and not graph.is_constant(node.inputs[0])
        )
    ]
    if others or not {name, source}.isdisjoint({*graph.pinned, *graph.outputs}):
        return f"its constant {name} is read by others, too, who would keep it in fp32"
    return ""


def _is_empty(graph: Graph, group: Group) -> bool:
    return any(0 in (_shape(graph.tensors.get(name)) or ()) for name in (*group.operands, group.weight, group.inner))


def _cast(graph: Graph, group: Group) -> str:
    anchor = graph.node[group.name]
    return (
        _wrong_type(graph, anchor)
        or _infinite(graph, group)
        or ("" if group.operands else "it has no activation: all its operands are constants")
        or ("its bias is computed, not a constant" if group.bias and not graph.is_constant(group.bias) else "")
    )


def _stored(graph: Graph, group: Group, scheme: Scheme) -> str:
    """Schemes that need a constant matrix: codes of the weight alone, or ranges found at every call."""
    anchor = graph.node[group.name]
    reason = _wrong_type(graph, anchor)
    if reason:
        return reason
    if group.constant and scheme.dynamic and _shares_one_scale(scheme) and group.kind is Kind.MATMUL:
        return _constant(graph, group, anchor)
    if group.kind in (Kind.MATMUL, Kind.GEMM) and graph.is_constant(anchor.inputs[0]):
        return "its constant is the first operand, and only a second one can be written so"
    if group.constant:
        return "its constant is more than one matrix, and only one can be written so"
    if group.kind not in (Kind.MATMUL, Kind.GEMM) or not group.weight:
        return "only a product by a constant matrix can be written so"
    if anchor.attributes.get("transA", 0) and scheme.is_weight_only:
        return "its first operand is transposed, and codes of the weight alone are for channels that come last"
    if group.bias and anchor.attributes.get("beta", 1.0) != 1.0 and not graph.is_constant(group.bias):
        return "it scales a bias that is computed (beta)"
    shape = _shape(graph.tensors.get(group.weight))
    if shape is None or len(shape) != 2:
        return "its weight is not a matrix"
    sharing = scheme.weight.granularity if isinstance(scheme.weight, ScaledFormat) else None
    depth = shape[1 if anchor.attributes.get("transB", 0) else 0]
    if isinstance(sharing, Block) and isinstance(depth, int) and depth % sharing.size:
        return f"its depth of {depth} is no multiple of the {sharing.size} elements that share a scale"
    return ""


def _shares_one_scale(scheme: Scheme) -> bool:
    return isinstance(scheme.weight, ScaledFormat) and scheme.weight.granularity == OneScale()


def _static(graph: Graph, group: Group, *, smoothed: bool, gives_floats: bool) -> str:
    anchor = graph.node[group.name]
    if smoothed and not (group.kind in (Kind.MATMUL, Kind.GEMM) and group.weight):
        return "only a product by a constant matrix is smoothed"
    if smoothed and anchor.attributes.get("transA", 0):
        return "its first operand is transposed, and only one whose channels come last is smoothed"
    return (
        _wrong_type(graph, anchor)
        or _infinite(graph, group)
        or (
            _product(graph, group, anchor, gives_floats=gives_floats)
            if group.is_product
            else _joint(graph, group, anchor)
        )
    )


def _wrong_type(graph: Graph, anchor: Node, passing: int = -1) -> str:
    """`passing`: the place of an input that may have any type."""
    read = [name for place, name in enumerate(anchor.inputs) if place != passing]
    tensors = [graph.tensors.get(name) for name in (*read, *anchor.outputs)]
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None} - {"unknown"}
    other = sorted(dtypes - {"float32", "int64", "bool"})
    if other:
        return f"it computes in {other[0]}; fewer bits take the place of float32 only, so export the model in float32"
    return "" if "float32" in dtypes else "the type that it computes in is not known"


def _infinite(graph: Graph, group: Group) -> str:
    tensors = [graph.tensors.get(name) for name in (*group.operands, group.inner)]
    if all(tensor is None or tensor.finite for tensor in tensors):
        return ""
    return "it works on infinite values, as masks have, which no range holds"


def _product(graph: Graph, group: Group, anchor: Node, *, gives_floats: bool) -> str:
    if not group.operands:
        return "it has no activation: all its operands are constants"
    if graph.is_constant(anchor.inputs[0]) and group.kind is not Kind.MATMUL:
        return "its constant is the first operand, which no integer kernel of this operator takes"
    if group.bias and not graph.is_constant(group.bias):
        return "its bias is computed, not a constant"
    if group.kind not in (Kind.GEMM, Kind.MATMUL) and not graph.pinned.isdisjoint((group.inner, group.output)):
        return "a subgraph reads its output, which keeps fp32"
    match group.kind:
        case Kind.CONV | Kind.CONV_TRANSPOSE:
            return _convolution(graph, group, gives_floats=gives_floats)
        case Kind.GEMM:
            return _gemm(graph, group, anchor)
        case _:
            return _matmul(graph, group, anchor)


def _convolution(graph: Graph, group: Group, *, gives_floats: bool) -> str:
    if not group.weight:
        return "its weight is computed, not a constant"
    if group.output in graph.outputs and not gives_floats:
        return "its output is the model's, which keeps fp32, and an int8 convolution cannot write floats"
    return ""


def _gemm(graph: Graph, group: Group, anchor: Node) -> str:
    if not group.weight:
        return "its weight is computed, not a constant"
    shape = _shape(graph.tensors.get(group.bias))
    if group.bias and (shape is None or any(size != 1 for size in shape[:-1])):
        return "its bias is a matrix, not one number per column"
    return ""


def _matmul(graph: Graph, group: Group, anchor: Node) -> str:
    if group.constant:
        return _constant(graph, group, anchor)
    if not group.weight:
        return ""
    weight, source = _shape(graph.tensors.get(group.weight)), _shape(graph.tensors.get(anchor.inputs[0]))
    if weight is None or len(weight) != 2:
        return "its weight is not a matrix"
    if source is None or len(source) < 2:
        return "the rank of its input is not known to be 2 or more"
    return ""


def _constant(graph: Graph, group: Group, anchor: Node) -> str:
    """A constant that stands first, or a batch of them, has one scale, as an activation has."""
    shapes = [_shape(graph.tensors.get(name)) for name in anchor.inputs[:2]]
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return "the ranks of what it multiplies are not known to be 2 or more"
    stored = graph.tensors[group.constant]
    return "" if stored.finite else "its constant is infinite, which no range holds"


def _joint(graph: Graph, group: Group, anchor: Node) -> str:
    if group.output in graph.outputs:
        return "its output is the model's, which keeps fp32"
    if not graph.pinned.isdisjoint((group.inner, group.output)):
        return "a subgraph reads its output, which keeps fp32"
    if group.kind in (Kind.ADD, Kind.MUL) and len(group.operands) != 2:
        return "it does not join two activations"
    if any(size != 1 for size in _sizes(anchor.attributes.get("dilations", 1))):
        return "it pools with dilation, which integer pools do not have"
    return ""


def _sizes(attribute: object) -> tuple[object, ...]:
    return attribute if isinstance(attribute, tuple) else (attribute,)


def _shape(tensor: Tensor | None) -> tuple[int | str, ...] | None:
    return None if tensor is None else tensor.shape
