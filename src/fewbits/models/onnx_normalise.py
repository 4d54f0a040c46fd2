"""A model as it was exported, made regular: one opset generation, no functions, shapes, constants and names known."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from fewbits.errors import ModelError
from fewbits.models.onnx_constants import MarkConstants
from fewbits.models.onnx_graph import subgraphs
from fewbits.models.onnx_opset import upgraded
from fewbits.models.onnx_unfuse import Unfuse
from fewbits.models.onnx_weightless import without_weights

OPSET = 13
"""The first with a DequantizeLinear per channel."""
_IR_VERSION = 8
"""The least that is written: below 4, every weight would have to be a graph input too."""
_MICROSOFT = "com.microsoft"
_LIKE_FIRST = frozenset(
    {"BiasGelu", "FastGelu", "Gelu", "QuickGelu", "BiasSoftmax", "BiasAdd", "BiasDropout", "Attention"}
    | {"LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "MultiHeadAttention"}
    | {"SkipSimplifiedLayerNormalization", "RotaryEmbedding"}
)
"""Operators of ONNX Runtime's own, which ONNX infers no shapes for, whose first output has the shape of the first
input: attention too, unless its value is of another width than its query."""


def normalised(proto: onnx.ModelProto, name: str) -> ir.Model:
    """`proto` as onnx-ir: opset 13 or later, functions inlined, every constant an initialiser, shapes inferred,
    every node named. `proto` is left as it was.

    Names are derived from the graph alone, so the same file gives the same names in every process.

    Raises:
        ModelError: its opset is older than 13 and cannot be brought up to it, or it has types that are no tensors.
    """
    model = common.InlinePass()(_read(proto, name)).model
    if model.graph.opset_imports.get("", OPSET) < OPSET:
        model = _brought_up(model, name)
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)
    passes = [
        Unfuse(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        *([] if _needs_identities(model) else [common.IdentityEliminationPass()]),
        common.RemoveUnusedNodesPass(),
        InferShapes(),
        MarkConstants(),
        NameNodes(),
    ]
    for one in passes:
        model = one(model).model
    return model


def _read(proto: onnx.ModelProto, name: str) -> ir.Model:
    strange = [value.name for value in proto.graph.output if not value.type.HasField("tensor_type")]
    try:
        return ir.from_proto(proto)
    except (ir.serde.SerdeError, NotImplementedError) as error:
        if strange:
            raise ModelError(
                f"{name} gives {strange[0]!r}, which is a map or a sequence and no tensor; export it without "
                "(skl2onnx: options={'zipmap': False})"
            ) from error
        raise ModelError(f"{name} holds what cannot be read: {_root(error)}") from error


def _root(error: BaseException) -> str:
    """What the innermost cause of `error` says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


def _brought_up(model: ir.Model, name: str) -> ir.Model:
    try:
        return upgraded(model, OPSET)
    except ModelError as error:
        raise ModelError(
            f"{name} has opset {model.graph.opset_imports['']} and cannot be brought to {OPSET} ({error}); "
            f"export it with opset {OPSET} or later"
        ) from error


def _needs_identities(model: ir.Model) -> bool:
    """Whether eliminating Identity nodes would lose a value: one copies a graph output to another, or there are
    subgraphs, whose outputs may be such copies of what is outside."""
    copies_output = any(
        node.op_type == "Identity"
        and node.outputs[0].is_graph_output()
        and node.inputs[0] is not None
        and node.inputs[0].is_graph_output()
        for node in model.graph
    )
    return copies_output or any(subgraphs(attribute) for node in model.graph for attribute in node.attributes.values())


class InferShapes(ir.passes.InPlacePass):
    """Shapes of inner tensors from those of the inputs, not from what the file says of them.

    The shapes stored between the nodes go stale as soon as somebody makes an input's dimension dynamic by hand;
    only where inference finds none, their rank is kept.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any shape is another one now."""
        stated = {value: value.shape for node in model.graph for value in node.outputs}
        for value in stated:
            value.shape = None
        _infer(model)
        for value, shape in stated.items():
            if value.shape is None and shape is not None:
                value.shape = ir.Shape([None] * len(shape))
        return ir.passes.PassResult(model, any(value.shape != shape for value, shape in stated.items()))


def _infer(model: ir.Model) -> None:
    """Give the values of `model` the types and shapes that ONNX infers; sequences are types of their own."""
    with without_weights(model) as proto:
        for node in proto.graph.node:
            _stand_in(node)
        try:
            inferred = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
        except onnx.shape_inference.InferenceError:
            # What is not known is refused group by group, with that reason.
            return
    for own, other in zip(model.graphs(), inferred.graphs(), strict=True):
        found = ir.convenience.create_value_mapping(other)
        for name, value in ir.convenience.create_value_mapping(own).items():
            if name in found and found[name].type is not None:
                value.type = found[name].type
            if name in found and found[name].shape is not None:
                value.shape = found[name].shape


def _stand_in(node: onnx.NodeProto) -> None:
    """Make `node`, if it is an operator of ONNX Runtime's, one of ONNX's whose first output has the same shape."""
    if node.domain == _MICROSOFT and node.op_type in _LIKE_FIRST:
        node.domain, node.op_type = "", "Identity"
        del node.input[1:], node.output[1:], node.attribute[:]


class NameNodes(ir.passes.InPlacePass):
    """Gives each node a name that no other node has; the first holder of a name keeps it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any node has another name now."""
        given = {node.name for node in model.graph if node.name}
        seen: set[str] = set()
        modified = False
        for index, node in enumerate(model.graph):
            name = node.name or ""
            if not name or name in seen:
                name = f"{name or node.op_type}_{index}"
                while name in given or name in seen:
                    name = f"{name}_{index}"
                node.name = name
                modified = True
            seen.add(name)
        return ir.passes.PassResult(model, modified)
