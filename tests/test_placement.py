"""Where codes flow in the structures that matter: who reads them, who writes them, who stays out."""

from collections.abc import Collection

import pytest

import builders
from fewbits.formats.integer import INT8R, UINT8, IntFormat
from fewbits.formats.scheme import BF16, FP32, INT8_DYNAMIC, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import group, tied
from fewbits.models import open_model
from fewbits.placement import Placement, between_codes, coded_tensors, formats, origin, place, settle
from graphs import Sketch, int8


def placed(graph: Graph, low: Collection[str] | None = None, *, repeats: bool = True) -> Placement:
    """The placement with `low` (or everything) in int8."""
    groups = group(graph)
    schemes = {one.name: int8(one) for one in groups if low is None or one.name in low}
    return place(graph, groups, schemes, repeats=repeats)


def test_a_convolution_reads_and_writes_codes() -> None:
    net = Sketch()
    a = net.conv("x")
    found = placed(net.graph(net.add(Kind.SOFTMAX, a)))
    assert found.reads == {("conv_0", "x"): UINT8}
    assert found.writes == {a: UINT8}


def test_formats_of_the_operands() -> None:
    assert formats(INT8_STATIC) == (UINT8, INT8R)
    with pytest.raises(ValueError, match="fp32"):
        formats(FP32)


@pytest.mark.parametrize("scheme", [FP32, BF16, INT8_DYNAMIC, INT8_WEIGHT])
def test_only_static_groups_have_quantisers(scheme: Scheme) -> None:
    net = Sketch((4, 4))
    a = net.matmul("x", columns=4, shape=(4, 4))
    b = net.matmul(a, columns=4, shape=(4, 4))
    graph = net.graph(b)
    groups = group(graph)
    assert place(graph, groups, {"matmul_0": scheme, "matmul_1": INT8_STATIC}) == Placement(
        {("matmul_1", a): UINT8}, {}
    )
    assert place(graph, groups, {"matmul_0": scheme, "matmul_1": scheme}) == Placement({}, {})


class TestProducts:
    def test_a_matrix_product_gives_floats_to_a_float_reader(self) -> None:
        net = Sketch((3, 4))
        a = net.add(Kind.GEMM, "x", net.constant(4, 4))
        found = placed(net.graph(net.add(Kind.SOFTMAX, a)))
        assert found.reads == {("gemm_0", "x"): UINT8}
        assert found.writes == {}

    def test_a_matrix_product_gives_codes_if_every_reader_wants_them(self) -> None:
        net = Sketch((3, 4))
        a = net.add(Kind.RELU, net.add(Kind.GEMM, "x", net.constant(4, 4)))
        b, c = (net.add(Kind.GEMM, a, net.constant(4, 4)) for _ in range(2))
        graph = net.graph(b, c)
        assert placed(graph).writes == {a: UINT8}
        assert placed(graph, ["gemm_0", "gemm_2"]).writes == {}

    def test_the_output_of_the_model_stays_float(self) -> None:
        net = Sketch((3, 4))
        a = net.add(Kind.GEMM, "x", net.constant(4, 4))
        b = net.add(Kind.GEMM, a, net.constant(4, 4))
        assert placed(net.graph(a, b)).writes == {}
        assert placed(net.graph(b), None).writes == {a: UINT8}
        assert placed(net.graph(b, pinned=[a])).writes == {}

    def test_the_second_activation_has_the_format_of_weights(self) -> None:
        net = Sketch((3, 4, 4))
        z = net.input("z")
        found = placed(net.graph(net.add(Kind.MATMUL, "x", z)))
        assert found.reads == {("matmul_0", "x"): UINT8, ("matmul_0", "z"): INT8R}

    def test_a_product_of_a_tensor_with_itself_reads_it_in_one_format(self) -> None:
        net = Sketch((3, 4, 4))
        found = placed(net.graph(net.add(Kind.MATMUL, "x", "x")))
        assert found.reads == {("matmul_0", "x"): UINT8}

    def test_two_formats_for_one_tensor_where_two_readers_differ(self) -> None:
        net = Sketch((4, 4))
        a = net.add(Kind.GEMM, "x", net.constant(4, 4))
        b = net.add(Kind.MATMUL, "x", a)
        c = net.add(Kind.GEMM, a, net.constant(4, 4))
        found = placed(net.graph(b, c))
        assert found.reads["matmul_1", a] == INT8R
        assert found.reads["gemm_2", a] == UINT8
        assert a not in found.writes


