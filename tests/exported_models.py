"""Models as exporters write them, beside what is usual: `EXPORTED` holds them with inputs for a number of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from builders import CHANNELS, FEATURES, SIZE, Array, features, images

F = TensorProto.FLOAT
Inputs = Callable[[int], dict[str, Array]]
Value = tuple[str, int, Sequence[int | str]]
"""Name, type, shape."""

X: Value = ("x", F, ("batch", FEATURES))
Y: Value = ("y", F, ("batch", FEATURES))
IMAGE: Value = ("x", F, ("batch", 3, SIZE, SIZE))
_RANDOM = np.random.default_rng(1)
MATRIX = (_RANDOM.standard_normal((FEATURES, FEATURES)) / 6).astype(np.float32)
VECTOR = (_RANDOM.standard_normal(FEATURES) / 6).astype(np.float32)
FILTERS = (_RANDOM.standard_normal((CHANNELS, 3, 3, 3)) / 5).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """An operator with a name of its own; `inputs` and `outputs` are words, ``-`` is an absent one."""
    read, given = (["" if name == "-" else name for name in words.split()] for words in (inputs, outputs))
    return helper.make_node(op, read, given, name=f"makes_{next(filter(None, given))}", **attributes)  # type: ignore[arg-type]


def graph(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value], outputs: Sequence[Value], constants: Mapping[str, Array]
) -> onnx.GraphProto:
    """A graph whose constants are initialisers."""
    return helper.make_graph(
        list(nodes),
        "exported",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value] = (X,),
    outputs: Sequence[Value] = (Y,),
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    **constants: Array,
) -> onnx.ModelProto:
    """The checked model."""
    made = helper.make_model(
        graph(nodes, inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 20), *(helper.make_opsetid(name, 1) for name in domains)],
        ir_version=10,
        functions=list(functions),
    )
    onnx.checker.check_model(made)
    return made


def body(
    name: str, nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value] = (), *outputs: Value, **constants: Array
) -> onnx.GraphProto:
    """The body of an If, Loop or Scan; a shape of () stands for any."""
    return helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(one, dtype, shape or None) for one, dtype, shape in inputs],
        [helper.make_tensor_value_info(one, dtype, shape or None) for one, dtype, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )


def behind(*nodes: onnx.NodeProto, **constants: Array) -> onnx.ModelProto:
    """A product by the constant ``w``, which `nodes` make."""
    columns = 16 if "half" in constants else FEATURES
    constants.pop("half", None)
    return model([*nodes, node("MatMul", "x w", "y")], outputs=[("y", F, ("batch", columns))], **constants)


def _codes(scale: float, offset: int, dtype: type[np.integer]) -> Array:
    limits = np.iinfo(dtype)
    return np.clip(np.round(MATRIX / scale) + offset, limits.min, limits.max).astype(dtype)


def _weight_norm() -> onnx.ModelProto:
    """``g * v / |v|``, as torch's weight norm is exported."""
    return behind(
        node("ReduceL2", "v axes", "length", keepdims=1),
        node("Div", "v length", "unit"),
        node("Mul", "unit g", "w"),
        v=MATRIX,
        axes=np.array([0]),
        g=np.full((1, FEATURES), 0.9, np.float32),
    )


def _halves() -> onnx.ModelProto:
    """A weight that is the left half of a stored one."""
    return behind(
        node("Slice", "whole starts ends axes", "w"),
        whole=MATRIX,
        starts=np.array([0]),
        ends=np.array([16]),
        axes=np.array([1]),
        half=np.array(0),
    )


def _outputs_of_every_sort() -> onnx.ModelProto:
    """An output that is a weight, one that is a copy of it, of the input, of another output, and one in the middle."""
    return model(
        [
            node("MatMul", "x w", "h"),
            node("Add", "h b", "k"),
            node("MatMul", "k w", "y"),
            node("Identity", "w", "copy"),
            node("Identity", "y", "again"),
        ],
        outputs=[
            Y,
            ("w", F, (FEATURES, FEATURES)),
            ("copy", F, (FEATURES, FEATURES)),
            ("b", F, (FEATURES,)),
            ("again", F, Y[2]),
            ("k", F, Y[2]),
        ],
        w=MATRIX,
        b=VECTOR,
    )


