"""Small nets as exporters write them for each operator set: with attributes first, with inputs later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from builders import CHANNELS, FEATURES, SIZE, Array, Dimension, Net, features, images

F = TensorProto.FLOAT
IR_VERSIONS = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
"""The IR version that was current with each operator set; 10 for the later ones."""
OPSETS = range(7, 24)


@dataclass
class Dated(Net):
    """A net whose operators have the form of operator set `opset`."""

    opset: int = 13

    def several(
        self, op: str, inputs: Sequence[str], count: int, **attributes: int | float | Sequence[int]
    ) -> list[str]:
        """Append an `op` node of `count` outputs."""
        first = self.add(op, *inputs, **attributes)
        names = [first, *(f"{first}_{number}" for number in range(1, count))]
        self.nodes[-1].output[:] = names
        return names

    def _listed(self, op: str, x: str, key: str, values: Sequence[int], since: int, **more: int) -> str:
        """`op` with `values` as an attribute before operator set `since`, as an input from it on."""
        if self.opset < since:
            return self.add(op, x, **{key: list(values)}, **more)
        return self.add(op, x, self.axes(*values), **more)

    def dated_norm(self, x: str, channels: int) -> str:
        """BatchNormalization as in inference, with what each version lets an exporter say."""
        statistics = (self.positive(channels), self.small(channels), self.small(channels), self.positive(channels))
        more = {"spatial": 1} if self.opset < 9 else {"training_mode": 0} if self.opset >= 14 else {}
        return self.add("BatchNormalization", x, *statistics, epsilon=1e-5, momentum=0.9, **more)

    def dated_clip(self, x: str, low: float, high: float) -> str:
        """Clip."""
        if self.opset < 11:
            return self.add("Clip", x, min=low, max=high)
        return self.add("Clip", x, self.number(low), self.number(high))

    def dropout(self, x: str) -> str:
        """Dropout with its mask, as in inference."""
        if self.opset < 12:
            return self.several("Dropout", [x], 2, ratio=0.5)[0]
        return self.several("Dropout", [x, self.number(0.5)], 2)[0]

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        """Gemm with transB; C may be absent from 11 on."""
        return self.add("Gemm", x, self.weight(outputs, inputs, fan_in=inputs), self.small(outputs), transB=1)

    def squeeze(self, x: str, *axes: int) -> str:
        """Squeeze."""
        return self._listed("Squeeze", x, "axes", axes, 13)

    def unsqueeze(self, x: str, *axes: int) -> str:
        """Unsqueeze."""
        return self._listed("Unsqueeze", x, "axes", axes, 13)

    def mean(self, x: str, *axes: int, keepdims: int = 1) -> str:
        """ReduceMean."""
        return self._listed("ReduceMean", x, "axes", axes, 18, keepdims=keepdims)

    def total(self, x: str, *axes: int, keepdims: int = 1) -> str:
        """ReduceSum."""
        return self._listed("ReduceSum", x, "axes", axes, 13, keepdims=keepdims)

    def dated_layer_norm(self, x: str, features: int) -> str:
        """LayerNormalization, spelled out before it was an operator."""
        if self.opset >= 17:
            return self.layer_norm(x, features, decomposed=False)
        centred = self.add("Sub", x, self.mean(x, 2))
        variance = self.mean(self.add("Mul", centred, centred), 2)
        normal = self.add("Div", centred, self.add("Sqrt", self.add("Add", variance, self.number(1e-5))))
        return self.add("Add", self.add("Mul", normal, self.positive(features)), self.small(features))

    def doubled(self, x: str) -> str:
        """Height and width twice as large."""
        scales = np.array([1, 1, 2, 2], np.float32)
        if self.opset < 9:
            return self.add("Upsample", x, mode="nearest", scales=[float(scale) for scale in scales])  # type: ignore[arg-type]
        if self.opset == 9:
            return self.add("Upsample", x, self.constant(scales), mode="nearest")
        if self.opset == 10:
            return self.add("Resize", x, self.constant(scales), mode="nearest")
        more = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
        # Only from 13 on may the region of interest be left out.
        region = "" if self.opset >= 13 else self.constant(np.zeros(0, np.float32))
        return self.add("Resize", x, region, self.constant(scales), **more)

    def pad(self, x: str, *pads: int) -> str:
        """Pad with zeros."""
        return self._listed("Pad", x, "pads", pads, 11)

    def cut(self, x: str, axis: int, start: int, end: int) -> str:
        """Slice."""
        if self.opset < 10:
            return self.add("Slice", x, axes=[axis], starts=[start], ends=[end])
        return self.add("Slice", x, self.axes(start), self.axes(end), self.axes(axis))

    def halves(self, x: str, axis: int, size: int) -> list[str]:
        """Split in two of `size` each."""
        if self.opset < 13:
            return self.several("Split", [x], 2, axis=axis, split=[size, size])
        if self.opset >= 18:
            return self.several("Split", [x], 2, axis=axis, num_outputs=2)
        return self.several("Split", [x, self.axes(size, size)], 2, axis=axis)

    def dated_gelu(self, x: str) -> str:
        """GELU as this operator set can write it; Erf is there from 9 on."""
        if self.opset >= 20:
            return self.add("Gelu", x)
        return self.gelu(x) if self.opset >= 9 else self.add("Mul", x, self.add("Sigmoid", x))

    def finished(self, shape: Sequence[Dimension], *outputs: tuple[str, int]) -> onnx.ModelProto:
        """The checked model of this operator set, with the input ``x`` of `shape`; `outputs`: (tensor, rank)."""
        ir_version = IR_VERSIONS.get(self.opset, 10)
        inputs = [helper.make_tensor_value_info("x", F, shape)]
        if ir_version < 4:
            inputs += [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in self.weights]
        graph = helper.make_graph(
            self.nodes,
            "dated",
            inputs,
            [helper.make_tensor_value_info(name, F, [None] * rank) for name, rank in outputs],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
        onnx.checker.check_model(made, full_check=True)
        return made


def vision(opset: int) -> onnx.ModelProto:
    """Convolutions with batch norm, pools, Clip and Dropout, a classifier and Softmax."""
    net = Dated(opset=opset)
    x = net.add("Relu", net.dated_norm(net.conv("x", 3, CHANNELS), CHANNELS))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.dated_clip(net.dated_norm(net.conv(x, CHANNELS, CHANNELS), CHANNELS), 0.0, 6.0)
    x = net.add("AveragePool", net.dropout(x), kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Flatten", x, axis=1)
    x = net.add("Relu", net.gemm(x, CHANNELS * (SIZE // 4) ** 2, FEATURES))
    y = net.gemm(x, FEATURES, 6)
    return net.finished(("batch", 3, SIZE, SIZE), (net.add("Softmax", y, axis=1), 2), (y, 2))


def sequence(opset: int) -> onnx.ModelProto:
    """A block of a transformer, without heads, on three axes."""
    net = Dated(opset=opset)
    x = net.dated_layer_norm(net.squeeze(net.unsqueeze("x", 1), 1), FEATURES)
    query, key, value = (net.linear(x, FEATURES, FEATURES) for _ in range(3))
    scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
    scores = net.add("Mul", scores, net.number(FEATURES**-0.5))
    x = net.add("Add", x, net.add("MatMul", net.add("Softmax", scores, axis=2), value))
    x = net.add("Add", x, net.linear(net.dated_gelu(net.linear(x, FEATURES, 2 * FEATURES)), 2 * FEATURES, FEATURES))
    y = net.total(x, 1, keepdims=0)
    return net.finished(("batch", "tokens", FEATURES), (y, 2), (net.dated_layer_norm(x, FEATURES), 3))


def segmentation(opset: int) -> onnx.ModelProto:
    """An encoder and a decoder with a skip connection: Pad, Slice, Split, Concat, and twice the size by Upsample."""
    net = Dated(opset=opset)
    skip = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    x = net.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Relu", net.conv(x, CHANNELS, 2 * CHANNELS, bias=True))
    left, right = net.halves(x, 1, CHANNELS)
    x = net.doubled(net.add("Add", left, net.add("Sigmoid", right)))
    x = net.add("Concat", x, net.cut(skip, 1, 2, CHANNELS), axis=1)
    x = net.pad(x, 0, 0, 1, 1, 0, 0, 1, 1)
    weight = net.weight(CHANNELS, 2 * CHANNELS - 2, 3, 3, fan_in=18 * CHANNELS)
    x = net.add("Relu", net.add("Conv", x, weight, net.small(CHANNELS), kernel_shape=[3, 3]))
    y = net.add("Sigmoid", net.conv(x, CHANNELS, 2, kernel=1, bias=True))
    return net.finished(("batch", 3, SIZE, SIZE), (y, 4), (net.mean(x, 2, 3, keepdims=0), 2))


def tokens(samples: int) -> dict[str, Array]:
    """Values of shape (samples, 5, 32)."""
    return {"x": features(samples * 5)["x"].reshape(samples, 5, FEATURES)}


NETS: Mapping[str, tuple[Callable[[int], onnx.ModelProto], Callable[[int], dict[str, Array]]]] = {
    "vision": (vision, images),
    "sequence": (sequence, tokens),
    "segmentation": (segmentation, images),
}
