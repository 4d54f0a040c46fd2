"""What ONNX Runtime really runs on this machine: ``python -m fewbits.targets.onnxruntime_probe FOLDER``.

Writes tiny models into FOLDER, opens each, reads back which kernels they became, and lets the runtime compute
the dot products that tell exact from saturating int8. The findings, a `RuntimeProbe`, go to ``FOLDER/probe.json``.
It is a program of its own because a runtime that cannot cope with a machine may take its process down.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from pydantic import TypeAdapter

from fewbits.formats.granularity import Tensor
from fewbits.formats.integer import INT8
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.scheme import FP32, INT8_STATIC, UINT8_TENSOR, Scheme, integer
from fewbits.targets.runtime_probe import DotProduct, ProbeModel, RuntimeProbe

FINDINGS = "probe.json"
REPEATS = 4
SCHEMES = (
    FP32,
    INT8_STATIC,
    Scheme(INT8_STATIC.weight, ScaledFormat(INT8, Tensor())),
    Scheme(UINT8_TENSOR, UINT8_TENSOR),
)
INTEGER_KERNELS = frozenset(
    {"QLinearMatMul", "QLinearConv", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger"}
)
FLOAT_KERNELS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv"})

_OPSET = 17
_IR_VERSION = 8
_REFUSALS = (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.NotImplemented, ort_errors.RuntimeException)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that keeps the shape of its input, so that it can be repeated."""

    name: str
    op_type: str
    shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    channel_axis: int
    group: int = 1


OPERATIONS = (
    Operation("MatMul 64x512x512", "MatMul", (64, 512), (512, 512), channel_axis=1),
    Operation("Conv 3x3, 64 channels, 28x28", "Conv", (1, 64, 28, 28), (64, 64, 3, 3), channel_axis=0),
    Operation(
        "depthwise Conv 3x3, 128 channels, 28x28", "Conv", (1, 128, 28, 28), (128, 1, 3, 3), channel_axis=0, group=128
    ),
)