def _types_of_every_sort() -> onnx.ModelProto:
    """Inputs that are booleans, an integer without axes, a float without axes, and one that nobody reads."""
    return model(
        [
            node("MatMul", "x w", "h"),
            node("Unsqueeze", "keep one", "column"),
            node("Where", "column h zero", "kept"),
            node("Cast", "times", "factor", to=F),
            node("Mul", "kept factor", "k"),
            node("Add", "k shift", "m"),
            node("MatMul", "m w", "y"),
        ],
        inputs=[
            X,
            ("keep", TensorProto.BOOL, ("batch",)),
            ("times", TensorProto.INT64, ()),
            ("shift", F, ()),
            ("unread", F, ("batch", 2)),
        ],
        w=MATRIX,
        one=np.array([1]),
        zero=np.array(0, np.float32),
    )


def _inputs_of_every_sort(samples: int) -> dict[str, Array]:
    return {
        **features(samples),
        "keep": np.arange(samples) % 3 > 0,
        "times": np.array(3, np.int64),
        "shift": np.array(0.25, np.float32),
        "unread": np.zeros((samples, 2), np.float32),
    }


def _odd_names() -> onnx.ModelProto:
    made = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "k"), node("MatMul", "k w", "y")],
        w=MATRIX,
    )
    names = {"w": "model/weight:0 (ü)\n", "h": "h 1/…", "k": "x.uint8.codes"}
    for one in made.graph.node:
        one.name = {"makes_h": "a/b=c;*?[x]", "makes_k": "", "makes_y": "y"}[one.name]
        one.input[:] = [names.get(name, name) for name in one.input]
        one.output[:] = [names.get(name, name) for name in one.output]
    made.graph.initializer[0].name = names["w"]
    return made


def _absent_inputs() -> onnx.ModelProto:
    """Optional inputs that are named "" in the middle and at the end."""
    return model(
        [
            node("MatMul", "x w", "h"),
            node("Clip", "h - most", "k"),
            node("Reshape", "k shape", "image"),
            node("Conv", "image filters -", "m"),
            node("Relu", "m", "n"),
            node("Conv", "n filters -", "y"),
        ],
        outputs=[("y", F, ("batch", 2, 4, 4))],
        w=MATRIX,
        most=np.array(1, np.float32),
        shape=np.array([0, 2, 4, 4]),
        filters=(FILTERS[:2, :2, :1, :1] * 3).copy(),
    )


def _shared() -> onnx.ModelProto:
    """A table whose rows are looked up and that is the weight of two products, once turned."""
    return model(
        [
            node("MatMul", "x w", "h"),
            node("Transpose", "w", "turned", perm=[1, 0]),
            node("MatMul", "h turned", "k"),
            node("Gather", "w rows", "row"),
            node("Add", "k row", "m"),
            node("Neg", "m", "y"),
        ],
        w=MATRIX,
        rows=np.array([1]),
    )


def _nested_functions() -> onnx.ModelProto:
    """A function that calls a function; an attribute is passed on."""
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    leaky = helper.make_node("LeakyRelu", ["b"], ["c"], name="act")
    leaky.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope"))
    inner = helper.make_function(
        "mine", "Layer", ["a", "w"], ["c"], [helper.make_node("MatMul", ["a", "w"], ["b"]), leaky], sets, ["slope"]
    )
    outer = helper.make_function(
        "mine",
        "Two",
        ["a", "w"],
        ["d"],
        [
            helper.make_node("Layer", ["a", "w"], ["c"], domain="mine", slope=0.1),
            helper.make_node("Layer", ["c", "w"], ["d"], domain="mine", slope=0.2),
        ],
        sets,
    )
    call = helper.make_node("Two", ["x", "w"], ["h"], domain="mine", name="call")
    return model([call, node("Neg", "h", "y")], functions=[inner, outer], domains=["mine"], w=MATRIX)


def _contributed() -> onnx.ModelProto:
    """Operators of ONNX Runtime's own between products, one of which convolves."""
    return model(
        [
            node("FusedConv", "x filters", "h", domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1]),
            node("Conv", "h more", "k"),
            node("Flatten", "k", "m"),
            node("MatMul", "m w", "n"),
            node("BiasGelu", "n b", "o", domain="com.microsoft"),
            node("MatMul", "o v", "y"),
        ],
        inputs=[IMAGE],
        domains=["com.microsoft"],
        filters=FILTERS,
        more=(_RANDOM.standard_normal((2, CHANNELS, 1, 1)) / 3).astype(np.float32),
        w=(_RANDOM.standard_normal((2 * SIZE * SIZE, FEATURES)) / 11).astype(np.float32),
        b=VECTOR,
        v=MATRIX,
    )