class TestInnerAndOutput:
    def test_behind_hard_swish_there_are_floats(self) -> None:
        net = Sketch()
        a = net.norm(net.conv("x"))
        b = net.add(Kind.HARD_SWISH, a)
        found = placed(net.graph(net.conv(b)))
        assert a in found.writes
        assert b not in found.writes
        assert found.reads["conv_3", b] == UINT8

    def test_codes_of_a_relu_are_written_behind_it(self) -> None:
        net = Sketch()
        a = net.norm(net.conv("x"))
        b = net.add(Kind.RELU, a)
        assert set(placed(net.graph(net.add(Kind.SOFTMAX, b))).writes) == {b}


class TestCarriers:
    def test_max_pool_between_convolutions_carries_codes(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.MAX_POOL, a)
        c = net.conv(b)
        found = placed(net.graph(net.add(Kind.SOFTMAX, c)))
        assert found.reads["max_pool_1", a] == UINT8
        assert found.writes == {a: UINT8, b: UINT8, c: UINT8}

    def test_max_pool_behind_floats_drops_elements_first(self) -> None:
        net = Sketch()
        b = net.add(Kind.MAX_POOL, "x")
        net.conv(b)
        found = placed(net.graph("conv_1:0"))
        assert set(found.reads) == {("conv_1", b)}

    def test_max_pool_behind_other_codes_drops_elements_first(self) -> None:
        net = Sketch((4, 4))
        a = net.conv("x")
        b = net.add(Kind.MAX_POOL, a)
        found = placed(net.graph(net.add(Kind.MATMUL, "x", b)))
        assert found.writes[a] == UINT8
        assert found.reads["matmul_2", b] == INT8R
        assert ("max_pool_1", a) not in found.reads

    @pytest.mark.parametrize("kind", [Kind.RESHAPE, Kind.TRANSPOSE])
    def test_what_only_permutes_carries_codes_from_floats_too(self, kind: Kind) -> None:
        net = Sketch((3, 4))
        a = net.add(kind, net.add(Kind.SOFTMAX, "x"))
        found = placed(net.graph(net.add(Kind.GEMM, a, net.constant(4, 4))))
        assert found.reads[f"{kind}_1", "softmax_0:0"] == UINT8
        assert found.writes == {a: UINT8}

    def test_a_chain_of_carriers(self) -> None:
        net = Sketch((3, 4))
        names = ["x"]
        for kind in (Kind.RESHAPE, Kind.TRANSPOSE, Kind.RESHAPE):
            names.append(net.add(kind, names[-1]))
        found = placed(net.graph(net.add(Kind.GEMM, names[-1], net.constant(4, 4))))
        assert found.reads["reshape_0", "x"] == UINT8
        assert set(found.writes) == set(names[1:])

    def test_a_float_reader_of_a_permutation_of_floats_keeps_it_float(self) -> None:
        net = Sketch((3, 4))
        a = net.add(Kind.TRANSPOSE, "x")
        b, c = net.add(Kind.GEMM, a, net.constant(4, 4)), net.add(Kind.SOFTMAX, a)
        found = placed(net.graph(b, c))
        assert set(found.reads) == {("gemm_1", a)}
        assert found.writes == {}

    def test_a_float_reader_behind_a_carrier_of_codes_reads_their_values(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.MAX_POOL, a)
        c, d = net.conv(b), net.add(Kind.SOFTMAX, b)
        found = placed(net.graph(c, d))
        assert found.writes[b] == UINT8
        assert ("softmax_3", b) not in found.reads

    @pytest.mark.parametrize("outside", ["output", "pinned"])
    def test_a_carrier_that_is_read_outside_stays_float(self, outside: str) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.TRANSPOSE, a)
        c = net.conv(b)
        found = placed(net.graph(b, c) if outside == "output" else net.graph(c, pinned=[b]), ["conv_0", "conv_2"])
        assert b not in found.writes
        assert found.reads["conv_2", b] == UINT8

    def test_indices_of_max_pool_keep_it_float(self) -> None:
        net = Sketch()
        b = net.add(Kind.MAX_POOL, net.conv("x"), outputs=2)
        assert b not in placed(net.graph(net.conv(b))).writes

    @pytest.mark.parametrize("dtype", ["float16", "unknown"])
    def test_only_float32_is_carried_as_codes(self, dtype: str) -> None:
        net = Sketch((3, 4))
        a = net.add(Kind.TRANSPOSE, net.add(Kind.OTHER, "x", dtype=dtype), dtype=dtype)
        assert placed(net.graph(net.add(Kind.GEMM, a, net.constant(4, 4)))).writes == {}

    def test_readers_that_want_different_codes_quantise_for_themselves(self) -> None:
        net = Sketch((4, 4))
        a = net.add(Kind.TRANSPOSE, "x")
        b, c = net.add(Kind.MATMUL, a, "x"), net.add(Kind.MATMUL, "x", a)
        found = placed(net.graph(b, c))
        assert (found.reads["matmul_1", a], found.reads["matmul_2", a]) == (UINT8, INT8R)
        assert found.writes == {}
        assert ("transpose_0", "x") not in found.reads

    def test_transposes_and_reshapes_of_attention_carry_codes(self) -> None:
        graph = open_model(builders.transformer(layers=1)).graph
        groups = group(graph)
        found = placed(graph, settle(graph, groups, [one.name for one in groups]))
        carriers = [node for node in graph.nodes if node.kind in (Kind.TRANSPOSE, Kind.RESHAPE)]
        carried = {node for node, _ in found.reads} & {node.name for node in carriers}
        inside = {node.name for node in carriers if node.op in ("Transpose", "Reshape")}
        # Query, key and value, and the way back; what shapes the mask stays out.
        assert carried == inside
        assert len(carried) == 8
        keys = {format for (node, _), format in found.reads.items() if node in carried}
        assert keys == {UINT8, INT8R}


