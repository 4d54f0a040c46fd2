"""What is fused into one group, what is not, and which tensors share a scale."""

from dataclasses import replace

import pytest
from onnx import TensorProto, helper

import builders
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group, attentions, group, tied
from fewbits.models import open_model
from graphs import Sketch


def kinds(graph: Graph, one: Group) -> list[Kind]:
    return [graph.node[name].kind for name in one.nodes]


def only(graph: Graph) -> Group:
    (found,) = group(graph)
    return found


def by_kind(graph: Graph, kind: Kind) -> Group:
    (found,) = (one for one in group(graph) if one.kind is kind)
    return found


class TestProducts:
    def test_convolution_batch_norm_relu(self) -> None:
        net = Sketch()
        y = net.add(Kind.RELU, net.norm(net.conv("x")))
        graph = net.graph(y)
        found = only(graph)
        assert kinds(graph, found) == [Kind.CONV, Kind.BATCH_NORM, Kind.RELU]
        assert found.operands == ("x",)
        assert found.inner == found.output == y
        assert graph.is_constant(found.weight)
        assert found.bias == ""
        assert found.is_product

    def test_a_clip_with_constant_bounds(self) -> None:
        net = Sketch()
        y = net.add(Kind.CLIP, net.conv("x"), net.constant(), net.constant())
        found = only(net.graph(y))
        assert found.inner == found.output == y

    def test_a_clip_with_computed_bounds_is_not_fused(self) -> None:
        net = Sketch()
        bound = net.input("bound", ())
        a = net.conv("x")
        y = net.add(Kind.CLIP, a, "", bound)
        assert only(net.graph(y)).output == a

    def test_a_tensor_that_is_a_bound_is_not_what_is_clipped(self) -> None:
        net = Sketch()
        a = net.conv("x")
        y = net.add(Kind.CLIP, "x", a)
        assert only(net.graph(y)).output == a

    @pytest.mark.parametrize("kind", [Kind.HARD_SWISH, Kind.HARD_SIGMOID, Kind.SIGMOID])
    def test_behind_an_activation_that_a_quantiser_cannot_absorb_is_the_output(self, kind: Kind) -> None:
        net = Sketch()
        a = net.norm(net.conv("x"))
        y = net.add(kind, a)
        found = only(net.graph(y))
        assert (found.inner, found.output) == (a, y)
        assert len(found.nodes) == 3

    def test_one_activation_and_no_more(self) -> None:
        net = Sketch()
        a = net.add(Kind.RELU, net.conv("x"))
        assert only(net.graph(net.add(Kind.SIGMOID, a))).output == a

    def test_the_bias_of_a_convolution(self) -> None:
        net = Sketch()
        bias = net.constant(8)
        y = net.add(Kind.CONV, "x", net.constant(8, 8, 3, 3), bias)
        assert only(net.graph(y)).bias == bias

    def test_a_computed_weight_is_an_operand(self) -> None:
        net = Sketch()
        w = net.input("w", (8, 8, 3, 3))
        found = only(net.graph(net.add(Kind.CONV, "x", w)))
        assert (found.operands, found.weight) == (("x", "w"), "")

    def test_a_weight_may_be_shared(self) -> None:
        net = Sketch()
        w = net.constant(8, 8, 3, 3)
        a, b = net.add(Kind.CONV, "x", w), net.add(Kind.CONV, "x", w)
        assert [one.weight for one in group(net.graph(a, b))] == [w, w]

    def test_gemm_relu(self) -> None:
        net = Sketch((3, 4))
        bias = net.constant(6)
        y = net.add(Kind.RELU, net.add(Kind.GEMM, "x", net.constant(4, 6), bias))
        found = only(net.graph(y))
        assert (found.kind, found.bias, found.output) == (Kind.GEMM, bias, y)

    def test_a_product_of_two_activations(self) -> None:
        net = Sketch((3, 4, 4))
        z = net.input("z")
        found = only(net.graph(net.add(Kind.MATMUL, z, "x")))
        assert (found.operands, found.weight, found.bias) == (("z", "x"), "", "")

    def test_a_product_with_itself(self) -> None:
        net = Sketch((4, 4))
        assert only(net.graph(net.add(Kind.MATMUL, "x", "x"))).operands == ("x", "x")


