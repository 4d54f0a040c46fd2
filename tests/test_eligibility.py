"""Every reason why a group cannot be quantised, as structure gives it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fewbits.eligibility import obstacle
from fewbits.formats.scheme import BF16, FP16, FP32, INT4_BLOCKS, INT8_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, TF32, Scheme
from fewbits.graph import AttributeValue, Graph, Kind
from fewbits.grouping import group
from graphs import Sketch, int8


def reason(graph: Graph, position: int = -1, scheme: Scheme | None = None) -> str:
    one = group(graph)[position]
    return obstacle(graph, one, int8(one) if scheme is None else scheme)


def product(kind: Kind, weight: tuple[int, ...], *more: str, **attributes: AttributeValue) -> Sketch:
    sketch = Sketch()
    x = sketch.add(kind, "x", sketch.constant(*weight), *more, attributes=attributes)
    sketch.add(Kind.OTHER, x)
    return sketch


@pytest.mark.parametrize(
    "sketch",
    [
        product(Kind.CONV, (8, 8, 3, 3)),
        product(Kind.GEMM, (4, 6)),
        product(Kind.GEMM, (4, 6), alpha=1.0, beta=1.0, transA=0),
        product(Kind.MATMUL, (4, 6)),
    ],
)
def test_nothing_in_the_way(sketch: Sketch) -> None:
    assert reason(sketch.graph(sketch.nodes[-1].outputs[0])) == ""


def test_tf32_is_no_type_of_a_file() -> None:
    sketch = product(Kind.MATMUL, (4, 6))
    assert "no type that a file can have" in reason(sketch.graph(sketch.nodes[-1].outputs[0]), scheme=TF32)


def test_other_types() -> None:
    sketch = Sketch()
    half = sketch.input("half", dtype="float16")
    sketch.add(Kind.MATMUL, half, sketch.constant(4, 6, dtype="float16"), dtype="float16")
    assert "float16" in reason(sketch.graph())
    blind = Sketch()
    first, second = (blind.input(name, dtype="unknown") for name in ("a", "b"))
    blind.add(Kind.MATMUL, first, second, dtype="unknown")
    assert "not known" in reason(blind.graph())


def test_infinite_values() -> None:
    sketch = Sketch()
    mask = sketch.input("mask")
    joined = sketch.add(Kind.ADD, "x", mask)
    sketch.add(Kind.OTHER, joined)
    graph = sketch.graph()
    assert reason(graph) == ""
    graph = replace(graph, tensors={**graph.tensors, "mask": replace(graph.tensors["mask"], finite=False)})
    assert "infinite" in reason(graph)


def test_constants_in_the_wrong_place() -> None:
    sketch = Sketch()
    sketch.add(Kind.MATMUL, sketch.constant(4, 4), "x")
    sketch.add(Kind.MATMUL, sketch.constant(4, 4), sketch.constant(4, 4))
    sketch.add(Kind.GEMM, sketch.constant(4, 4), "x")
    sketch.add(Kind.MATMUL, sketch.constant(4), "x")
    graph = sketch.graph()
    # As an activation that is known beforehand.
    assert reason(graph, 0) == ""
    assert "no activation" in reason(graph, 1)
    assert "constant is the first operand" in reason(graph, 2)
    assert "ranks" in reason(graph, 3)


@pytest.mark.parametrize("kind", [Kind.CONV, Kind.GEMM])
def test_computed_weights_and_biases(kind: Kind) -> None:
    sketch = Sketch()
    sketch.add(kind, "x", sketch.input("weight"))
    sketch.add(kind, "x", sketch.constant(8, 8, 3, 3), sketch.input("bias"))
    graph = sketch.graph()
    assert "weight is computed" in reason(graph, 0)
    assert "bias is computed" in reason(graph, 1)


def test_outputs_of_the_model_keep_fp32() -> None:
    sketch = Sketch()
    conv = sketch.conv("x")
    joined = sketch.add(Kind.ADD, "x", conv)
    assert "cannot write floats" in reason(sketch.graph(conv), 0)
    assert "its output is the model's" in reason(sketch.graph(joined))
    gemm = product(Kind.GEMM, (4, 6))
    assert reason(gemm.graph(gemm.nodes[0].outputs[0])) == ""


def test_what_a_subgraph_reads() -> None:
    sketch = Sketch()
    conv = sketch.conv("x")
    joined = sketch.add(Kind.ADD, conv, "x")
    assert "subgraph" in reason(sketch.graph(pinned=[conv]), 0)
    assert "subgraph" in reason(sketch.graph(pinned=[joined]), 1)


def test_gemms() -> None:
    assert reason(product(Kind.GEMM, (4, 6), transA=1).graph()) == ""
    for name in ("alpha", "beta"):
        # Factors go into the constants that they scale.
        assert reason(product(Kind.GEMM, (4, 6), **{name: 0.5}).graph()) == ""
    for shape, fits in (((6,), True), ((1, 6), True), ((), True), ((3, 6), False), ((3, 1), False)):
        sketch = Sketch()
        sketch.add(Kind.GEMM, "x", sketch.constant(4, 6), sketch.constant(*shape))
        assert ("matrix" in reason(sketch.graph())) is not fits


def test_products_of_unusual_rank() -> None:
    assert reason(product(Kind.MATMUL, (2, 4, 6)).graph()) == ""
    assert "not a matrix" in reason(product(Kind.MATMUL, (4,)).graph())
    for shape in ((4,), None):
        sketch = Sketch()
        sketch.tensors["v"] = replace(sketch.tensors["x"], name="v", shape=shape)
        sketch.inputs.append("v")
        sketch.add(Kind.MATMUL, "v", sketch.constant(4, 6))
        assert "rank of its input" in reason(sketch.graph())


def test_joints() -> None:
    sketch = Sketch()
    pooled = sketch.add(Kind.AVERAGE_POOL, "x", attributes={"dilations": (2, 2)})
    plain = sketch.add(Kind.AVERAGE_POOL, pooled, attributes={"dilations": (1, 1)})
    sketch.add(Kind.OTHER, plain)
    assert "dilation" in reason(sketch.graph(), 0)
    assert reason(sketch.graph(), 1) == ""


STORED = (INT8_WEIGHT, INT8_BLOCKS, INT4_BLOCKS, INT8_DYNAMIC)


@pytest.mark.parametrize("kind", [Kind.CONV, Kind.CONV_TRANSPOSE, Kind.GEMM, Kind.MATMUL])
def test_fp32_is_always_possible(kind: Kind) -> None:
    assert reason(product(kind, (2, 4, 6)).graph(), scheme=FP32) == ""


@pytest.mark.parametrize("scheme", [BF16, FP16, None])
def test_transposed_convolutions(scheme: Scheme | None) -> None:
    assert reason(product(Kind.CONV_TRANSPOSE, (8, 8, 3, 3)).graph(), scheme=scheme) == ""


@pytest.mark.parametrize("scheme", STORED)
def test_transposed_convolutions_store_no_codes_alone(scheme: Scheme) -> None:
    assert "constant matrix" in reason(product(Kind.CONV_TRANSPOSE, (8, 8, 3, 3)).graph(), scheme=scheme)


class TestCasts:
    @pytest.mark.parametrize("scheme", [BF16, FP16])
    @pytest.mark.parametrize(
        "sketch",
        [
            product(Kind.CONV, (8, 8, 3, 3)),
            product(Kind.GEMM, (4, 6), alpha=0.5, transA=1),
            product(Kind.MATMUL, (2, 4, 6)),
        ],
    )
    def test_what_codes_refuse_and_floats_do_not(self, sketch: Sketch, scheme: Scheme) -> None:
        # Outputs of the model, matrices of any rank, factors: a cast stands behind.
        assert reason(sketch.graph(sketch.nodes[0].outputs[0]), 0, scheme) == ""

    def test_a_joint_whose_output_is_the_models(self) -> None:
        sketch = Sketch()
        pooled = sketch.add(Kind.AVERAGE_POOL, "x", attributes={"dilations": (2, 2)})
        assert reason(sketch.graph(pooled), 0, BF16) == ""

    def test_a_computed_weight_and_a_constant_first_operand(self) -> None:
        sketch = Sketch()
        sketch.add(Kind.CONV, "x", sketch.input("weight"))
        sketch.add(Kind.MATMUL, sketch.constant(4, 4), "x")
        graph = sketch.graph()
        assert reason(graph, 0, BF16) == reason(graph, 1, BF16) == ""

    def test_types_and_infinities(self) -> None:
        sketch = Sketch()
        half = sketch.input("half", dtype="float16")
        sketch.add(Kind.MATMUL, half, sketch.constant(4, 6, dtype="float16"), dtype="float16")
        mask = sketch.input("mask")
        sketch.add(Kind.ADD, "x", mask)
        graph = sketch.graph()
        graph = replace(graph, tensors={**graph.tensors, "mask": replace(graph.tensors["mask"], finite=False)})
        assert "float16" in reason(graph, 0, BF16)
        assert "infinite" in reason(graph, 1, BF16)

    def test_nothing_to_cast(self) -> None:
        sketch = Sketch()
        sketch.add(Kind.MATMUL, sketch.constant(4, 4), sketch.constant(4, 4))
        assert "no activation" in reason(sketch.graph(), 0, BF16)

    def test_a_computed_bias(self) -> None:
        sketch = Sketch()
        sketch.add(Kind.GEMM, "x", sketch.constant(4, 6), sketch.input("bias"))
        assert "bias is computed" in reason(sketch.graph(), 0, BF16)


@pytest.mark.parametrize("scheme", STORED)
class TestStored:
    def test_a_product_by_a_constant_matrix(self, scheme: Scheme) -> None:
        sketch = product(Kind.MATMUL, (64, 6))
        # The result is float: it may be the model's, and a subgraph may read it.
        result = sketch.nodes[0].outputs[0]
        assert reason(sketch.graph(result), 0, scheme) == ""
        assert reason(sketch.graph(pinned=[result]), 0, scheme) == ""

    def test_a_gemm(self, scheme: Scheme) -> None:
        assert reason(product(Kind.GEMM, (64, 6)).graph(), 0, scheme) == ""
        assert reason(product(Kind.GEMM, (6, 64), transB=1, alpha=0.5).graph(), 0, scheme) == ""
        assert ("transposed" in reason(product(Kind.GEMM, (64, 6), transA=1).graph(), 0, scheme)) != scheme.dynamic

    @pytest.mark.parametrize("kind", [Kind.CONV, Kind.ADD])
    def test_other_groups(self, kind: Kind, scheme: Scheme) -> None:
        sketch = Sketch()
        sketch.add(kind, "x", sketch.input("z") if kind is Kind.ADD else sketch.constant(4, 6))
        assert "constant matrix" in reason(sketch.graph(), 0, scheme)

    def test_matrices_in_the_wrong_place(self, scheme: Scheme) -> None:
        sketch = Sketch((4, 4))
        sketch.add(Kind.MATMUL, "x", "x")
        sketch.add(Kind.MATMUL, sketch.constant(4, 4), "x")
        sketch.add(Kind.MATMUL, sketch.constant(4, 4), sketch.constant(4, 4))
        sketch.add(Kind.MATMUL, "x", sketch.constant(2, 4, 6))
        sketch.add(Kind.MATMUL, "x", sketch.constant(4))
        graph = sketch.graph()
        assert "constant matrix" in reason(graph, 0, scheme)
        assert "constant is the first operand" in reason(graph, 1, scheme)
        assert "constant is the first operand" in reason(graph, 2, scheme)
        assert "more than one matrix" in reason(graph, 3, scheme)
        assert "not a matrix" in reason(graph, 4, scheme)

    def test_other_types(self, scheme: Scheme) -> None:
        sketch = Sketch()
        half = sketch.input("half", dtype="float16")
        sketch.add(Kind.MATMUL, half, sketch.constant(4, 6, dtype="float16"), dtype="float16")
        assert "float16" in reason(sketch.graph(), 0, scheme)


@pytest.mark.parametrize("scheme", [INT8_BLOCKS, INT4_BLOCKS])
def test_blocks_that_do_not_fill_the_depth(scheme: Scheme) -> None:
    assert "depth of 48" in reason(product(Kind.MATMUL, (48, 6)).graph(), 0, scheme)
    assert reason(product(Kind.MATMUL, (64, 6)).graph(), 0, scheme) == ""


def test_what_finds_its_range_at_every_call_is_smoothed_in_modules_only() -> None:
    sketch = product(Kind.MATMUL, (4, 6))
    graph = sketch.graph(sketch.nodes[-1].outputs[0])
    assert reason(graph, scheme=INT8_DYNAMIC) == ""
    assert "is not smoothed there" in reason(graph, scheme=replace(INT8_DYNAMIC, smoothed=True))
