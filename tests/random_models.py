"""Random valid ONNX models: operators that exporters write, wired at random over tensors whose shapes fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from builders import Array, Net

SAMPLES = 6
_F = TensorProto.FLOAT
Shape = tuple[int, ...]
"""Without the batch, which is dynamic and comes first."""


@dataclass
class Wild:
    """A net in the making and the shapes of its tensors; `draw` makes the choices."""

    draw: st.DrawFn
    net: Net
    shapes: dict[str, Shape] = field(default_factory=dict)

    def step(self) -> None:
        """Append one operator, or a few, to a recent tensor."""
        x = self.recent()
        fitting = [make for rank, make in _STEPS if rank in (0, len(self.shapes[x]) + 1)]
        self.draw(st.sampled_from(fitting))(self, x)

    def recent(self, shape: Shape | None = None) -> str:
        """One of the last tensors, of `shape` if that is given."""
        names = [name for name, found in self.shapes.items() if shape in (None, found)]
        return self.draw(st.sampled_from(names[-5:]))

    def put(self, x: str, shape: Shape) -> str:
        """Make `x` known."""
        self.shapes[x] = shape
        return x

    def flag(self) -> bool:
        """Yes or no."""
        return self.draw(st.booleans())

    def channels(self) -> int:
        """How many channels the next product gives."""
        return self.draw(st.sampled_from([1, 4, 6]))


def _conv(wild: Wild, x: str) -> None:
    net, (inputs, height, width) = wild.net, wild.shapes[x]
    outputs, kernel = wild.channels(), wild.draw(st.sampled_from([1, 3]))
    groups = inputs if wild.flag() else 1
    outputs = groups * outputs if groups > 1 else outputs
    weight = net.weight(outputs, inputs // groups, kernel, kernel, fan_in=inputs // groups * kernel**2)
    bias = [net.small(outputs)] if wild.flag() else []
    y = net.add("Conv", x, weight, *bias, group=groups, pads=[kernel // 2] * 4)
    if wild.flag():
        y = net.norm(y, outputs)
    wild.put(_activated(wild, y), (outputs, height, width))


def _conv_transpose(wild: Wild, x: str) -> None:
    net, (inputs, height, width) = wild.net, wild.shapes[x]
    if height > 8:
        return
    outputs = wild.channels()
    weight = net.weight(inputs, outputs, 2, 2, fan_in=inputs)
    bias = [net.small(outputs)] if wild.flag() else []
    wild.put(net.add("ConvTranspose", x, weight, *bias, strides=[2, 2]), (outputs, 2 * height, 2 * width))


def _pool(wild: Wild, x: str) -> None:
    channels, height, width = wild.shapes[x]
    op = wild.draw(st.sampled_from(["MaxPool", "AveragePool", "GlobalAveragePool"]))
    if op == "GlobalAveragePool":
        wild.put(wild.net.add(op, x), (channels, 1, 1))
    elif min(height, width) > 1:
        wild.put(wild.net.add(op, x, kernel_shape=[2, 2], strides=[2, 2]), (channels, height // 2, width // 2))


def _activated(wild: Wild, x: str) -> str:
    match wild.draw(st.sampled_from(["", "Relu", "Clip", "HardSwish", "Sigmoid", "Tanh", "LeakyRelu"])):
        case "":
            return x
        case "Clip":
            low, high = wild.draw(st.sampled_from([(0.0, 6.0), (-0.5, 2.0)]))
            return wild.net.add("Clip", x, wild.net.number(low), wild.net.number(high))
        case op:
            return wild.net.add(op, x)


def _activation(wild: Wild, x: str) -> None:
    wild.put(_activated(wild, x), wild.shapes[x])


def _product(wild: Wild, x: str) -> None:
    net, (*more, depth) = wild.net, wild.shapes[x]
    columns = wild.channels()
    matrix = (net._random.standard_normal((depth, columns)) / sqrt(depth)).astype(np.float32)
    y = net.add("MatMul", x, net.constant(matrix))
    if wild.flag():
        operands = [y, net.small(columns)]
        y = net.add("Add", *(reversed(operands) if wild.flag() else operands))
    wild.put(_activated(wild, y), (*more, columns))


def _gemm(wild: Wild, x: str) -> None:
    net, (depth,) = wild.net, wild.shapes[x]
    columns, transposed = wild.channels(), wild.flag()
    weight = net.weight(*((columns, depth) if transposed else (depth, columns)), fan_in=depth)
    bias = [net.small(columns)] if wild.flag() else []
    alpha = wild.draw(st.sampled_from([1.0, 1.0, 0.5]))
    y = net.add("Gemm", x, weight, *bias, transB=int(transposed), alpha=alpha)
    wild.put(_activated(wild, y), (columns,))


def _product_of_two(wild: Wild, x: str) -> None:
    net, shape = wild.net, wild.shapes[x]
    other = wild.recent(shape)
    turned = [0, *range(1, len(shape) - 1), len(shape), len(shape) - 1]
    y = net.add("MatMul", x, net.add("Transpose", other, perm=turned))
    scaled = net.add("Mul", y, net.number(1 / sqrt(shape[-1])))
    wild.put(net.add(wild.draw(st.sampled_from(["Softmax", "Tanh"])), scaled), (*shape[:-1], shape[-2]))


def _joint(wild: Wild, x: str) -> None:
    shape = wild.shapes[x]
    net, other = wild.net, wild.recent(shape)
    # A factor is a gate: products of products have outliers that no eight bits hold.
    y = net.add("Add", x, other) if wild.flag() else net.add("Mul", x, net.add("Sigmoid", other))
    wild.put(_activated(wild, y), shape)


def _concat(wild: Wild, x: str) -> None:
    _, *rest = wild.shapes[x]
    fitting = [name for name, (size, *other) in wild.shapes.items() if other == rest]
    parts = [x, *(wild.draw(st.sampled_from(fitting)) for _ in range(wild.draw(st.integers(1, 2))))]
    y = wild.net.add("Concat", *parts, axis=1)
    wild.put(y, (sum(wild.shapes[part][0] for part in parts), *rest))


def _with_constant(wild: Wild, x: str) -> None:
    op = wild.draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
    constant = wild.net.positive(*wild.shapes[x][-1:]) if wild.flag() else wild.net.number(0.7)
    wild.put(wild.net.add(op, x, constant), wild.shapes[x])


def _flatten(wild: Wild, x: str) -> None:
    size = prod(wild.shapes[x])
    y = wild.net.add("Reshape", x, wild.net.axes(-1, size)) if wild.flag() else wild.net.add("Flatten", x, axis=1)
    wild.put(y, (size,))


def _reshape(wild: Wild, x: str) -> None:
    channels, height, width = wild.shapes[x]
    wild.put(wild.net.add("Reshape", x, wild.net.axes(0, channels, height * width)), (channels, height * width))


def _transpose(wild: Wild, x: str) -> None:
    *more, last, depth = wild.shapes[x]
    order = [0, *range(1, len(more) + 1), len(more) + 2, len(more) + 1]
    wild.put(wild.net.add("Transpose", x, perm=order), (*more, depth, last))


def _slice(wild: Wild, x: str) -> None:
    first, *rest = wild.shapes[x]
    if first > 1:
        net = wild.net
        wild.put(net.add("Slice", x, net.axes(0), net.axes(first // 2), net.axes(1)), (first // 2, *rest))


def _split(wild: Wild, x: str) -> None:
    first, *rest = wild.shapes[x]
    if first % 2 == 0:
        y = wild.net.add("Split", x, axis=1, num_outputs=2)
        wild.net.nodes[-1].output.append(f"{y}_1")
        wild.put(y, (first // 2, *rest))
        wild.put(f"{y}_1", (first // 2, *rest))


def _norm(wild: Wild, x: str) -> None:
    wild.put(wild.net.layer_norm(x, wild.shapes[x][-1], decomposed=wild.flag()), wild.shapes[x])


def _quiet(wild: Wild, x: str) -> None:
    op = wild.draw(st.sampled_from(["Identity", "Dropout", "Squeeze"]))
    net, shape = wild.net, wild.shapes[x]
    if op == "Squeeze":
        wild.put(net.add("Squeeze", net.add("Unsqueeze", x, net.axes(1)), net.axes(1)), shape)
    elif x != "x":
        # OpenVINO calls an input that is an output by the output's name alone.
        wild.put(net.add(op, x), shape)


def _branch(wild: Wild, x: str) -> None:
    """An If whose branches read what is outside."""
    net, other = wild.net, wild.recent(wild.shapes[x])
    # The same branch for all data: no range is known of what was never taken.
    chosen = net.add(
        wild.draw(st.sampled_from(["Greater", "Less"])), net.add("ReduceMax", "x", keepdims=0), net.number(100.0)
    )
    y = net.add("If", chosen)
    for name, (op, read) in {"then_branch": ("Neg", x), "else_branch": ("Relu", other)}.items():
        result = f"{y}_{name}"
        graph = helper.make_graph(
            [helper.make_node(op, [read], [result])], name, [], [helper.make_tensor_value_info(result, _F, None)]
        )
        net.nodes[-1].attribute.append(helper.make_attribute(name, graph))
    wild.put(y, wild.shapes[x])


# Rank that an operator takes, 0 for any.
_STEPS: tuple[tuple[int, Callable[[Wild, str], None]], ...] = (
    (4, _conv),
    (4, _conv),
    (4, _conv),
    (4, _conv_transpose),
    (4, _pool),
    (4, _reshape),
    (4, _product),
    (3, _product),
    (3, _product),
    (3, _product_of_two),
    (3, _norm),
    (2, _product),
    (2, _gemm),
    (2, _gemm),
    (3, _flatten),
    (4, _flatten),
    (3, _transpose),
    (4, _transpose),
    (0, _joint),
    (0, _concat),
    (0, _slice),
    (0, _split),
    (0, _activation),
    (0, _with_constant),
    (0, _quiet),
    (0, _branch),
)


@st.composite
def models(draw: st.DrawFn, most: int = 10) -> onnx.ModelProto:
    """Up to `most` operators on the input ``x`` of shape (batch, ...); outputs: what nobody reads, and perhaps more."""
    shape: Shape = draw(st.sampled_from([(4, 6, 6), (5, 8), (12,)]))
    wild = Wild(draw, Net(draw(st.integers(0, 5))))
    wild.put("x", shape)
    for _ in range(draw(st.integers(1, most))):
        wild.step()
    read = {name for node in wild.net.nodes for name in node.input}
    made = [name for name in wild.shapes if name != "x"] or [wild.put(wild.net.add("Abs", "x"), shape)]
    outputs = {name for name in made if name not in read} | draw(st.sets(st.sampled_from(made), max_size=2))
    return finished(wild, sorted(outputs) or made[-1:], shape)


def finished(wild: Wild, outputs: list[str], shape: Shape) -> onnx.ModelProto:
    """The checked model."""
    graph = helper.make_graph(
        wild.net.nodes,
        "wild",
        [helper.make_tensor_value_info("x", _F, ["batch", *shape])],
        [helper.make_tensor_value_info(name, _F, ["batch", *wild.shapes[name]]) for name in outputs],
        wild.net.weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def inputs_of(proto: onnx.ModelProto, samples: int = SAMPLES) -> Mapping[str, Array]:
    """Normal values for the input of `proto`."""
    sizes = [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"x": np.random.default_rng(0).standard_normal((samples, *sizes)).astype(np.float32)}