class TestBatchNorm:
    def test_statistics_that_are_computed_are_not_folded(self) -> None:
        net = Sketch()
        mean = net.input("mean", (8,))
        a = net.conv("x")
        y = net.add(Kind.BATCH_NORM, a, net.constant(8), net.constant(8), mean, net.constant(8))
        assert only(net.graph(y)).output == a

    def test_statistics_of_the_batch_are_not_folded(self) -> None:
        net = Sketch()
        a = net.conv("x")
        constants = [net.constant(8) for _ in range(4)]
        y = net.add(Kind.BATCH_NORM, a, *constants, attributes={"training_mode": 1})
        assert only(net.graph(y)).output == a

    def test_extra_outputs_of_training_are_not_folded(self) -> None:
        net = Sketch()
        a = net.conv("x")
        y = net.add(Kind.BATCH_NORM, a, *(net.constant(8) for _ in range(4)), outputs=3)
        assert only(net.graph(y)).output == a

    def test_a_norm_of_something_else_that_reads_the_convolution_is_not_folded(self) -> None:
        net = Sketch()
        a = net.conv("x")
        y = net.add(Kind.BATCH_NORM, "x", a, *(net.constant(8) for _ in range(3)))
        assert only(net.graph(y)).output == a

    def test_computed_statistics_of_a_real_model(self) -> None:
        net = builders.Net()
        a, b = net.conv("x", 3, 8), net.conv("x", 3, 8, kernel=1)
        mean = net.add("ReduceMean", b, net.axes(0, 2, 3), keepdims=0)
        y = net.add("BatchNormalization", a, net.positive(8), net.small(8), mean, net.positive(8))
        shape = ("batch", 8, builders.SIZE, builders.SIZE)
        image = {"x": (TensorProto.FLOAT, ("batch", 3, builders.SIZE, builders.SIZE))}
        graph = open_model(net.model(image, {"y": (y, shape)})).graph
        assert {one.name: len(one.nodes) for one in group(graph)} == {"conv_0": 1, "conv_1": 1}


class TestBias:
    @pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6)])
    @pytest.mark.parametrize("first", [False, True])
    def test_a_vector_added_on_either_side(self, shape: tuple[int, ...], first: bool) -> None:
        net = Sketch(("batch", 5, 4))
        a, bias = net.matmul("x"), net.constant(*shape)
        y = net.add(Kind.ADD, *((bias, a) if first else (a, bias)), shape=("batch", 5, 6))
        found = only(net.graph(y))
        assert (found.bias, found.inner, len(found.nodes)) == (bias, y, 2)

    @pytest.mark.parametrize("shape", [(5, 6), (5, 1), (1,), (), (1, 1, 1, 6), (6, 1)])
    def test_other_constants_are_no_bias(self, shape: tuple[int, ...]) -> None:
        net = Sketch(("batch", 5, 4))
        a = net.matmul("x")
        y = net.add(Kind.ADD, a, net.constant(*shape), shape=("batch", 5, 6))
        found = only(net.graph(y))
        assert (found.bias, found.output) == ("", a)

    def test_a_vector_that_adds_an_axis_is_no_bias(self) -> None:
        net = Sketch((5, 4))
        a = net.matmul("x", shape=(5, 6))
        y = net.add(Kind.ADD, a, net.constant(1, 1, 6), shape=(1, 5, 6))
        assert only(net.graph(y)).output == a

    def test_a_product_with_a_vector_has_none(self) -> None:
        net = Sketch((6, 6))
        a = net.add(Kind.MATMUL, "x", net.constant(6), shape=(6,))
        y = net.add(Kind.ADD, a, net.constant(6), shape=(6,))
        assert only(net.graph(y)).output == a

    def test_one_entry_for_one_column_is_a_bias(self) -> None:
        net = Sketch(("batch", 5, 4))
        a = net.matmul("x", columns=1, shape=("batch", 5, 1))
        y = net.add(Kind.ADD, a, net.constant(1), shape=("batch", 5, 1))
        assert only(net.graph(y)).output == y

    def test_a_mask_of_infinities_is_no_bias(self) -> None:
        net = Sketch(("batch", 5, 4))
        a, mask = net.matmul("x"), net.constant(6)
        net.tensors[mask] = replace(net.tensors[mask], finite=False)
        y = net.add(Kind.ADD, a, mask, shape=("batch", 5, 6))
        assert only(net.graph(y)).output == a

    def test_a_residual_is_no_bias(self) -> None:
        net = Sketch(("batch", 5, 6))
        a = net.add(Kind.MATMUL, "x", net.constant(6, 6))
        y = net.add(Kind.ADD, a, "x")
        product, joint = group(net.graph(y))
        assert (product.output, product.bias) == (a, "")
        assert (joint.operands, joint.output) == ((a, "x"), y)

    def test_adding_a_product_to_itself_is_no_bias(self) -> None:
        net = Sketch(("batch", 5, 6))
        a = net.add(Kind.MATMUL, "x", net.constant(6, 6))
        product, joint = group(net.graph(net.add(Kind.ADD, a, a)))
        assert product.bias == ""
        assert joint.operands == (a, a)

    def test_a_product_of_two_activations_has_none(self) -> None:
        net = Sketch((3, 4, 4))
        a = net.add(Kind.MATMUL, "x", "x")
        y = net.add(Kind.ADD, a, net.constant(4))
        assert only(net.graph(y)).output == a

    def test_bias_then_activation(self) -> None:
        net = Sketch(("batch", 5, 4))
        shape = ("batch", 5, 6)
        a = net.add(Kind.ADD, net.matmul("x"), net.constant(6), shape=shape)
        y = net.add(Kind.RELU, a, shape=shape)
        assert only(net.graph(y)).output == y


