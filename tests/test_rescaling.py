"""Between which products channels may be scaled."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

import builders
from builders import CHANNELS, Net
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.rescaling import Junction, junctions


def found(proto: onnx.ModelProto) -> tuple[Junction, ...]:
    graph = open_model(proto).graph
    return junctions(graph, group(graph))


def convolutions(
    between: Callable[[Net, str], str], reader: Callable[[Net, str], str] | None = None
) -> onnx.ModelProto:
    net = Net()
    x = between(net, net.conv_norm("x", 3, CHANNELS))
    return builders._image_model(net, reader(net, x) if reader else net.conv_norm(x, CHANNELS, CHANNELS))


@pytest.mark.parametrize("between", ["Relu", ""])
def test_two_convolutions(between: str) -> None:
    (one,) = found(convolutions(lambda net, x: net.add(between, x) if between else x))
    assert (one.giver.name, one.axis, one.clip) == ("conv_0", 1, "")
    assert [reader.kind for reader in one.readers] == [Kind.CONV]


def test_a_clip_is_named() -> None:
    one, other = found(builders.depthwise_separable())
    assert one.clip.startswith("clip_")
    assert other.clip.startswith("clip_")
    assert one.clip != other.clip


@pytest.mark.parametrize("transposed", [True, False])
def test_two_products_by_a_matrix(transposed: bool) -> None:
    (one,) = found(builders.gemm(transposed=transposed))
    assert (one.giver.name, one.axis) == ("gemm_0", -1)


def test_every_reader_counts() -> None:
    def two(net: Net, x: str) -> str:
        return net.add("Add", net.conv(x, CHANNELS, CHANNELS), net.conv(x, CHANNELS, CHANNELS))

    (one,) = found(convolutions(lambda net, x: net.add("Relu", x), two))
    assert len(one.readers) == 2


@pytest.mark.parametrize(
    "proto",
    [
        convolutions(lambda net, x: net.add("HardSwish", x)),
        convolutions(lambda net, x: net.add("Sigmoid", x)),
        convolutions(lambda net, x: net.add("Relu", net.add("Add", x, net.number(1.0)))),
        convolutions(
            lambda net, x: net.add("Relu", x), lambda net, x: net.add("Add", net.conv(x, CHANNELS, CHANNELS), x)
        ),
        convolutions(lambda net, x: net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
        builders.mlp_gelu(),
        builders.transformer(),
        builders.concat(),
    ],
    ids=["hard swish", "sigmoid", "sum", "residual", "pool", "gelu", "transformer", "concat"],
)
def test_what_does_not_scale_or_is_read_by_others_is_left_out(proto: onnx.ModelProto) -> None:
    assert found(proto) == ()


def test_of_a_residual_block_only_the_inside() -> None:
    first, inner, _ = (node.name for node in open_model(builders.residual()).graph.nodes if node.kind is Kind.CONV)
    assert first != inner
    assert [one.giver.name for one in found(builders.residual())] == [inner]


def test_a_tensor_that_the_model_gives_stays() -> None:
    proto = convolutions(lambda net, x: net.add("Relu", x))
    (one,) = found(proto)
    given = proto.graph.output.add()
    given.CopyFrom(proto.graph.output[0])
    given.name = one.tensor
    assert found(proto) == ()
