"""Models with one unusual thing each, which conversion has to survive: `ODD` holds all of them with inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders import CHANNELS, FEATURES, SIZE, Array, Dimension, Net, features, images

Float = NDArray[np.float32]
F = TensorProto.FLOAT


@dataclass(frozen=True)
class Odd:
    """A model, inputs for it (samples → arrays), and how far int8 may be off (relative)."""

    model: Callable[[], onnx.ModelProto]
    inputs: Callable[[int], dict[str, Array]]
    tolerance: float = 0.04


def given(shape: Sequence[int], name: str = "x", seed: int = 0) -> Callable[[int], dict[str, Array]]:
    """Normal values of shape (samples, *shape)."""

    def make(samples: int) -> dict[str, Array]:
        return {name: np.random.default_rng(seed).standard_normal((samples, *shape)).astype(np.float32)}

    return make


def sequence(samples: int) -> dict[str, Array]:
    """Normal values of shape (samples, 5, 32)."""
    return given((5, FEATURES))(samples)


def rows(samples: int) -> dict[str, Array]:
    """Inputs for models of vectors."""
    return features(samples)


def pictures(samples: int) -> dict[str, Array]:
    """Inputs for models of images."""
    return images(samples)


def finish(
    net: Net, *outputs: str, x: Sequence[Dimension] = ("batch", 3, SIZE, SIZE), rank: int | None = None
) -> onnx.ModelProto:
    """`net` with one input ``x`` and outputs y0, y1, ... of a rank but no sizes of their own."""
    named = {f"y{number}": (name, [None] * (rank or len(x))) for number, name in enumerate(outputs)}
    return net.model({"x": (F, x)}, named)  # type: ignore[arg-type]


def _conv(
    inputs: int, outputs: int, kernel: Sequence[int], **attributes: int | str | Sequence[int]
) -> Callable[..., str]:
    def add(net: Net, x: str) -> str:
        group = attributes.get("group", 1)
        assert isinstance(group, int)
        weight = net.weight(outputs, inputs // group, *kernel, fan_in=int(np.prod(kernel)) * inputs // group)
        return net.add("Conv", x, weight, net.small(outputs), **attributes)

    return add


def _two_convs(
    first: Callable[..., str], second: Callable[..., str], x: Sequence[Dimension]
) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        return finish(net, net.add("Relu", second(net, net.add("Relu", first(net, "x")))), x=x)

    return build


def _shared_weights() -> onnx.ModelProto:
    net = Net()
    weight = net.weight(3, 3, 3, 3, fan_in=27)
    left = net.norm(net.add("Conv", "x", weight, pads=[1, 1, 1, 1]), 3)
    right = net.add("Conv", net.add("Relu", left), weight, pads=[1, 1, 1, 1])
    return finish(net, net.add("Relu", net.add("Relu", right)))


def _read_twice() -> onnx.ModelProto:
    net = Net()
    x = net.conv("x", 3, CHANNELS, bias=True)
    return finish(net, net.add("Mul", x, net.add("Sigmoid", x)))


def _also_output() -> onnx.ModelProto:
    net = Net()
    x = net.conv("x", 3, CHANNELS, bias=True)
    y = net.add("Relu", x)
    return finish(net, net.add("Relu", net.conv(y, CHANNELS, CHANNELS)), x)


def _operand_is_output() -> onnx.ModelProto:
    net = Net()
    first = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    pooled = net.add("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
    return finish(net, net.add("Relu", net.conv(pooled, CHANNELS, CHANNELS)), pooled)


def _input_is_output() -> onnx.ModelProto:
    model = finish(net := Net(), net.add("Relu", net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))))
    model.graph.output.append(model.graph.input[0])
    return model


def _input_read_often() -> onnx.ModelProto:
    net = Net()
    branches = [net.add("Relu", net.conv("x", 3, CHANNELS, kernel=kernel, bias=True)) for kernel in (1, 3, 5)]
    return finish(net, net.add("Relu", net.add("Sum", *branches)))


def _one_channel() -> onnx.ModelProto:
    net = Net()
    x = net.add("Relu", net.conv("x", 3, 1, bias=True))
    x = net.add("Relu", net.conv(x, 1, CHANNELS, bias=True))
    return finish(net, net.add("Relu", net.add("Relu", net.conv(x, CHANNELS, CHANNELS))))


def _dilated_pool() -> onnx.ModelProto:
    net = Net()
    x = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    x = net.add("AveragePool", x, kernel_shape=[2, 2], dilations=[2, 2])
    return finish(net, net.add("Relu", net.add("Relu", net.conv(x, CHANNELS, CHANNELS))))


def _inception() -> onnx.ModelProto:
    net = Net()
    x = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    left = net.add("MaxPool", net.clip6(net.conv(x, CHANNELS, CHANNELS)), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    right = net.conv(x, CHANNELS, CHANNELS, kernel=1, bias=True)
    both = net.add("Concat", left, right, axis=1)
    return finish(net, net.add("Relu", net.add("Relu", net.conv(both, 2 * CHANNELS, CHANNELS))))


def _hard_tanh() -> onnx.ModelProto:
    net = Net()
    x = net.add("Clip", net.conv("x", 3, CHANNELS, bias=True), net.number(-0.7), net.number(0.3))
    x = net.add("Clip", net.conv(x, CHANNELS, CHANNELS, bias=True), "", net.number(0.1))
    return finish(net, net.add("Relu", net.conv(x, CHANNELS, CHANNELS)))


def _zero_channels() -> onnx.ModelProto:
    net = Net()
    weight = net._random.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
    weight[::2] = 0
    bias = np.linspace(-1, 1, CHANNELS, dtype=np.float32)
    x = net.add("Conv", "x", net.constant(weight), net.constant(bias), pads=[1, 1, 1, 1])
    dead = net.constant(np.zeros((CHANNELS, CHANNELS, 1, 1), np.float32))
    return finish(net, net.add("Relu", net.add("Add", x, net.add("Conv", x, dead))))


def _product(
    shape: Sequence[Dimension],
    *,
    bias: Sequence[int] | None = (2 * FEATURES,),
    then: str = "",
    bias_first: bool = False,
    rank: int | None = None,
) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.add("MatMul", "x", _matrix(net, FEATURES, 2 * FEATURES))
        if bias is not None:
            vector = net.small(*bias)
            x = net.add("Add", vector, x) if bias_first else net.add("Add", x, vector)
        if then == "Clip":
            x = net.clip6(x)
        elif then:
            x = net.add(then, x)
        return finish(net, x, x=shape, rank=rank)

    return build


def _matrix(net: Net, inputs: int, outputs: int) -> str:
    return net.constant((net._random.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32))


def _mlp(act: str, shape: Sequence[Dimension]) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.add(act, net.linear("x", FEATURES, 2 * FEATURES))
        return finish(net, net.linear(x, 2 * FEATURES, FEATURES), x=shape)

    return build


def _bias_read_twice() -> onnx.ModelProto:
    net = Net()
    x = net.linear("x", FEATURES, FEATURES)
    return finish(net, net.add("Add", net.add("Relu", x), net.add("Tanh", x)), x=("batch", "tokens", FEATURES))


def _product_read_twice() -> onnx.ModelProto:
    net = Net()
    x = net.add("MatMul", "x", _matrix(net, FEATURES, FEATURES))
    return finish(net, net.add("Add", x, net.small(FEATURES)), x, x=("batch", "tokens", FEATURES))


def _two_inputs() -> onnx.ModelProto:
    net = Net()
    left, right = net.linear("x", FEATURES, FEATURES), net.linear("z", FEATURES, FEATURES)
    shape = ("batch", "tokens", FEATURES)
    y = net.add("Tanh", net.add("Concat", left, right, axis=2))
    return net.model({"x": (F, shape), "z": (F, shape)}, {"y0": (y, [None] * 3)})  # type: ignore[list-item]


def _vague_names() -> onnx.ModelProto:
    net = Net()
    left, right = net.linear("x", FEATURES, FEATURES), net.linear("z", 2 * FEATURES, CHANNELS)
    return net.model(
        {"x": (F, ("?", "?", FEATURES)), "z": (F, ("?", "?", 2 * FEATURES))},
        {"y0": (left, [None] * 3), "y1": (right, [None] * 3)},  # type: ignore[list-item]
    )


def _pair(left: tuple[int, ...], right: tuple[int, ...]) -> Callable[[int], dict[str, Array]]:
    def make(samples: int) -> dict[str, Array]:
        return {**given(left)(samples), **given(right, "z", 1)(samples)}

    return make


def one_gemm(*, bias: Sequence[int] | None, then: str = "", transposed: bool = True) -> Callable[[], onnx.ModelProto]:
    """One Gemm, with an activation behind it where `then` names one."""

    def build() -> onnx.ModelProto:
        net = Net()
        shape = (FEATURES // 2, FEATURES) if transposed else (FEATURES, FEATURES // 2)
        operands = ["x", net.weight(*shape, fan_in=FEATURES), *([] if bias is None else [net.small(*bias)])]
        x = net.add("Gemm", *operands, transB=int(transposed))
        return finish(net, net.add(then, x) if then else x, x=("batch", FEATURES))

    return build


def deep_gemm(act: str) -> Callable[[], onnx.ModelProto]:
    """Two Gemm layers with `act` between them."""

    def build() -> onnx.ModelProto:
        net = Net()
        x = net.add(act, net.add("Gemm", "x", net.weight(FEATURES, FEATURES, fan_in=FEATURES), transB=1))
        y = net.add("Gemm", x, net.weight(FEATURES, FEATURES, fan_in=FEATURES), net.small(FEATURES), transB=1)
        return finish(net, y, x=("batch", FEATURES))

    return build


def _gram() -> onnx.ModelProto:
    net = Net()
    return finish(net, net.add("MatMul", "x", "x"), x=("batch", 8, 8))


def _doubled() -> onnx.ModelProto:
    net = Net()
    x = net.conv("x", 3, CHANNELS, bias=True)
    x = net.add("Concat", net.add("Add", x, x), net.add("Mul", x, x), x, x, axis=1)
    return finish(net, net.add("Neg", net.conv(x, 4 * CHANNELS, CHANNELS)))


def _pools(rank: int) -> Callable[[], onnx.ModelProto]:
    """Every pool between convolutions of `rank` spatial axes."""

    def build() -> onnx.ModelProto:
        net = Net()
        first, last = _conv(3, 8, [3] * rank, pads=[1] * 2 * rank), _conv(8, 4, [1] * rank)
        x = net.add("MaxPool", net.add("Relu", first(net, "x")), kernel_shape=[2] * rank, strides=[2] * rank)
        x = net.add("AveragePool", x, kernel_shape=[3] * rank, pads=[1] * 2 * rank, count_include_pad=1)
        y = last(net, x)
        return finish(net, net.add("Neg", y), last(net, net.add("GlobalAveragePool", x)), x=("b", 3, *["n"] * rank))

    return build


def _clipped_scores(act: str) -> Callable[[], onnx.ModelProto]:
    """An activation behind a product of two activations."""

    def build() -> onnx.ModelProto:
        net = Net()
        scores = net.add("MatMul", "x", net.add("Transpose", net.linear("x", FEATURES, FEATURES), perm=[0, 2, 1]))
        scores = net.clip6(scores) if act == "Clip" else net.add(act, scores)
        return finish(net, net.add("MatMul", scores, "x"), x=("batch", "tokens", FEATURES))

    return build


def _infinite_bias() -> onnx.ModelProto:
    net = Net()
    mask = np.zeros(FEATURES, np.float32)
    mask[-3:] = -np.inf
    x = net.add("Add", net.add("MatMul", "x", _matrix(net, FEATURES, FEATURES)), net.constant(mask))
    return finish(net, net.add("Softmax", x, axis=-1), x=("batch", "tokens", FEATURES))


def _masked(fill: str) -> Callable[[], onnx.ModelProto]:
    """Attention under a causal mask of -inf, which is a constant or made at run time."""

    def build() -> onnx.ModelProto:
        net = Net()
        query, key, value = (net.linear("x", FEATURES, FEATURES) for _ in range(3))
        scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
        keep = net.constant(np.tri(5, dtype=np.bool_))
        zero, endless = net.number(0.0), net.number(-np.inf)
        if fill == "Where on scores":
            scores = net.add("Where", keep, scores, endless)
        else:
            # One more input of the graph's values, so that no constant folding hides the addition.
            few = net.add("Mul", net.add("ReduceMax", "x", net.axes(0, 1, 2), keepdims=0), zero)
            scores = net.add("Add", scores, net.add("Where", keep, few, endless))
        mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), value)
        return finish(net, net.linear(mixed, FEATURES, FEATURES), x=("batch", 5, FEATURES))

    return build


def _huge_bias() -> onnx.ModelProto:
    net = Net()
    mask = np.zeros(FEATURES, np.float32)
    mask[-3:] = np.finfo(np.float32).min
    x = net.add("Add", net.add("MatMul", "x", _matrix(net, FEATURES, FEATURES)), net.constant(mask))
    return finish(net, net.add("Softmax", x, axis=-1), x=("batch", "tokens", FEATURES))


def _behind(*ops: str) -> Callable[[], onnx.ModelProto]:
    """A product whose weight stands behind `ops`."""

    def build() -> onnx.ModelProto:
        net = Net()
        matrix = net._random.standard_normal((FEATURES, FEATURES)) / np.sqrt(FEATURES)
        weight = net.constant(matrix.astype(np.float64 if "Cast" in ops else np.float32))
        for op in ops:
            match op:
                case "Cast":
                    weight = net.add("Cast", weight, to=int(F))
                case "Reshape":
                    weight = net.add("Reshape", weight, net.axes(FEATURES, FEATURES))
                case "Transpose":
                    weight = net.add("Transpose", weight, perm=[1, 0])
                case _:
                    weight = net.add(op, weight)
        return finish(net, net.add("Add", net.add("MatMul", "x", weight), net.small(FEATURES)), x=("batch", FEATURES))

    return build


def _other_domain() -> onnx.ModelProto:
    net = Net()
    x = net.linear("x", FEATURES, FEATURES)
    model = finish(net, net.linear(net.add("Relu", x), FEATURES, FEATURES), x=("batch", "tokens", FEATURES))
    (act,) = (node for node in model.graph.node if node.op_type == "Relu")
    act.op_type, act.domain = "FastGelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _subgraphs() -> onnx.ModelProto:
    """A Loop and an If that read tensors and weights of the graph around them."""
    net = Net()
    weight = _matrix(net, FEATURES, FEATURES)
    inner = net.constant((0.1 * np.eye(FEATURES)).astype(np.float32))
    h = net.add("Gemm", net.add("Gemm", "x", weight), weight)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", inner], ["product"], name="gemm_0"),
            helper.make_node("Add", ["product", h], ["next"], name="body_add"),
            helper.make_node("Identity", ["go"], ["go_on"], name="body_go"),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", F, None),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", F, None)],
    )
    looped = net.add("Loop", net.constant(np.array(3, np.int64)), "", net.add("Gemm", h, weight))
    net.nodes[-1].attribute.append(helper.make_attribute("body", body))
    positive = net.add("Greater", net.add("ReduceSum", looped, keepdims=0), net.number(0.0))
    chosen = net.add("If", positive)
    for branch, op in (("then_branch", "Identity"), ("else_branch", "Neg")):
        graph = helper.make_graph(
            [helper.make_node(op, [looped], ["picked"])], branch, [], [helper.make_tensor_value_info("picked", F, None)]
        )
        net.nodes[-1].attribute.append(helper.make_attribute(branch, graph))
    return finish(net, net.add("Gemm", chosen, weight), x=("batch", FEATURES))


def _identities() -> onnx.ModelProto:
    """Identity from one output to another, in the middle, and before an output."""
    net = Net()
    x = net.add("Identity", net.conv("x", 3, CHANNELS, bias=True))
    x = net.add("Relu", x)
    return finish(net, x, net.add("Identity", x), net.add("Identity", net.add("Neg", x)))


def _static() -> onnx.ModelProto:
    net = Net()
    x = net.linear("x", FEATURES, FEATURES)
    return finish(net, net.linear(net.add("Relu", x), FEATURES, FEATURES), x=(4, 5, FEATURES))


def _stale_shapes() -> onnx.ModelProto:
    """The batch was made dynamic by hand, the shapes between the nodes still say 1."""
    net = Net()
    hidden = net.add("Tanh", net.add("MatMul", "x", _matrix(net, FEATURES, FEATURES)))
    made = finish(net, net.add("MatMul", hidden, _matrix(net, FEATURES, FEATURES)), x=(1, 5, FEATURES))
    made = onnx.shape_inference.infer_shapes(made)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return made


def _named_like_ours() -> onnx.ModelProto:
    """Tensors and nodes already have the names that conversion would give."""
    net = Net()
    x = net.add("Relu", net.linear("x", FEATURES, FEATURES))
    made = finish(net, net.linear(x, FEATURES, FEATURES), x=("batch", "tokens", FEATURES))
    wanted = {"matmul_0_out": "x.rows", "add_1_out": "x.uint8.codes", "relu_2_out": "x.rows.uint8.scale"}
    for node in made.graph.node:
        node.input[:] = [wanted.get(name, name) for name in node.input]
        node.output[:] = [wanted.get(name, name) for name in node.output]
    made.graph.node[2].name = "x.uint8.quantize"
    return made


def in_type(model: onnx.ModelProto, dtype: type[np.floating]) -> onnx.ModelProto:
    """`model` with all floats in `dtype`."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == F:
            value.type.tensor_type.elem_type = code
    for tensor in copy.graph.initializer:
        if tensor.data_type == F:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    return copy


