"""Questions to a graph: who reads, who makes, how much work."""

import pytest

from fewbits.graph import AttributeValue, Graph, Kind, Node, Tensor
from graphs import Shape, Sketch


def product(
    kind: Kind, first: Shape | None, second: Shape | None, out: Shape | None, **attributes: AttributeValue
) -> int:
    """MACs of one node with operands of these shapes."""
    node = Node("n", kind, kind.title(), ("a", "b"), ("c",), attributes)
    shapes = {"a": first, "b": second, "c": out}
    tensors = {name: Tensor(name, "float32", shape, constant=name == "b") for name, shape in shapes.items()}
    return Graph((node,), tensors, ("a",), ("c",)).macs(node)


@pytest.mark.parametrize(
    ("kind", "first", "second", "out", "attributes", "macs"),
    [
        # 3x3, 16 to 32 channels, 10x10 outputs.
        (Kind.CONV, (1, 16, 20, 20), (32, 16, 3, 3), (1, 32, 10, 10), {"strides": (2, 2)}, 32 * 100 * 16 * 9),
        (Kind.CONV, (1, 32, 8, 8), (32, 1, 3, 3), (1, 32, 8, 8), {"group": 32}, 32 * 64 * 9),
        (Kind.CONV, ("batch", 3, "h", "w"), (8, 3, 1, 1), ("batch", 8, "h", "w"), {}, 8 * 3),
        (Kind.CONV_TRANSPOSE, (1, 16, 5, 5), (16, 4, 2, 2), (1, 4, 10, 10), {"strides": (2, 2)}, 25 * 16 * 4 * 4),
        (Kind.MATMUL, ("batch", 7, 64), (64, 10), ("batch", 7, 10), {}, 7 * 10 * 64),
        (Kind.MATMUL, ("batch", 7, "?"), (64, 10), ("batch", 7, 10), {}, 7 * 10 * 64),
        (Kind.MATMUL, (1, 2, 7, 16), (1, 2, 16, 7), (1, 2, 7, 7), {}, 2 * 7 * 7 * 16),
        (Kind.MATMUL, (64,), (64,), (), {}, 64),
        (Kind.MATMUL, (5, 64), (64,), (5,), {}, 5 * 64),
        (Kind.MATMUL, (1, 2, "s", "d"), (1, 2, "d", "s"), (1, 2, "s", "s"), {}, 2),
        (Kind.GEMM, (3, 64), (64, 10), (3, 10), {}, 3 * 10 * 64),
        (Kind.GEMM, (3, "?"), (10, 64), (3, 10), {"transB": 1}, 3 * 10 * 64),
        (Kind.GEMM, (64, 3), (64, 10), (3, 10), {"transA": 1}, 3 * 10 * 64),
        (Kind.MATMUL, None, (64, 10), (1, 10), {}, 0),
        (Kind.MATMUL, (1, 64), (64, 10), None, {}, 0),
        (Kind.CONV, (1, 3, 8, 8), None, (1, 8, 8, 8), {}, 0),
        (Kind.ADD, (1, 8), (1, 8), (1, 8), {}, 0),
    ],
)
def test_macs(
    kind: Kind,
    first: Shape | None,
    second: Shape | None,
    out: Shape | None,
    attributes: dict[str, AttributeValue],
    macs: int,
) -> None:
    assert product(kind, first, second, out, **attributes) == macs


def test_macs_without_a_known_weight_is_nothing() -> None:
    node = Node("n", Kind.CONV, "Conv", ("a", "b"), ("c",))
    assert Graph((node,), {"c": Tensor("c", "float32", (1, 2, 3, 3))}, ("a",), ("c",)).macs(node) == 0


@pytest.mark.parametrize(("shape", "elements"), [((2, 3), 6), (("n", 3), 3), ((), 1), ((0, 3), 0), (None, 0)])
def test_elements(shape: Shape | None, elements: int) -> None:
    assert Tensor("t", "float32", shape).elements == elements


class TestReaders:
    def test_one_reader(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.RELU, a)
        graph = net.graph(b)
        assert graph.only_consumer(a) is graph.node["relu_1"]
        assert graph.producer[b] is graph.node["relu_1"]
        assert "x" not in graph.producer

    def test_a_node_that_reads_twice_is_one_reader(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.MUL, a, a)
        graph = net.graph(b)
        assert graph.consumers[a] == (graph.node["mul_1"],)
        assert graph.only_consumer(a) is graph.node["mul_1"]

    def test_two_readers_no_reader(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b, c = net.add(Kind.RELU, a), net.add(Kind.SIGMOID, a)
        graph = net.graph(b, c)
        assert graph.only_consumer(a) is None
        assert graph.only_consumer(c) is None
        assert [node.name for node in graph.consumers[a]] == ["relu_1", "sigmoid_2"]

    def test_an_output_and_a_pinned_tensor_have_readers_outside(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.RELU, a)
        assert net.graph(a, b).only_consumer(a) is None
        assert net.graph(b, pinned=[a]).only_consumer(a) is None

    def test_an_input_may_be_an_output(self) -> None:
        net = Sketch()
        a = net.conv("x")
        graph = net.graph("x", a)
        assert graph.only_consumer("x") is None
        assert [node.name for node in graph.consumers["x"]] == ["conv_0"]

    def test_absent_optional_operands_are_nobody(self) -> None:
        net = Sketch()
        a = net.add(Kind.CLIP, net.conv("x"), "", net.constant())
        graph = net.graph(a)
        assert "" not in graph.consumers
        assert "" not in graph.producer
        assert not graph.is_constant("")


def test_constants_are_known_by_name() -> None:
    net = Sketch()
    weight = net.constant(3)
    graph = net.graph("x")
    assert graph.is_constant(weight)
    assert not graph.is_constant("x")
    assert not graph.is_constant("nowhere")
