"""Tiny ONNX models shared by the tests: one per structure that conversion has to handle, deterministic by seed.

Every builder returns an ``onnx.ModelProto`` with a dynamic batch (and sequence, where there is one). `CASES` holds
all of them with matching inputs, for tests that state a law and run it over every structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
SIZE = 8
CHANNELS = 8
FEATURES = 32
TOKENS = 12
VOCABULARY = 50
CLASSES = 6

Array = NDArray[np.generic]
Dimension = int | str


@dataclass
class Net:
    """A model in the making: `add` appends a node and gives its output's name, `weight` an initializer."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def add(self, op: str, *inputs: str, **attributes: int | float | str | Sequence[int]) -> str:
        """Append an `op` node named after its position."""
        name = f"{op.lower()}_{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [f"{name}_out"], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return f"{name}_out"

    def constant(self, value: NDArray[np.generic]) -> str:
        """An initializer that holds `value`."""
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def number(self, value: float) -> str:
        """A float scalar."""
        return self.constant(np.array(value, np.float32))

    def axes(self, *values: int) -> str:
        """An int64 vector: axes, a shape, starts or ends."""
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int, fan_in: int = 1) -> str:
        """Normal values of shape `shape` and variance 1 / `fan_in`, each output channel with its own scale."""
        values = self._random.standard_normal(shape) / sqrt(fan_in)
        spread = self._random.uniform(0.5, 1.5, (shape[0], *(1 for _ in shape[1:])))
        return self.constant((values * spread).astype(np.float32))

    def small(self, *shape: int) -> str:
        """Small normal values, as biases have."""
        return self.constant((0.1 * self._random.standard_normal(shape)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        """Values around 1, as variances and gains have."""
        return self.constant(self._random.uniform(0.6, 1.4, shape).astype(np.float32))

    def conv(self, x: str, inputs: int, outputs: int, *, kernel: int = 3, groups: int = 1, bias: bool = False) -> str:
        """A convolution that keeps height and width."""
        per_group = inputs // groups
        filters = self.weight(outputs, per_group, kernel, kernel, fan_in=per_group * kernel * kernel)
        operands = [x, filters, self.small(outputs)] if bias else [x, filters]
        return self.add("Conv", *operands, pads=[kernel // 2] * 4, kernel_shape=[kernel, kernel], group=groups)

    def norm(self, x: str, channels: int) -> str:
        """BatchNormalization as in inference."""
        statistics = (
            self.positive(channels),
            self.small(channels),
            self.small(channels),
            self.positive(channels),
        )
        return self.add("BatchNormalization", x, *statistics, epsilon=1e-5)

    def conv_norm(self, x: str, inputs: int, outputs: int, *, kernel: int = 3, groups: int = 1) -> str:
        """Convolution and BatchNormalization."""
        return self.norm(self.conv(x, inputs, outputs, kernel=kernel, groups=groups), outputs)

    def clip6(self, x: str) -> str:
        """ReLU6."""
        return self.add("Clip", x, self.number(0.0), self.number(6.0))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """MatMul and bias, as PyTorch exports a linear layer over more than two axes."""
        # Stored (inputs, outputs): the output channel is the last axis here.
        matrix = (self._random.standard_normal((inputs, outputs)) / sqrt(inputs)).astype(np.float32)
        return self.add("Add", self.add("MatMul", x, self.constant(matrix)), self.small(outputs))

    def gelu(self, x: str) -> str:
        """GELU spelled out with Erf, as exported below opset 20."""
        erf = self.add("Erf", self.add("Div", x, self.number(sqrt(2))))
        return self.add("Mul", self.add("Mul", x, self.add("Add", erf, self.number(1.0))), self.number(0.5))

    def layer_norm(self, x: str, features: int, *, decomposed: bool) -> str:
        """LayerNormalization over the last axis, as one node or spelled out."""
        gain, bias = self.positive(features), self.small(features)
        if not decomposed:
            return self.add("LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-5)
        centred = self.add("Sub", x, self.add("ReduceMean", x, self.axes(-1)))
        squares = self.add("Pow", centred, self.number(2.0))
        variance = self.add("Add", self.add("ReduceMean", squares, self.axes(-1)), self.number(1e-5))
        normal = self.add("Div", centred, self.add("Sqrt", variance))
        return self.add("Add", self.add("Mul", normal, gain), bias)

    def heads(self, x: str, heads: int, width: int, *, order: Sequence[int] = (0, 2, 1, 3)) -> str:
        """(batch, sequence, heads·width) to (batch, heads, sequence, width), or another `order` of the four axes."""
        return self.add("Transpose", self.add("Reshape", x, self.axes(0, 0, heads, width)), perm=list(order))

    def attention(self, x: str, bias: str, features: int, heads: int) -> str:
        """Self-attention whose scores get `bias` added (0 or a large negative number)."""
        width = features // heads
        query = self.heads(self.linear(x, features, features), heads, width)
        key = self.heads(self.linear(x, features, features), heads, width, order=(0, 2, 3, 1))
        value = self.heads(self.linear(x, features, features), heads, width)
        scores = self.add("Mul", self.add("MatMul", query, key), self.number(1 / sqrt(width)))
        weights = self.add("Softmax", self.add("Add", scores, bias), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.linear(self.add("Reshape", mixed, self.axes(0, 0, features)), features, features)

    def model(
        self,
        inputs: Mapping[str, tuple[int, Sequence[Dimension]]],
        outputs: Mapping[str, tuple[str, Sequence[Dimension]]],
    ) -> onnx.ModelProto:
        """The checked model. `inputs`: name → (ONNX type, shape); `outputs`: name → (inner tensor, shape)."""
        renamed = {inner: name for name, (inner, _) in outputs.items()}
        for node in self.nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(made, full_check=True)
        return made


def _image_model(net: Net, output: str, channels: int = CHANNELS) -> onnx.ModelProto:
    shape = ("batch", channels, SIZE, SIZE)
    return net.model({"x": (TensorProto.FLOAT, ("batch", 3, SIZE, SIZE))}, {"y": (output, shape)})


def _feature_model(net: Net, output: str, outputs: int = CLASSES) -> onnx.ModelProto:
    return net.model({"x": (TensorProto.FLOAT, ("batch", FEATURES))}, {"y": (output, ("batch", outputs))})


def conv_bn_relu(seed: int = 0) -> onnx.ModelProto:
    """Convolution, BatchNormalization, ReLU, twice."""
    net = Net(seed)
    x = net.add("Relu", net.conv_norm("x", 3, CHANNELS))
    return _image_model(net, net.add("Relu", net.conv_norm(x, CHANNELS, CHANNELS)))


def depthwise_separable(seed: int = 0) -> onnx.ModelProto:
    """A stem, then a depthwise and a pointwise convolution, each with BatchNormalization and ReLU6."""
    net = Net(seed)
    x = net.clip6(net.conv_norm("x", 3, CHANNELS))
    x = net.clip6(net.conv_norm(x, CHANNELS, CHANNELS, groups=CHANNELS))
    return _image_model(net, net.clip6(net.conv_norm(x, CHANNELS, CHANNELS, kernel=1)))


def residual(seed: int = 0) -> onnx.ModelProto:
    """A stem, then conv-BN-ReLU, conv-BN, add of the block's input, ReLU."""
    net = Net(seed)
    stem = net.add("Relu", net.conv_norm("x", 3, CHANNELS))
    x = net.add("Relu", net.conv_norm(stem, CHANNELS, CHANNELS))
    x = net.conv_norm(x, CHANNELS, CHANNELS)
    return _image_model(net, net.add("Relu", net.add("Add", x, stem)))


def concat(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions of one input with very different ranges, concatenated, read by a third."""
    net = Net(seed)
    left = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    right = net.add("Mul", net.conv("x", 3, CHANNELS, kernel=1, bias=True), net.number(4.0))
    both = net.add("Concat", left, right, axis=1)
    return _image_model(net, net.conv(both, 2 * CHANNELS, CHANNELS, bias=True))


def concat_of_convs(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions of one input concatenated directly, read by a third."""
    net = Net(seed)
    left = net.conv("x", 3, CHANNELS, bias=True)
    right = net.conv("x", 3, CHANNELS, kernel=1, bias=True)
    both = net.add("Concat", left, right, axis=1)
    return _image_model(net, net.conv(both, 2 * CHANNELS, CHANNELS, bias=True))


def pooled_classifier(seed: int = 0) -> onnx.ModelProto:
    """Convolutions with max and average pooling, then flatten and a Gemm as the classifier."""
    net = Net(seed)
    x = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Relu", net.conv(x, CHANNELS, CHANNELS, bias=True))
    x = net.add("Flatten", net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), axis=1)
    features = CHANNELS * (SIZE // 4) ** 2
    logits = net.add("Gemm", x, net.weight(CLASSES, features, fan_in=features), net.small(CLASSES), transB=1)
    return net.model({"x": (TensorProto.FLOAT, ("batch", 3, SIZE, SIZE))}, {"logits": (logits, ("batch", CLASSES))})


def squeeze_excite(seed: int = 0) -> onnx.ModelProto:
    """A depthwise block with hard-swish and a squeeze-and-excite gate, as in MobileNetV3."""
    net = Net(seed)
    x = net.add("HardSwish", net.conv_norm("x", 3, CHANNELS))
    x = net.add("HardSwish", net.conv_norm(x, CHANNELS, CHANNELS, groups=CHANNELS))
    gate = net.add("Relu", net.conv(net.add("GlobalAveragePool", x), CHANNELS, 4, kernel=1, bias=True))
    gate = net.add("HardSigmoid", net.conv(gate, 4, CHANNELS, kernel=1, bias=True), alpha=1 / 6, beta=0.5)
    return _image_model(net, net.conv_norm(net.add("Mul", x, gate), CHANNELS, CHANNELS, kernel=1))


def mlp_gelu(seed: int = 0) -> onnx.ModelProto:
    """Two linear layers (MatMul and bias) with a GELU spelled out between them."""
    net = Net(seed)
    return _feature_model(net, net.linear(net.gelu(net.linear("x", FEATURES, 2 * FEATURES)), 2 * FEATURES, CLASSES))


def gemm(seed: int = 0, *, transposed: bool = True) -> onnx.ModelProto:
    """Two Gemm layers with ReLU between them, weights (outputs, inputs) if `transposed`, else (inputs, outputs)."""
    net = Net(seed)
    hidden = 2 * FEATURES
    first, second = ((hidden, FEATURES), (CLASSES, hidden)) if transposed else ((FEATURES, hidden), (hidden, CLASSES))
    x = net.add("Gemm", "x", net.weight(*first, fan_in=FEATURES), net.small(hidden), transB=int(transposed))
    x = net.add("Relu", x)
    y = net.add("Gemm", x, net.weight(*second, fan_in=hidden), net.small(CLASSES), transB=int(transposed))
    return _feature_model(net, y)


def transformer(
    seed: int = 0, *, layers: int = 2, features: int = FEATURES, heads: int = 4, decomposed: bool = False
) -> onnx.ModelProto:
    """A BERT-like encoder with a classifier over the mean of its tokens.

    Inputs ``input_ids`` and ``attention_mask`` (batch, sequence), output ``logits`` (batch, 6). With `decomposed`,
    LayerNormalization is spelled out, as older exporters do; otherwise it is one node.
    """
    net = Net(seed)
    mask = net.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    missing = net.add("Mul", net.add("Sub", net.number(1.0), mask), net.number(-1e4))
    bias = net.add("Unsqueeze", missing, net.axes(1, 2))
    x = net.add("Gather", net.weight(VOCABULARY, features), "input_ids", axis=0)
    x = net.layer_norm(x, features, decomposed=decomposed)
    for _ in range(layers):
        x = net.add("Add", x, net.attention(x, bias, features, heads))
        x = net.layer_norm(x, features, decomposed=decomposed)
        hidden = net.gelu(net.linear(x, features, 4 * features))
        x = net.add("Add", x, net.linear(hidden, 4 * features, features))
        x = net.layer_norm(x, features, decomposed=decomposed)
    column = net.add("Unsqueeze", mask, net.axes(2))
    total = net.add("ReduceSum", net.add("Mul", x, column), net.axes(1), keepdims=0)
    mean = net.add("Div", total, net.add("ReduceSum", column, net.axes(1), keepdims=0))
    logits = net.add("Gemm", mean, net.weight(CLASSES, features, fan_in=features), net.small(CLASSES), transB=1)
    tokens = (TensorProto.INT64, ("batch", "sequence"))
    return net.model({"input_ids": tokens, "attention_mask": tokens}, {"logits": (logits, ("batch", CLASSES))})


def images(samples: int, seed: int = 0) -> dict[str, Array]:
    """Inputs for the image models: ``x`` of shape (samples, 3, 8, 8)."""
    return {"x": np.random.default_rng(seed).standard_normal((samples, 3, SIZE, SIZE)).astype(np.float32)}


def features(samples: int, seed: int = 0) -> dict[str, Array]:
    """Inputs for the models of vectors: ``x`` of shape (samples, 32)."""
    return {"x": np.random.default_rng(seed).standard_normal((samples, FEATURES)).astype(np.float32)}


def tokens(samples: int, seed: int = 0, *, length: int = TOKENS) -> dict[str, Array]:
    """Inputs for the transformer: `length` tokens of which the last few may be padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, VOCABULARY, (samples, length))
    used = random.integers(length // 2, length + 1, (samples, 1))
    mask = (np.arange(length) < used).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    """A structure: how to build it from a seed, and inputs for it (samples, seed)."""

    model: Callable[[int], onnx.ModelProto]
    inputs: Callable[[int, int], dict[str, Array]]


CASES: Mapping[str, Case] = {
    "conv_bn_relu": Case(conv_bn_relu, images),
    "depthwise_separable": Case(depthwise_separable, images),
    "residual": Case(residual, images),
    "concat": Case(concat, images),
    "concat_of_convs": Case(concat_of_convs, images),
    "pooled_classifier": Case(pooled_classifier, images),
    "squeeze_excite": Case(squeeze_excite, images),
    "mlp_gelu": Case(mlp_gelu, features),
    "gemm_transposed": Case(gemm, features),
    "gemm_plain": Case(lambda seed: gemm(seed, transposed=False), features),
    "transformer": Case(transformer, tokens),
    "transformer_decomposed": Case(lambda seed: transformer(seed, decomposed=True), tokens),
}
