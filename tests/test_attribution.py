"""What ran is tied to the right group: by hand-made names, and as ONNX Runtime gives them."""

from collections.abc import Mapping
from functools import cache

import pytest

import builders
from fewbits.attribution import Share, assigned, attribute
from fewbits.data.batches import Batch
from fewbits.graph import Graph, Kind, Node
from fewbits.grouping import Group, group, tied
from fewbits.models import open_model
from fewbits.placement import coded_tensors, settle
from fewbits.plan import Choice, Plan
from fewbits.space import candidates
from fewbits.targets import open_target
from fewbits.targets.protocol import Executed
from graphs import Sketch


def ran(name: str, *outputs: str, kernel: str = "K", precision: str = "fp32", seconds: float = 1.0) -> Executed:
    return Executed(name, kernel, precision, outputs, seconds)


def shares(graph: Graph, *executed: Executed) -> Mapping[str, Share]:
    return attribute(graph, group(graph), executed)


class TestNames:
    """A convolution, batch norm, max-pool, and two convolutions of the result."""

    def graph(self) -> Graph:
        net = Sketch()
        a = net.norm(net.conv("x"))
        b = net.add(Kind.MAX_POOL, a)
        return net.graph(net.conv(b), net.conv(b))

    @pytest.mark.parametrize(
        ("name", "outputs", "owner"),
        [
            ("conv_0", (), "conv_0"),
            ("batch_norm_1", (), "conv_0"),
            ("fused", ("batch_norm_1:0",), "conv_0"),
            ("fused", ("batch_norm_1:0.uint8.codes",), "conv_0"),
            ("batch_norm_1:0", ("reordered",), "conv_0"),
            ("conv_0.product", (), "conv_0"),
            ("conv_0.weight.dequantize", ("conv_0.weight.decoded",), "conv_0"),
            ("conv_0.bias.dequantize", ("conv_0.bias.decoded",), "conv_0"),
            ("conv_0.to_back", (), "conv_0"),
            ("other", ("conv_0.product",), "conv_0"),
            # A quantiser is there for who reads it: the first of several, and through carriers.
            ("x.uint8.quantize", ("x.uint8.codes",), "conv_0"),
            ("x.rows.int8r.quantize", (), "conv_0"),
            ("x.to_rows", ("x.rows",), "conv_0"),
            ("x.bfloat16.quantize", ("x.bfloat16",), "conv_0"),
            ("max_pool_2:0.float16.quantize", (), "conv_3"),
            # What casts a result back is there for who made it, as is a coder at every call for who reads it so.
            ("batch_norm_1:0.dequantize", ("batch_norm_1:0",), "conv_0"),
            ("conv_3.quantize", ("conv_3.activation.codes",), "conv_3"),
            ("conv_3.integer", ("conv_3.sums",), "conv_3"),
            ("max_pool_2:0.uint8.quantize", (), "conv_3"),
            ("max_pool_2:0.uint8.dequantize.channels", (), "conv_3"),
            ("batch_norm_1:0.uint8.dequantize", (), "conv_3"),
            # The result of the last is read by nobody: its quantiser is its own.
            ("conv_4:0.uint8.quantize", (), "conv_4"),
        ],
    )
    def test_known_names(self, name: str, outputs: tuple[str, ...], owner: str) -> None:
        assert list(shares(self.graph(), ran(name, *outputs))) == [owner]

    @pytest.mark.parametrize("name", ["elsewhere", "", "elsewhere.uint8.quantize", "max_pool_2", "x"])
    def test_other_names_belong_to_nobody(self, name: str) -> None:
        assert shares(self.graph(), ran(name, "")) == {}

    def test_absent_outputs_tie_nothing(self) -> None:
        net = Sketch()
        a = net.conv("x")
        graph = net.graph(a)
        node = graph.nodes[0]
        absent = Graph((Node(node.name, node.kind, node.op, node.inputs, (a, "")),), net.tensors, ("x",), (a,))
        assert shares(absent, ran("other", "")) == {}

    def test_a_constant_factor_behind_a_product_is_the_products(self) -> None:
        net = Sketch()
        a = net.add(Kind.MUL, net.conv("x"), net.constant())
        b = net.add(Kind.MUL, net.add(Kind.RELU, a), net.constant())
        graph = net.graph(b)
        # Folded, the convolution runs under the name of the factor.
        assert shares(graph, ran("mul_1:0", kernel="Conv"))["conv_0"].kernel == "Conv"
        assert shares(graph, ran("mul_3")) == {}

    def test_a_name_of_the_graph_is_not_taken_for_an_added_one(self) -> None:
        net = Sketch()
        net.conv("x")
        graph = net.graph("conv_0:0")
        dotted = Node("conv_0.act", Kind.GELU, "Gelu", ("conv_0:0",), ("conv_0:0.act",))
        tensors = {**graph.tensors, "conv_0:0.act": graph.tensors["x"]}
        assert shares(Graph((*graph.nodes, dotted), tensors, ("x",), ()), ran("conv_0.act", "conv_0:0.act")) == {}

    def test_a_weight_is_not_mistaken_for_a_tensor_of_the_same_name(self) -> None:
        net = Sketch()
        net.input("conv_0")
        net.conv("x")
        net.conv("conv_0")
        graph = net.graph("conv_0:0", "conv_1:0")
        assert list(shares(graph, ran("conv_0.weight.dequantize"))) == ["conv_0"]


