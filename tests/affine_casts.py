"""The public verbs with the scale and zero point of an `Affine`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fewbits
from fewbits.formats.granularity import Channel, Tensor
from fewbits.formats.numerics.affine import Affine
from fewbits.formats.qtensor import QTensor, code_type
from fewbits.formats.scaled import ScaledFormat

Array = NDArray[Any]


def quantize(x: Array, affine: Affine) -> NDArray[np.int32]:
    scale, zero_point = _per_tile(affine, x.ndim)
    q = fewbits.quantize(np.asarray(x, np.float32), _format(affine), scale=scale, zero_point=zero_point)
    return q.codes.astype(np.int32)


def dequantize(codes: Array, affine: Affine) -> NDArray[np.float32]:
    scale, zero_point = _per_tile(affine, codes.ndim)
    one, none = np.ones((), np.float32), np.zeros(0, np.float32)
    stored = np.asarray(codes).astype(code_type(affine.format))
    return np.asarray(fewbits.dequantize(QTensor(stored, scale, zero_point, one, none, _format(affine), "float32")))


def fake_quantize(x: Array, affine: Affine) -> NDArray[np.float32]:
    scale, zero_point = _per_tile(affine, x.ndim)
    return np.asarray(
        fewbits.fake_quantize(np.asarray(x, np.float32), _format(affine), scale=scale, zero_point=zero_point)
    )


def _format(affine: Affine) -> ScaledFormat:
    sharing = Tensor() if affine.axis is None else Channel(affine.axis)
    return ScaledFormat(affine.format, sharing, asymmetric=True)


def _per_tile(affine: Affine, ndim: int) -> tuple[Array, Array]:
    shape = [1] * ndim
    if affine.axis is not None:
        shape[affine.axis] = -1
    return affine.scale.reshape(shape), affine.zero_point.reshape(shape)
