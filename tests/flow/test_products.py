"""Operands as matrices: their product is what the runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import builders
from builders import CHANNELS, Net
from conversion import run
from fewbits.flow.remedies.products import as_product
from fewbits.grouping import group
from fewbits.models import open_model

IMAGES = builders.images(2)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2], "dilations": [1, 1]},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_a_convolution_however_it_is_padded(attributes: dict[str, object]) -> None:
    net = Net()
    y = net.add("Conv", "x", net.weight(CHANNELS, 3, 4, 3, fan_in=36), **attributes)
    image = (TensorProto.FLOAT, ("batch", 3, builders.SIZE, builders.SIZE))
    proto = net.model({"x": image}, {"y": (net.add("Relu", y), ("batch", CHANNELS, "height", "width"))})
    model = open_model(proto)
    (made,) = group(model.graph)
    product = as_product(model, made, IMAGES)
    (outputs,) = run(proto, IMAGES).values()
    rows = np.moveaxis(outputs, 1, -1).reshape(-1, CHANNELS)
    assert np.allclose(np.maximum(product.inputs[0] @ product.weight[0].T, 0), rows, rtol=1e-4, atol=1e-5)


def test_taps_put_neighbouring_channels_beside_each_other() -> None:
    net = Net()
    proto = builders._image_model(net, net.conv("x", 3, CHANNELS))
    model = open_model(proto)
    (made,) = group(model.graph)
    product = as_product(model, made, IMAGES)
    inputs, weight = product.by_taps
    assert np.allclose(
        inputs @ weight.transpose(0, 2, 1), product.inputs @ product.weight.transpose(0, 2, 1), atol=1e-4
    )
    assert np.array_equal(weight[0, :, :3], model.weight(made.weight)[:, :, 0, 0])