def test_assigned_keeps_the_order_in_which_nodes_ran() -> None:
    net = Sketch()
    graph = net.graph(net.norm(net.conv("x")))
    nodes = [ran("x.uint8.quantize"), ran("conv_0"), ran("elsewhere"), ran("batch_norm_1:0.uint8.dequantize")]
    assert assigned(graph, group(graph), nodes) == {"conv_0": [nodes[0], nodes[1], nodes[3]]}
    assert assigned(graph, group(graph), []) == {}


class TestShares:
    def graph(self) -> Graph:
        net = Sketch()
        return net.graph(net.norm(net.conv("x")))

    def test_all_times_add_up(self) -> None:
        found = shares(
            self.graph(),
            ran("x.uint8.quantize", precision="boundary", seconds=4.0),
            ran("conv_0", kernel="QLinearConv", precision="int8", seconds=2.0),
            ran("batch_norm_1:0.uint8.dequantize", precision="boundary", seconds=1.0),
        )
        assert found == {"conv_0": Share("QLinearConv", "int8", 7.0)}

    def test_the_kernel_is_that_of_the_anchor_however_long_its_company_takes(self) -> None:
        company = [
            ran("x.to_rows", kernel="Reshape", seconds=9.0),
            ran("other", "conv_0:0", kernel="Cast", seconds=5.0),
        ]
        anchor = ran("conv_0", kernel="QGemm", precision="int8", seconds=1.0)
        for order in ([*company, anchor], [anchor, *company]):
            assert shares(self.graph(), *order)["conv_0"] == Share("QGemm", "int8", 15.0)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    def test_without_an_anchor_by_name_it_is_the_slowest(self, order: tuple[int, ...]) -> None:
        nodes = [
            ran("a", "conv_0:0", kernel="A", seconds=3.0),
            ran("b", "conv_0:0", kernel="B", seconds=2.0),
            ran("c", "batch_norm_1:0", kernel="C", seconds=4.0),
        ]
        assert shares(self.graph(), *(nodes[index] for index in order))["conv_0"] == Share("C", "fp32", 9.0)

    def test_boundaries_alone_have_no_kernel(self) -> None:
        found = shares(self.graph(), ran("x.uint8.quantize", precision="boundary", seconds=0.5))
        assert found == {"conv_0": Share("", "", 0.5)}

    def test_without_times_there_is_a_kernel(self) -> None:
        assert shares(self.graph(), ran("conv_0", kernel="Conv", seconds=0.0)) == {"conv_0": Share("Conv", "fp32", 0.0)}


@cache
def profiles(name: str) -> tuple[tuple[Group, ...], frozenset[str], Mapping[str, Share], Mapping[str, Share]]:
    """The groups of a builders' case, those in int8, and what ran in fp32 and then."""
    case = builders.CASES[name]
    model, target, inputs = open_model(case.model(0)), open_target("onnxruntime:cpu", 1), case.inputs(4, 0)
    graph, groups = model.graph, group(model.graph)
    space = candidates(groups, [], lambda one: target.menu(graph, one))
    low = settle(graph, groups, space.coded)
    wanted = coded_tensors(graph, groups, tied(graph, groups))
    (observed,) = model.observe([Batch(inputs, None)], wanted)
    ranges = {tensor: (float(values.min()), float(values.max())) for tensor, values in observed.items()}
    plan = Plan(model.sha256, {one: Choice(str(space.coded[one]), "") for one in low}, ranges, target.name)
    original = attribute(graph, groups, target.executed(model.original(), inputs, 3))
    return groups, low, original, attribute(graph, groups, target.executed(model.converted(plan), inputs, 3))


@pytest.mark.parametrize("name", builders.CASES)
class TestOnnxRuntime:
    def test_every_product_is_found_in_fp32(self, name: str) -> None:
        groups, _, original, _ = profiles(name)
        for one in groups:
            if one.is_product:
                assert original[one.name].precision == "fp32"
                assert any(word in original[one.name].kernel for word in ("Conv", "Gemm", "MatMul"))

    def test_every_product_is_found_with_its_own_kernel_in_int8(self, name: str) -> None:
        groups, low, _, tuned = profiles(name)
        assert any(one.is_product and one.name in low for one in groups)
        for one in groups:
            if one.is_product:
                share = tuned[one.name]
                assert share.precision == ("int8" if one.name in low else "fp32")
                assert any(word in share.kernel for word in ("Conv", "Gemm", "MatMul"))

    def test_joints_in_int8_are_found_as_such(self, name: str) -> None:
        groups, low, _, tuned = profiles(name)
        for one in groups:
            if not one.is_product and one.name in low:
                assert tuned[one.name].precision == "int8"
                assert "QLinear" in tuned[one.name].kernel