class TestCarriersWithoutRepeats:
    """The quantiser stands in front of a carrier, and nothing behind it."""

    def test_max_pool_between_convolutions(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.MAX_POOL, a)
        c = net.conv(b)
        found = placed(net.graph(net.add(Kind.SOFTMAX, c)), repeats=False)
        assert found.reads == {("conv_0", "x"): UINT8, ("max_pool_1", a): UINT8}
        assert found.writes == {a: UINT8, c: UINT8}

    def test_a_chain_of_carriers_is_quantised_at_its_start(self) -> None:
        net = Sketch((3, 4))
        names = ["x"]
        for kind in (Kind.RESHAPE, Kind.TRANSPOSE, Kind.RESHAPE):
            names.append(net.add(kind, names[-1]))
        found = placed(net.graph(net.add(Kind.GEMM, names[-1], net.constant(4, 4))), repeats=False)
        assert found == Placement({("reshape_0", "x"): UINT8}, {})

    def test_a_float_reader_behind_a_carrier_of_codes_reads_their_values(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.MAX_POOL, a)
        found = placed(net.graph(net.conv(b), net.add(Kind.SOFTMAX, b)), repeats=False)
        assert found.reads["max_pool_1", a] == UINT8
        assert ("conv_2", b) not in found.reads and ("softmax_3", b) not in found.reads

    def test_readers_that_want_different_codes_quantise_for_themselves(self) -> None:
        net = Sketch((4, 4))
        a = net.add(Kind.TRANSPOSE, "x")
        graph = net.graph(net.add(Kind.MATMUL, a, "x"), net.add(Kind.MATMUL, "x", a))
        assert placed(graph, repeats=False) == placed(graph)

    def test_attention_has_one_quantiser_for_each_of_query_key_and_value(self) -> None:
        graph = open_model(builders.transformer(layers=1)).graph
        groups = group(graph)
        low = [one.name for one in groups if one.is_product]
        found, repeated = placed(graph, low, repeats=False), placed(graph, low)
        carriers = {node.name for node in graph.nodes if node.kind in (Kind.TRANSPOSE, Kind.RESHAPE)}
        assert len({name for name, _ in repeated.reads} & carriers) == 8
        # Reshapes of query, key and value, the transpose of the mixed values; what follows them is not asked again.
        assert {graph.node[name].op for name, _ in found.reads if name in carriers} == {"Reshape", "Transpose"}
        assert len({name for name, _ in found.reads} & carriers) == 4


class TestSettle:
    def low(self, graph: Graph, low: Collection[str] | None = None) -> frozenset[str]:
        groups = group(graph)
        return settle(graph, groups, [one.name for one in groups] if low is None else low)

    def test_a_joint_beside_a_convolution_stays_one_between_floats_goes(self) -> None:
        graph = open_model(builders.residual()).graph
        joint = next(one.name for one in group(graph) if one.kind is Kind.ADD)
        convolutions = [one.name for one in group(graph) if one.is_product]
        assert joint in self.low(graph)
        assert self.low(graph, [joint]) == frozenset()
        assert self.low(graph, [joint, convolutions[0]]) == {joint, convolutions[0]}
        assert self.low(graph, [joint, convolutions[1]]) == {convolutions[1]}

    def test_joints_hold_each_other_only_with_a_convolution_at_the_start(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.ADD, a, "x")
        c = net.add(Kind.ADD, b, "x")
        graph = net.graph(c)
        assert self.low(graph) == {"conv_0", "add_1", "add_2"}
        assert self.low(graph, ["add_1", "add_2"]) == frozenset()
        assert self.low(graph, ["conv_0", "add_2"]) == {"conv_0"}

    def test_neighbours_are_seen_through_carriers(self) -> None:
        net = Sketch()
        b = net.add(Kind.ADD, net.add(Kind.MAX_POOL, net.conv("x")), "x")
        assert self.low(net.graph(b)) == {"conv_0", "add_2"}

    def test_a_matrix_product_is_no_neighbour(self) -> None:
        net = Sketch((3, 4))
        b = net.add(Kind.ADD, net.add(Kind.GEMM, "x", net.constant(4, 4)), "x")
        assert self.low(net.graph(b)) == {"gemm_0"}

    def test_the_gate_of_squeeze_excite_stays(self) -> None:
        graph = open_model(builders.squeeze_excite()).graph
        assert self.low(graph) == {one.name for one in group(graph)}


