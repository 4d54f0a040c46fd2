"""Codes and values agree bit for bit with QuantizeLinear and DequantizeLinear as ONNX Runtime runs them."""

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from affine_casts import dequantize, quantize
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat
from fewbits.formats.numerics.affine import Affine, asymmetric, symmetric

DTYPES = {"int8": np.int8, "int8r": np.int8, "uint8": np.uint8}


def run(op: str, x: NDArray[np.generic], affine: Affine) -> NDArray[np.generic]:
    dtype = DTYPES[str(affine.format)]
    weights = [
        numpy_helper.from_array(affine.scale, "s"),
        numpy_helper.from_array(affine.zero_point.astype(dtype), "z"),
    ]
    attributes = {} if affine.axis is None else {"axis": affine.axis}
    given, made = (TensorProto.FLOAT, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))[:: 1 if op[0] == "Q" else -1]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "s", "z"], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", given, x.shape)],
        [helper.make_tensor_value_info("y", made, x.shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def agree(x: NDArray[np.float32], affine: Affine) -> None:
    mine = quantize(x, affine)
    theirs = run("QuantizeLinear", x, affine)
    if affine.format.restricted:
        # ONNX has no restricted format: the code that it drops is clipped here, and never arises in the range.
        theirs = np.maximum(theirs, affine.format.qmin)
    np.testing.assert_array_equal(mine, theirs)
    back = run("DequantizeLinear", mine.astype(DTYPES[str(affine.format)]), affine)
    np.testing.assert_array_equal(dequantize(mine, affine), back)


def samples(scale: float) -> NDArray[np.float32]:
    """Values far outside, on the codes, halfway between codes, and in between."""
    steps = np.concatenate([np.arange(-400, 400) / 2, np.random.default_rng(0).uniform(-300, 300, 2000), [1e9, -1e9]])
    return (steps * scale).astype(np.float32)


@pytest.mark.parametrize("format", [UINT8, INT8, INT8R], ids=str)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-0.17, 0.0), (-1e-6, 2e-6), (-1e30, 1e30)])
def test_one_scale_for_the_tensor(format: IntFormat, low: float, high: float) -> None:
    affine = asymmetric(low, high, format)
    agree(samples(float(affine.scale)), affine)


@pytest.mark.parametrize("format", [UINT8, INT8, INT8R], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_scale_per_channel(format: IntFormat, axis: int) -> None:
    x = np.random.default_rng(axis).standard_normal((5, 5, 5)).astype(np.float32)
    absmax = np.abs(x).max(axis=tuple(i for i in range(3) if i != axis)) * np.float32(0.7)
    agree(x, symmetric(absmax, format, axis))