class _Parts:
    """Nodes and constants of a model while it is put together."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add_node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> str:
        node = helper.make_node(op_type, list(inputs), [output])
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)
        return output

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add_activation(self, tensor: str, operand: Format | None) -> str:
        """`tensor`, or what it is after Q/DQ."""
        if operand is None:
            return tensor
        parameters = [
            self.add_constant(f"{tensor}_scale", np.asarray(4 / 128, np.float32)),
            self.add_constant(f"{tensor}_zero", np.asarray(_zero(operand), _dtype(operand))),
        ]
        quantized = self.add_node("QuantizeLinear", [tensor, *parameters], f"{tensor}_q")
        return self.add_node("DequantizeLinear", [quantized, *parameters], f"{tensor}_dq")

    def add_weight(self, name: str, weight: NDArray[np.float32], operand: Format | None, axis: int) -> str:
        """`weight` as it is, or its codes and a DQ; scales along `axis` where the operand wants them per channel."""
        if operand is None:
            return self.add_constant(name, weight)
        per_tensor = isinstance(operand, ScaledFormat) and operand.granularity == Tensor()
        others = tuple(other for other in range(weight.ndim) if per_tensor or other != axis)
        scale = np.abs(weight).max(axis=others, keepdims=True) / 127
        codes = np.rint(weight / scale) + _zero(operand)
        stored = scale.reshape(() if per_tensor else (-1,)).astype(np.float32)
        inputs = [
            self.add_constant(
                f"{name}_q", codes.clip(integer(operand).qmin, integer(operand).qmax).astype(_dtype(operand))
            ),
            self.add_constant(f"{name}_scale", stored),
            self.add_constant(f"{name}_zero", np.full(stored.shape, _zero(operand), _dtype(operand))),
        ]
        return self.add_node("DequantizeLinear", inputs, name, **({} if per_tensor else {"axis": axis}))


def _zero(operand: Format) -> int:
    return 0 if integer(operand).signed else 128


def _dtype(operand: Format) -> type[np.integer]:
    return np.int8 if integer(operand).signed else np.uint8


def probe_model(operation: Operation, scheme: Scheme, repeats: int = REPEATS) -> ModelProto:
    """`operation` `repeats` times in a row on random weights; for an int8 scheme with Q/DQ around every operand."""
    rng = np.random.default_rng(0)
    fan_in = int(np.prod(operation.weight_shape)) // operation.weight_shape[operation.channel_axis]
    attributes: dict[str, int | Sequence[int]] = (
        {"pads": [1, 1, 1, 1], "group": operation.group} if operation.op_type == "Conv" else {}
    )
    parts = _Parts()
    tensor = parts.add_activation("x", scheme.activation)
    for step in range(repeats):
        values = (rng.standard_normal(operation.weight_shape) / np.sqrt(fan_in)).astype(np.float32)
        weight = parts.add_weight(f"w{step}", values, scheme.weight, operation.channel_axis)
        result = parts.add_node(operation.op_type, [tensor, weight], f"y{step}", **attributes)
        tensor = parts.add_activation(result, scheme.activation)
    return _model(
        parts,
        helper.make_tensor_value_info("x", TensorProto.FLOAT, operation.shape),
        helper.make_tensor_value_info(tensor, TensorProto.FLOAT, operation.shape),
    )


def _model(parts: _Parts, given: ValueInfoProto, result: ValueInfoProto) -> ModelProto:
    graph = helper.make_graph(parts.nodes, "probe", [given], [result], parts.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model


def executed_kernels(content: bytes, folder: Path) -> tuple[str, ...]:
    """The compute operators of a model after ONNX Runtime optimised it, sorted, once per node.

    Raises:
        One of the runtime's own errors, if it does not load the model.
    """
    readback = folder / "optimized.onnx"
    options = _quiet_options()
    options.optimized_model_filepath = str(readback)
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(readback).graph.node
    readback.unlink()
    return tuple(sorted(node.op_type for node in nodes if node.op_type in INTEGER_KERNELS | FLOAT_KERNELS))


def precision_of(kernels: Iterable[str]) -> str:
    """``int8``, ``fp32``, ``mixed``, or ``unknown`` where no known compute operator ran."""
    kinds = {"int8" if kernel in INTEGER_KERNELS else "fp32" for kernel in kernels}
    return kinds.pop() if len(kinds) == 1 else ("mixed" if kinds else "unknown")


def dot_product(operands: str, left: NDArray[np.integer], right: NDArray[np.integer]) -> DotProduct:
    """`left` · `right` by ONNX Runtime's MatMulInteger, in a product large enough for its vector kernels; where
    entries of the product differ, the one that is furthest off."""
    rows, columns, depth = 8, 32, 64
    a = np.zeros((rows, depth), left.dtype)
    b = np.zeros((depth, columns), right.dtype)
    a[:, : left.size] = left
    b[: right.size, :] = right[:, None]
    parts = _Parts()
    parts.add_node("MatMulInteger", ["a", parts.add_constant("b", b)], "y")
    model = _model(
        parts,
        helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape),
        helper.make_tensor_value_info("y", TensorProto.INT32, (rows, columns)),
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), _quiet_options(), providers=["CPUExecutionProvider"]
    )
    product = session.run(None, {"a": a})[0].ravel()
    expected = int(left.astype(np.int64) @ right.astype(np.int64))
    return DotProduct(operands, expected, int(product[np.abs(product - expected).argmax()]))


def probe(folder: Path) -> RuntimeProbe:
    """Write the models into `folder` and say what became of them."""
    u8, s8 = np.uint8, np.int8
    return RuntimeProbe(
        version=onnxruntime.__version__,
        providers=tuple(onnxruntime.get_available_providers()),
        models=tuple(
            _probed(operation, scheme, folder, f"{row}-{column}.onnx")
            for row, operation in enumerate(OPERATIONS)
            for column, scheme in enumerate(SCHEMES)
        ),
        dots=(
            dot_product("u8 x s8", np.array([255, 255, 0, 0], u8), np.array([127, 127, 0, 0], s8)),
            dot_product("s8 x s8", np.array([127, 127, 0, 0], s8), np.array([127, 127, 0, 0], s8)),
        ),
    )


def _probed(operation: Operation, scheme: Scheme, folder: Path, file: str) -> ProbeModel:
    content = probe_model(operation, scheme).SerializeToString()
    (folder / file).write_bytes(content)
    found = ProbeModel(operation.name, str(scheme), file, operation.shape)
    try:
        kernels = executed_kernels(content, folder)
    except _REFUSALS as error:
        return replace(found, refusal=str(error))
    counted = tuple(f"{kernel} x{count}" for kernel, count in Counter(kernels).items())
    return replace(found, kernels=counted, precision=precision_of(kernels))


def _quiet_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    errors_only = 3
    options.log_severity_level = errors_only
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Probe into the folder that is the only argument."""
    (folder,) = map(Path, sys.argv[1:] if arguments is None else arguments)
    (folder / FINDINGS).write_bytes(TypeAdapter(RuntimeProbe).dump_json(probe(folder)))


if __name__ == "__main__":
    main()