class TestBetweenCodes:
    def joined(self, graph: Graph, low: Collection[str]) -> frozenset[str]:
        return between_codes(graph, group(graph), low)

    def residual(self) -> Sketch:
        net = Sketch()
        a, b = net.conv("x"), net.conv("x")
        net.conv(net.add(Kind.ADD, a, b))
        return net

    def test_an_addition_of_codes_for_codes(self) -> None:
        graph = self.residual().graph("conv_3:0")
        assert self.joined(graph, ["conv_0", "conv_1", "conv_3"]) == {"add_2"}

    @pytest.mark.parametrize("missing", ["conv_0", "conv_1", "conv_3"])
    def test_every_side_is_needed(self, missing: str) -> None:
        graph = self.residual().graph("conv_3:0")
        assert not self.joined(graph, {"conv_0", "conv_1", "conv_3"} - {missing})

    def test_a_float_reader_is_against_it(self) -> None:
        net = self.residual()
        net.add(Kind.SOFTMAX, "add_2:0")
        assert not self.joined(net.graph("conv_3:0", "softmax_4:0"), ["conv_0", "conv_1", "conv_3"])

    @pytest.mark.parametrize("outside", ["output", "pinned"])
    def test_a_reader_outside_is_against_it(self, outside: str) -> None:
        low = ["conv_0", "conv_1", "conv_3"]
        net = self.residual()
        graph = net.graph("conv_3:0", "add_2:0") if outside == "output" else net.graph("conv_3:0", pinned=["add_2:0"])
        assert not self.joined(graph, low)

    def test_a_reader_outside_is_seen_through_carriers(self) -> None:
        net = Sketch()
        a, b = net.conv("x"), net.conv("x")
        c = net.add(Kind.MAX_POOL, net.add(Kind.ADD, a, b))
        d = net.conv(c)
        low = ["conv_0", "conv_1", "conv_4"]
        assert self.joined(net.graph(d), low) == {"add_2"}
        assert not self.joined(net.graph(c, d), low)

    def test_behind_hard_swish_there_are_no_codes(self) -> None:
        net = Sketch()
        a, b = (net.add(Kind.HARD_SWISH, net.conv("x")) for _ in range(2))
        net.conv(net.add(Kind.ADD, a, b))
        graph = net.graph("conv_5:0")
        assert not self.joined(graph, ["conv_0", "conv_2", "conv_5"])


def test_origin_looks_through_carriers_only() -> None:
    net = Sketch()
    a = net.conv("x")
    b = net.add(Kind.RESHAPE, net.add(Kind.MAX_POOL, a))
    c = net.add(Kind.RELU, b)
    graph = net.graph(c)
    assert origin(graph, b) == a
    assert origin(graph, c) == c
    assert origin(graph, "x") == "x"


class TestCodedTensors:
    def test_operands_and_results_and_what_shares_their_scale(self) -> None:
        net = Sketch()
        a = net.conv("x")
        b = net.add(Kind.MAX_POOL, a)
        c = net.add(Kind.HARD_SWISH, net.conv(b))
        graph = net.graph(net.add(Kind.SOFTMAX, c))
        groups = group(graph)
        classes = tied(graph, groups)
        assert coded_tensors(graph, groups, classes) == ("x", a, b, "conv_2:0")
        assert coded_tensors(graph, groups[:1], classes) == ("x", a, b)
        assert coded_tensors(graph, (), classes) == ()

    def test_constants_need_no_range(self) -> None:
        net = Sketch((3, 4))
        a = net.add(Kind.RESHAPE, net.constant(3, 4))
        graph = net.graph(net.add(Kind.GEMM, a, net.constant(4, 4)))
        groups = group(graph)
        assert coded_tensors(graph, groups, tied(graph, groups)) == (a, "gemm_1:0")


def test_every_format_on_the_way_is_one_of_the_scheme() -> None:
    graph = open_model(builders.transformer()).graph
    found: set[IntFormat] = {*placed(graph).reads.values(), *placed(graph).writes.values()}
    assert found == {UINT8, INT8R}
