"""What ONNX Runtime's optimiser fused, apart again: a saved FusedConv or FusedGemm is a product and an activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from fewbits.models.onnx_names import Names, take_over

_MICROSOFT: Final = "com.microsoft"
_FUSED: Final = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_PARAMETERS: Final[Mapping[str, Sequence[str]]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
"""The activations that are fused, and what their numbers are called, in order."""


class Unfuse(ir.passes.InPlacePass):
    """Writes the fused products of a model that ONNX Runtime optimised and saved in operators of ONNX alone."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was taken apart."""
        names = Names(model)
        found = [
            node
            for node in model.graph
            if node.domain == _MICROSOFT and node.op_type in _FUSED and _text(node, "activation") in _PARAMETERS
        ]
        for node in found:
            _unfuse(model, names, node)
        return ir.passes.PassResult(model, bool(found))


def _unfuse(model: ir.Model, names: Names, node: ir.Node) -> None:
    name, result, inputs = str(node.name or node.op_type), str(node.outputs[0].name), list(node.inputs)
    plain = {key: value for key, value in node.attributes.items() if not key.startswith("activation")}
    made = [names.node(_FUSED[node.op_type], inputs[:3], f"{result}.product", f"{name}.product", plain)]
    if len(inputs) > 3 and inputs[3] is not None:
        # A residual that is added before the activation.
        made.append(names.node("Add", [made[-1].outputs[0], inputs[3]], f"{result}.sum", f"{name}.sum"))
    made.append(_activation(names, node, name, made[-1].outputs[0]))
    model.graph.insert_before(node, made)
    take_over(node.outputs[0], made[-1].outputs[0])
    model.graph.remove(node, safe=True)
    made[0].name = name


def _activation(names: Names, node: ir.Node, name: str, value: ir.Value) -> ir.Node:
    op_type, result = _text(node, "activation"), node.outputs[0].name
    numbers = dict(zip(_PARAMETERS[op_type], _numbers(node), strict=False))
    if op_type == "Clip":
        ends = [names.constant(f"{name}.{key}", np.array(end, np.float32)) for key, end in numbers.items()]
        return names.node(op_type, [value, *ends], f"{result}.clipped", f"{name}.activation")
    attributes = {key: ir.AttrFloat32(key, number) for key, number in numbers.items()}
    return names.node(op_type, [value], f"{result}.activated", f"{name}.activation", attributes)


def _numbers(node: ir.Node) -> Sequence[float]:
    if "activation_params" in node.attributes:
        return node.attributes["activation_params"].as_floats()
    keys = [f"activation_{one}" for one in ("alpha", "beta")]
    return [node.attributes[key].as_float() for key in keys if key in node.attributes]


def _text(node: ir.Node, name: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else ""