def _sequences() -> onnx.ModelProto:
    """Tensors in a list."""
    return model(
        [
            node("MatMul", "x w", "h"),
            node("SequenceConstruct", "h x", "both"),
            node("ConcatFromSequence", "both", "k", axis=0),
            node("MatMul", "k w", "y"),
        ],
        outputs=[("y", F, ("twice", FEATURES))],
        w=MATRIX,
    )


def _empty_tensors() -> onnx.ModelProto:
    """A product without columns, and one without depth."""
    return model(
        [
            node("MatMul", "x none", "e"),
            node("MatMul", "e depthless", "zeros"),
            node("MatMul", "x w", "h"),
            node("Add", "h zeros", "y"),
        ],
        none=np.zeros((FEATURES, 0), np.float32),
        depthless=np.zeros((0, FEATURES), np.float32),
        w=MATRIX,
    )


def _stale_and_unread() -> onnx.ModelProto:
    """Shapes that are wrong, shapes of what is not there, nodes and weights that nobody needs."""
    made = model(
        [node("MatMul", "x w", "h"), node("MatMul", "h w", "y"), node("MatMul", "h unread", "dead")],
        w=MATRIX,
        unread=MATRIX,
    )
    made.graph.value_info.append(helper.make_tensor_value_info("h", F, ["batch", FEATURES - 1]))
    made.graph.value_info.append(helper.make_tensor_value_info("ghost", F, [1]))
    return made


# --- control flow ---------------------------------------------------------------------------------

_POSITIVE = [node("ReduceMax", "x", "largest", keepdims=0), node("Greater", "largest zero", "positive")]
_ZERO = np.array(0, np.float32)


def _if_reads_codes() -> onnx.ModelProto:
    """A branch reads what a product of codes reads, what it gives, and a weight that is stored as codes."""
    then = body(
        "then",
        [node("MatMul", "h w", "a"), node("Add", "a k", "b"), node("Add", "b x", "c")],
        (),
        ("c", F, ()),
    )
    other = body("otherwise", [node("Identity", "k", "d")], (), ("d", F, ()))
    return model(
        [
            *_POSITIVE,
            node("MatMul", "x w", "h"),
            node("MatMul", "h w", "k"),
            node("If", "positive", "m", then_branch=then, else_branch=other),
            node("MatMul", "m w", "y"),
        ],
        w=MATRIX,
        zero=_ZERO,
    )


def _if_in_if() -> onnx.ModelProto:
    """A branch in a branch, and names inside that are those of nodes and tensors outside."""
    deep = body("deep", [helper.make_node("Neg", ["h"], ["inner"], name="makes_h")], (), ("inner", F, ()))
    deeper = body("deeper", [helper.make_node("MatMul", ["h", "w"], ["inner2"], name="makes_y")], (), ("inner2", F, ()))
    then = body("then", [node("If", "positive", "picked", then_branch=deeper, else_branch=deep)], (), ("picked", F, ()))
    other = body("otherwise", [node("Abs", "h", "away")], (), ("away", F, ()))
    return model(
        [
            *_POSITIVE,
            node("MatMul", "x w", "g"),
            node("Add", "g b", "h"),
            node("If", "positive", "m", then_branch=then, else_branch=other),
            node("MatMul", "m w", "y"),
        ],
        w=MATRIX,
        b=VECTOR,
        zero=_ZERO,
    )


def _loop() -> onnx.ModelProto:
    """A loop whose body multiplies its state by an outer weight and adds an outer tensor that is read as codes, too."""
    step = body(
        "step",
        [
            node("Identity", "go", "going"),
            node("MatMul", "state w", "product"),
            node("Add", "product h", "sum"),
            node("Tanh", "sum", "next"),
        ],
        [("number", TensorProto.INT64, (1,)), ("go", TensorProto.BOOL, (1,)), ("state", F, ())],
        ("going", TensorProto.BOOL, (1,)),
        ("next", F, ()),
        ("next", F, ()),
    )
    # The same tensor as state and as what is collected needs a name of its own.
    step.node.append(node("Identity", "next", "seen"))
    step.output[2].name = "seen"
    for value in (*step.input[:2], step.output[0]):
        value.type.tensor_type.shape.Clear()
    return model(
        [
            node("MatMul", "x w", "h"),
            node("MatMul", "h w", "k"),
            node("Loop", "three - k", "last all", body=step),
            node("MatMul", "last w", "y"),
        ],
        outputs=[Y, ("all", F, ("steps", "batch", FEATURES))],
        w=MATRIX,
        three=np.array(3, np.int64),
    )


