"""Work and sizes of layers, as anyone would count them by hand."""

from __future__ import annotations

import pytest

from fewbits.costs.layers import layer_spec
from fewbits.costs.model import LayerSpec
from fewbits.errors import ModelError
from fewbits.graph import Graph, Kind, Tensor
from fewbits.grouping import group
from graphs import Sketch


def only(sketch: Sketch, *outputs: str) -> LayerSpec:
    graph = sketch.graph(*outputs)
    (found,) = (layer_spec(graph, one) for one in group(graph))
    return found


def test_a_strided_convolution_with_its_activation() -> None:
    sketch = Sketch(("batch", 3, 32, 32))
    x = sketch.add(
        Kind.CONV, "x", sketch.constant(16, 3, 5, 3), shape=("batch", 16, 16, 16), attributes={"strides": (2, 2)}
    )
    y = sketch.add(Kind.RELU, x, shape=("batch", 16, 16, 16))
    assert only(sketch, y) == LayerSpec(
        "conv_0",
        "conv",
        macs=16 * 16 * 16 * 3 * 5 * 3,
        weights=16 * 3 * 5 * 3,
        in_elems=3 * 32 * 32,
        out_elems=16 * 16 * 16,
        cin=3,
        cout=16,
        kh=5,
        kw=3,
        stride=2,
        out_h=16,
        out_w=16,
    )


def test_a_depthwise_convolution() -> None:
    sketch = Sketch(("batch", 8, 4, 4))
    spec = only(sketch, sketch.add(Kind.CONV, "x", sketch.constant(8, 1, 3, 3), attributes={"group": 8}))
    assert (spec.groups, spec.cin, spec.cout, spec.depth, spec.is_depthwise) == (8, 8, 8, 9, True)
    assert (spec.macs, spec.weights) == (8 * 16 * 9, 72)


def test_a_grouped_convolution_is_not_depthwise() -> None:
    sketch = Sketch(("batch", 8, 4, 4))
    spec = only(sketch, sketch.add(Kind.CONV, "x", sketch.constant(8, 4, 3, 3), attributes={"group": 2}))
    assert (spec.cin, spec.depth, spec.is_depthwise) == (8, 36, False)


def test_a_transposed_convolution_has_its_channels_the_other_way_round() -> None:
    sketch = Sketch(("batch", 8, 4, 4))
    made = sketch.add(
        Kind.CONV_TRANSPOSE,
        "x",
        sketch.constant(8, 5, 2, 2),
        shape=("batch", 10, 8, 8),
        attributes={"strides": (2, 2), "group": 2},
    )
    spec = only(sketch, made)
    assert (spec.cin, spec.cout, spec.out_h, spec.out_w, spec.weights) == (8, 10, 8, 8, 160)
    assert spec.macs == 8 * 16 * 5 * 4
    assert spec.depth * spec.cout == spec.weights


@pytest.mark.parametrize(("rank", "kernel", "out"), [(1, (1, 3), (1, 9)), (3, (9, 3), (81, 9))])
def test_other_numbers_of_spatial_axes(rank: int, kernel: tuple[int, int], out: tuple[int, int]) -> None:
    sketch = Sketch((1, 4, *(9,) * rank))
    spec = only(sketch, sketch.add(Kind.CONV, "x", sketch.constant(6, 4, *(3,) * rank), shape=(1, 6, *(9,) * rank)))
    assert ((spec.kh, spec.kw), (spec.out_h, spec.out_w)) == (kernel, out)
    assert spec.depth * spec.cout == spec.weights


def test_a_matrix_product() -> None:
    sketch = Sketch(("batch", 5, 4))
    spec = only(sketch, sketch.matmul("x", columns=6, shape=("batch", 5, 6)))
    assert spec == LayerSpec("matmul_0", "matmul", 120, 24, 20, 30, cin=4, cout=6, out_w=5)


def test_a_gemm_with_its_weight_transposed() -> None:
    sketch = Sketch(("batch", 4))
    made = sketch.add(
        Kind.GEMM, "x", sketch.constant(6, 4), sketch.constant(6), shape=("batch", 6), attributes={"transB": 1}
    )
    spec = only(sketch, made)
    assert (spec.macs, spec.cin, spec.cout, spec.out_w, spec.weights) == (24, 4, 6, 1, 24)


def test_a_product_of_two_activations_has_no_weight() -> None:
    sketch = Sketch((1, 2, 5, 4))
    other = sketch.input("other", (1, 2, 4, 7))
    spec = only(sketch, sketch.add(Kind.MATMUL, "x", other, shape=(1, 2, 5, 7)))
    assert (spec.weights, spec.second_elems, spec.in_elems, spec.out_elems, spec.macs) == (0, 56, 40, 70, 280)


def test_a_joint_reads_all_its_operands_and_multiplies_nothing() -> None:
    sketch = Sketch(("batch", 8, 4, 4))
    spec = only(sketch, sketch.add(Kind.CONCAT, "x", sketch.input("y"), shape=("batch", 16, 4, 4)))
    assert (spec.macs, spec.weights, spec.in_elems, spec.out_elems) == (0, 0, 256, 256)
    assert (spec.cin, spec.cout, spec.out_h, spec.out_w) == (16, 16, 4, 4)


def test_a_pool_has_its_window() -> None:
    sketch = Sketch(("batch", 8, 4, 4))
    attributes = {"kernel_shape": (2, 2), "strides": (2, 2)}
    spec = only(sketch, sketch.add(Kind.AVERAGE_POOL, "x", shape=("batch", 8, 2, 2), attributes=dict(attributes)))
    assert (spec.kh, spec.kw, spec.stride, spec.out_elems) == (2, 2, 2, 32)


def test_an_unknown_shape_is_an_error_that_names_it() -> None:
    sketch = Sketch()
    made = sketch.graph(sketch.conv("x"))
    blind = Graph(
        made.nodes, {**made.tensors, "conv_0:0": Tensor("conv_0:0", "float32", None)}, made.inputs, made.outputs
    )
    with pytest.raises(ModelError, match="conv_0:0"):
        layer_spec(blind, group(made)[0])
