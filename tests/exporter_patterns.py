"""What exporters of Keras and Paddle put around layers, small: `PATTERNS` holds such models with inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from builders import CHANNELS, SIZE, Array, images
from exported_models import FEATURES, FILTERS, IMAGE, MATRIX, VECTOR, Exported, F, model, node

_RANDOM = np.random.default_rng(3)
_SECOND = (_RANDOM.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 8).astype(np.float32)
_FACTOR = _RANDOM.uniform(0.5, 1.5, (1, CHANNELS, 1, 1)).astype(np.float32)
_SHIFT = _RANDOM.standard_normal((1, CHANNELS, 1, 1)).astype(np.float32)
_NORM: Mapping[str, Array] = {
    "g": _FACTOR.reshape(-1),
    "e": _SHIFT.reshape(-1),
    "m": VECTOR[:CHANNELS],
    "s": np.full(CHANNELS, 0.8, np.float32),
}
_MAP = ("y", F, ("batch", CHANNELS, SIZE, SIZE))
_PADS = [1, 1, 1, 1]
_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def _channels_last() -> onnx.ModelProto:
    """Transposes around every convolution, a batch norm that became a product and a sum, a bias behind a transpose."""
    return model(
        [
            node("Transpose", "x", "a", perm=_FIRST),
            node("Conv", "a k", "b", pads=_PADS),
            node("Mul", "b factor", "c"),
            node("Add", "c shift", "d"),
            node("Clip", "d zero six", "e"),
            node("Transpose", "e", "f", perm=_LAST),
            node("Transpose", "f", "g", perm=_FIRST),
            node("Conv", "g l", "h", pads=_PADS),
            node("Transpose", "h", "i", perm=_LAST),
            node("Add", "i bias", "j"),
            node("Relu", "j", "y"),
        ],
        [("x", F, ("batch", SIZE, SIZE, 3))],
        [("y", F, ("batch", SIZE, SIZE, CHANNELS))],
        k=FILTERS,
        l=_SECOND,
        factor=_FACTOR,
        shift=_SHIFT,
        bias=VECTOR[:CHANNELS],
        zero=np.array(0, np.float32),
        six=np.array(6, np.float32),
    )


def _channels_last_images(samples: int) -> dict[str, Array]:
    return {"x": np.ascontiguousarray(images(samples)["x"].transpose(0, 2, 3, 1))}


def _hard_swish(*chain: onnx.NodeProto) -> onnx.ModelProto:
    """Convolutions with batch norms of their own; `chain` makes ``d`` of ``c``, a hard swish."""
    constants = {"zero": 0.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6}
    return model(
        [
            node("Conv", "x k", "b", pads=_PADS),
            node("BatchNormalization", "b g e m s", "c"),
            *chain,
            node("Conv", "d l", "f", pads=_PADS),
            node("BatchNormalization", "f g e m s", "y"),
        ],
        [IMAGE],
        [_MAP],
        k=FILTERS,
        l=_SECOND,
        **_NORM,
        **{name: np.array(number, np.float32) for name, number in constants.items()},
    )


def _scales() -> onnx.ModelProto:
    """Scales and shifts between copies, constants as nodes, and names with every sort of mark."""
    numbers = {"0.5@scale": 0.5, "bias:0": -0.1}
    return model(
        [
            *(
                onnx.helper.make_node("Constant", [], [name], name=f"Constant_{name}", value_float=number)
                for name, number in numbers.items()
            ),
            node("Mul", "x 0.5@scale", "p2o.scale.0"),
            node("Add", "p2o.scale.0 bias:0", "p2o.scale.1"),
            node("Identity", "p2o.scale.1", "auto.cast.0"),
            node("Conv", "auto.cast.0 conv2d_0.w_0", "p2o/conv.0", pads=_PADS),
            node("Mul", "p2o/conv.0 factor", "p2o.mul.0"),
            node("Add", "p2o.mul.0 shift", "p2o.add.0"),
            node("Identity", "p2o.add.0", "helper.copy"),
            node("HardSwish", "helper.copy", "p2o.act"),
            node("Conv", "p2o.act l", "y", pads=_PADS),
        ],
        [IMAGE],
        [_MAP],
        **{"conv2d_0.w_0": FILTERS},
        l=_SECOND,
        factor=_FACTOR,
        shift=_SHIFT,
    )


def _wrapped_rows() -> onnx.ModelProto:
    """A look-up whose negative indices are counted from the end by arithmetic, and a product."""
    return model(
        [
            node("Add", "x count", "a"),
            node("Less", "x zero", "below"),
            node("Where", "below a x", "rows"),
            node("Gather", "table rows", "h"),
            node("MatMul", "h w", "k"),
            node("ReduceMean", "k axes", "y", keepdims=0),
        ],
        [("x", TensorProto.INT32, ("batch", "words"))],
        [("y", F, ("batch", FEATURES))],
        table=MATRIX,
        w=MATRIX.T.copy(),
        count=np.array(FEATURES, np.int32),
        zero=np.array(0, np.int32),
        axes=np.array([1]),
    )


def _words(samples: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(4).integers(-FEATURES, FEATURES, (samples, 5)).astype(np.int32)}


PATTERNS: Mapping[str, Exported] = {
    "channels last": Exported(_channels_last, _channels_last_images, low=2),
    "a hard swish of five": Exported(
        lambda: _hard_swish(
            node("Add", "c three", "p"),
            node("Clip", "p zero six", "q"),
            node("Mul", "c q", "r"),
            node("Div", "r six", "d"),
        ),
        images,
        low=2,
    ),
    "a hard swish of two": Exported(
        lambda: _hard_swish(node("HardSigmoid", "c", "p", alpha=1 / 6, beta=0.5), node("Mul", "c p", "d")),
        images,
        low=2,
    ),
    "scales and copies": Exported(_scales, images, low=1),
    "wrapped rows": Exported(_wrapped_rows, _words, low=1),
}