class TestWhatStopsFusing:
    def test_a_second_reader(self) -> None:
        net = Sketch()
        a = net.conv("x")
        y = net.add(Kind.MUL, a, net.add(Kind.SIGMOID, a))
        product, joint = group(net.graph(y))
        assert product.nodes == ("conv_0",)
        assert joint.kind is Kind.MUL

    @pytest.mark.parametrize("outside", ["output", "pinned"])
    @pytest.mark.parametrize("after", [0, 1])
    def test_a_reader_outside(self, outside: str, after: int) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.norm(a)
        y = net.add(Kind.RELU, b)
        between = (a, b)[after]
        graph = net.graph(between, y) if outside == "output" else net.graph(y, pinned=[between])
        assert only(graph).output == between

    def test_a_tensor_read_by_a_subgraph_of_a_real_model(self) -> None:
        net = builders.Net()
        a = net.conv("x", 3, 8)
        y = net.add("Relu", a)
        branch = helper.make_graph(
            [helper.make_node("Abs", [a], ["inner"])],
            "branch",
            [],
            [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
        )
        net.nodes.append(helper.make_node("If", ["c"], ["z"], name="if", then_branch=branch, else_branch=branch))
        shape = ("batch", 8, builders.SIZE, builders.SIZE)
        model = net.model(
            {"x": (TensorProto.FLOAT, ("batch", 3, builders.SIZE, builders.SIZE)), "c": (TensorProto.BOOL, ())},
            {"y": (y, shape), "z": ("z", shape)},
        )
        graph = open_model(model).graph
        assert graph.pinned == {a}
        assert only(graph).nodes == ("conv_0",)


class TestJoints:
    def test_a_residual_add_takes_the_relu_behind_it(self) -> None:
        graph = open_model(builders.residual()).graph
        joint = by_kind(graph, Kind.ADD)
        assert kinds(graph, joint) == [Kind.ADD, Kind.RELU]
        assert not joint.is_product
        assert (joint.weight, joint.bias) == ("", "")

    def test_squeeze_excite(self) -> None:
        graph = open_model(builders.squeeze_excite()).graph
        gate = by_kind(graph, Kind.MUL)
        assert len(gate.operands) == 2
        pool = by_kind(graph, Kind.GLOBAL_AVERAGE_POOL)
        assert pool.operands[0] in gate.operands

    def test_attention(self) -> None:
        graph = open_model(builders.transformer(layers=1)).graph
        products = [one for one in group(graph) if one.kind is Kind.MATMUL]
        assert sum(not one.weight for one in products) == 2
        assert sum(bool(one.weight) and bool(one.bias) for one in products) == 6
        assert attentions(graph, products) == (tuple(one.name for one in products if not one.weight),)

    def test_two_products_without_a_softmax_are_no_attention(self) -> None:
        net = Sketch()
        scores = net.add(Kind.MATMUL, "q", "k")
        graph = net.graph(net.add(Kind.MATMUL, net.add(Kind.SIGMOID, scores), "v"))
        assert attentions(graph, group(graph)) == ()

    @pytest.mark.parametrize("kind", [Kind.ADD, Kind.MUL, Kind.CONCAT])
    @pytest.mark.parametrize("shape", [(), (8, 1, 1)])
    def test_a_constant_operand_makes_no_joint(self, kind: Kind, shape: tuple[int, ...]) -> None:
        net = Sketch()
        a = net.conv("x")
        y = net.add(kind, net.constant(*shape), a)
        assert only(net.graph(y)).nodes == ("conv_0",)

    def test_integers_make_no_joint(self) -> None:
        net = Sketch()
        ids = net.input("ids", (1,), "int64")
        y = net.add(Kind.ADD, ids, ids, dtype="int64")
        assert group(net.graph(y)) == ()

    def test_an_operand_may_come_twice(self) -> None:
        net = Sketch()
        a = net.conv("x")
        y = net.add(Kind.CONCAT, a, a, "x")
        assert by_kind(net.graph(y), Kind.CONCAT).operands == (a, a, "x")

    def test_carriers_and_the_rest_are_no_groups(self) -> None:
        net = Sketch()
        a = net.add(Kind.SOFTMAX, net.add(Kind.MAX_POOL, net.add(Kind.RESHAPE, "x", net.constant(2))))
        assert group(net.graph(a)) == ()


@pytest.mark.parametrize("name", builders.CASES)
def test_groups_come_in_graph_order_and_every_product_is_one(name: str) -> None:
    graph = open_model(builders.CASES[name].model(0)).graph
    groups = group(graph)
    order = [node.name for node in graph.nodes]
    assert [one.name for one in groups] == sorted((one.name for one in groups), key=order.index)
    products = {node.name for node in graph.nodes if node.op in ("Conv", "MatMul", "Gemm")}
    assert {one.name for one in groups if one.is_product} == products


class TestTied:
    def classes(self, graph: Graph) -> tuple[frozenset[str], ...]:
        return tied(graph, group(graph))

    def test_nothing_is_tied_to_nothing(self) -> None:
        net = Sketch()
        assert self.classes(net.graph(net.conv("x"))) == ()

    @pytest.mark.parametrize("kind", [Kind.MAX_POOL, Kind.RESHAPE, Kind.TRANSPOSE, Kind.SLICE])
    def test_a_carrier_ties_what_it_reads_and_gives(self, kind: Kind) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(kind, a, *([net.constant(2)] if kind in (Kind.RESHAPE, Kind.SLICE) else []))
        assert self.classes(net.graph(b)) == (frozenset({a, b}),)

    def test_a_concat_ties_its_operands_and_its_output(self) -> None:
        net = Sketch()
        a, b = net.conv("x"), net.conv("x")
        c = net.add(Kind.CONCAT, a, b)
        assert self.classes(net.graph(c)) == (frozenset({a, b, c}),)

    def test_an_absorbed_activation_is_part_of_the_concat_any_other_is_not(self) -> None:
        for kind, fused in ((Kind.RELU, True), (Kind.HARD_SWISH, False)):
            net = Sketch()
            a, b = net.conv("x"), net.conv("x")
            c = net.add(Kind.CONCAT, a, b)
            d = net.add(kind, c)
            assert self.classes(net.graph(d)) == (frozenset({a, b, d if fused else c}),)

    def test_ties_are_transitive_through_carriers_and_concats(self) -> None:
        net = Sketch()
        a, b, c = (net.conv("x") for _ in range(3))
        pooled = net.add(Kind.MAX_POOL, a)
        one = net.add(Kind.CONCAT, pooled, b)
        two = net.add(Kind.CONCAT, one, c)
        y = net.add(Kind.TRANSPOSE, two)
        assert self.classes(net.graph(y)) == (frozenset({a, pooled, b, one, c, two, y}),)

    def test_separate_chains_stay_separate(self) -> None:
        net = Sketch()
        a, b = net.conv("x"), net.conv("x")
        c, d = net.add(Kind.MAX_POOL, a), net.add(Kind.MAX_POOL, b)
        assert set(self.classes(net.graph(c, d))) == {frozenset({a, c}), frozenset({b, d})}

    def test_an_addition_ties_nothing(self) -> None:
        assert self.classes(open_model(builders.residual()).graph) == ()