_TOKENS: Sequence[Dimension] = ("batch", "tokens", FEATURES)
ODD: Mapping[str, Odd] = {
    "conv 1-D": Odd(
        _two_convs(_conv(3, 8, [3], pads=[1, 1]), _conv(8, 4, [5], strides=[2]), ("b", 3, "t")), given((3, 20))
    ),
    "conv 3-D": Odd(
        _two_convs(_conv(2, 8, [3, 3, 3], pads=[1] * 6), _conv(8, 4, [1, 1, 1]), ("b", 2, 5, 5, 5)), given((2, 5, 5, 5))
    ),
    "conv grouped and strided": Odd(
        _two_convs(
            _conv(4, 8, [3, 3], group=2, strides=[2, 2], pads=[1, 0, 1, 0]),
            _conv(8, 8, [3, 1], group=4),
            ("b", 4, 9, 9),
        ),
        given((4, 9, 9)),
    ),
    "conv with auto_pad": Odd(
        _two_convs(
            _conv(3, 8, [3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
            _conv(8, 8, [3, 3], auto_pad="SAME_LOWER"),
            ("b", 3, "h", "w"),
        ),
        given((3, 9, 11)),
    ),
    "conv dilated": Odd(
        _two_convs(_conv(3, 8, [3, 3], dilations=[2, 2]), _conv(8, 8, [3, 3], dilations=[1, 2]), ("b", 3, 12, 12)),
        given((3, 12, 12)),
    ),
    "shared weights": Odd(_shared_weights, pictures),
    "conv read twice": Odd(_read_twice, pictures),
    "conv is an output too": Odd(_also_output, pictures),
    "operand is an output": Odd(_operand_is_output, pictures),
    "input is an output": Odd(_input_is_output, pictures),
    "input read by three": Odd(_input_read_often, pictures),
    "one channel": Odd(_one_channel, pictures),
    "dilated pool between codes": Odd(_dilated_pool, pictures),
    "inception": Odd(_inception, pictures),
    "clip below and above zero": Odd(_hard_tanh, pictures),
    "channels of zeros": Odd(_zero_channels, pictures),
    "product of matrices": Odd(_product(("batch", FEATURES)), rows),
    "product of sequences": Odd(_product(_TOKENS), sequence),
    "product of rank 4": Odd(_product(("a", "b", "c", FEATURES)), given((2, 3, FEATURES))),
    "product, fixed sizes": Odd(_static, lambda samples: sequence(4)),
    "product, one size unnamed": Odd(_product((None, 5, FEATURES)), sequence),  # type: ignore[arg-type]
    "product, no size named": Odd(_product((None, None, None)), sequence),  # type: ignore[arg-type]
    "product without bias": Odd(_product(_TOKENS, bias=None), sequence),
    "product with relu": Odd(_product(_TOKENS, then="Relu"), sequence),
    "product with clip": Odd(_product(_TOKENS, then="Clip"), sequence),
    "product with sigmoid": Odd(_product(_TOKENS, then="Sigmoid"), sequence),
    "product of matrices with sigmoid": Odd(_product(("batch", FEATURES), then="Sigmoid"), rows),
    "bias of rank 3": Odd(_product(_TOKENS, bias=(1, 1, 2 * FEATURES)), sequence),
    "bias that adds an axis": Odd(_product(("batch", FEATURES), bias=(1, 1, 2 * FEATURES), rank=3), rows),
    "bias comes first": Odd(_product(_TOKENS, bias_first=True), sequence),
    "bias that is one number": Odd(_product(_TOKENS, bias=(1,)), sequence),
    "bias read twice": Odd(_bias_read_twice, sequence),
    "product read twice": Odd(_product_read_twice, sequence),
    "relu between products": Odd(_mlp("Relu", _TOKENS), sequence),
    "tanh between products": Odd(_mlp("Tanh", ("batch", FEATURES)), rows),
    "equal names, equal sizes": Odd(_two_inputs, _pair((5, FEATURES), (5, FEATURES))),
    "equal names, other sizes": Odd(_vague_names, _pair((5, FEATURES), (3, 2 * FEATURES))),
    "gemm without bias": Odd(one_gemm(bias=None), rows),
    "gemm, bias one number": Odd(one_gemm(bias=()), rows),
    "gemm, bias of one entry": Odd(one_gemm(bias=(1,), transposed=False), rows),
    "gemm, bias a row": Odd(one_gemm(bias=(1, FEATURES // 2)), rows),
    "gemm with sigmoid": Odd(one_gemm(bias=(FEATURES // 2,), then="Sigmoid"), rows),
    "gemm with relu at the end": Odd(one_gemm(bias=(FEATURES // 2,), then="Relu"), rows),
    "tanh between gemms": Odd(deep_gemm("Tanh"), rows),
    "leaky relu between gemms": Odd(deep_gemm("LeakyRelu"), rows),
    "one tensor times itself": Odd(_gram, given((8, 8))),
    "one tensor added to itself": Odd(_doubled, pictures),
    "pools 1-D": Odd(_pools(1), given((3, 12))),
    "pools 2-D": Odd(_pools(2), given((3, 8, 8))),
    "pools 3-D": Odd(_pools(3), given((3, 8, 8, 8))),
    "scores with relu": Odd(_clipped_scores("Relu"), sequence),
    "scores with clip": Odd(_clipped_scores("Clip"), sequence),
    "scores with sigmoid": Odd(_clipped_scores("Sigmoid"), sequence),
    "infinite bias": Odd(_infinite_bias, sequence),
    "mask of -inf added": Odd(_masked("Add"), sequence),
    "mask of -inf chosen": Odd(_masked("Where on scores"), sequence),
    "huge bias": Odd(_huge_bias, sequence),
    "weight behind Identity": Odd(_behind("Identity"), rows),
    "weight behind Transpose": Odd(_behind("Transpose"), rows),
    "weight behind Cast": Odd(_behind("Cast"), rows),
    "weight behind Reshape": Odd(_behind("Reshape"), rows),
    "weight behind three": Odd(_behind("Cast", "Reshape", "Transpose"), rows),
    "other domain": Odd(_other_domain, sequence),
    "subgraphs": Odd(_subgraphs, rows),
    "identities": Odd(_identities, pictures),
    "stale shapes": Odd(_stale_shapes, sequence),
    "names like ours": Odd(_named_like_ours, sequence),
}