def _scan() -> onnx.ModelProto:
    """A scan over tokens whose body reads a weight that is stored as codes outside."""
    step = body(
        "step",
        [
            node("MatMul", "state w", "turned"),
            node("Add", "turned token", "sum"),
            node("Tanh", "sum", "next"),
            node("Identity", "next", "seen"),
        ],
        [("state", F, ("batch", FEATURES)), ("token", F, ("batch", FEATURES))],
        ("next", F, ("batch", FEATURES)),
        ("seen", F, ("batch", FEATURES)),
    )
    return model(
        [
            node("MatMul", "x w", "first"),
            node("MatMul", "tokens w", "k"),
            node("Scan", "first k", "last all", body=step, num_scan_inputs=1),
            node("MatMul", "last w", "y"),
        ],
        inputs=[X, ("tokens", F, (4, "batch", FEATURES))],
        outputs=[Y, ("all", F, (4, "batch", FEATURES))],
        w=MATRIX,
    )


def _tokens(samples: int) -> dict[str, Array]:
    tokens = np.random.default_rng(2).standard_normal((4, samples, FEATURES)).astype(np.float32)
    return {**features(samples), "tokens": tokens}


@dataclass(frozen=True)
class Exported:
    """A model, inputs for it, and how many groups must be able to leave fp32 for static codes."""

    model: Callable[[], onnx.ModelProto]
    inputs: Inputs = features
    low: int = 1


_EIGHT = {"q": _codes(0.01, 0, np.int8), "s": np.array(0.01, np.float32), "z": np.array(0, np.int8)}
_COLUMNS = {
    "q": _codes(0.01, 128, np.uint8),
    "s": np.full(FEATURES, 0.01, np.float32),
    "z": np.full(FEATURES, 128, np.uint8),
}
EXPORTED: Mapping[str, Exported] = {
    "weight in eight bits": Exported(lambda: behind(node("DequantizeLinear", "q s z", "w"), **_EIGHT)),
    "weight in eight bits per column": Exported(
        lambda: behind(node("DequantizeLinear", "q s z", "w", axis=1), **_COLUMNS)
    ),
    "weight in half precision": Exported(lambda: behind(node("Cast", "h", "w", to=F), h=MATRIX.astype(np.float16))),
    "weight that is a sum": Exported(lambda: behind(node("Add", "a b", "w"), a=MATRIX, b=VECTOR)),
    "weight that is scaled": Exported(lambda: behind(node("Mul", "a b", "w"), a=MATRIX, b=VECTOR[:, None])),
    "weight of two parts": Exported(
        lambda: behind(node("Concat", "a b", "w", axis=0), a=MATRIX[:9].copy(), b=MATRIX[9:].copy())
    ),
    "weight that is a part": Exported(_halves),
    "weight with a norm of its own": Exported(_weight_norm),
    "weight that is filled": Exported(
        lambda: behind(
            node("ConstantOfShape", "sizes", "w", value=numpy_helper.from_array(np.array([0.1], np.float32))),
            sizes=np.array([FEATURES, FEATURES]),
        )
    ),
    "outputs of every sort": Exported(_outputs_of_every_sort, low=2),
    "inputs of every sort": Exported(_types_of_every_sort, _inputs_of_every_sort, low=2),
    "odd names": Exported(_odd_names, low=2),
    "absent inputs": Exported(_absent_inputs, low=2),
    "shared weight": Exported(_shared, low=2),
    "functions in functions": Exported(_nested_functions, low=2),
    "contributed operators": Exported(_contributed, images, low=3),
    "sequences": Exported(_sequences, low=2),
    "empty tensors": Exported(_empty_tensors),
    "stale and unread": Exported(_stale_and_unread, low=2),
    "a branch reads codes": Exported(_if_reads_codes, low=3),
    "a branch in a branch": Exported(_if_in_if),
    "a loop": Exported(_loop, low=2),
    "a scan": Exported(_scan, _tokens, low=2),
}
