from __future__ import annotations

from collections.abc import Mapping

import builders
from fewbits.costs.signature import fused, signature
from fewbits.graph import Kind
from fewbits.grouping import Group, group
from fewbits.models import open_model
from graphs import Sketch

SHAPES = {"x": (1, 8, 4, 4)}


def of(sketch: Sketch, *outputs: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> str:
    """The signature of the first group."""
    graph = sketch.graph(*outputs)
    return signature(graph, group(graph)[0], shapes)


def conv(*weight: int, **attributes: int | tuple[int, ...]) -> str:
    sketch = Sketch()
    shape = weight or (8, 8, 3, 3)
    return of(sketch, sketch.add(Kind.CONV, "x", sketch.constant(*shape), attributes=dict(attributes)))


def test_it_is_a_text_that_a_person_can_read() -> None:
    assert conv(pads=(1, 1, 1, 1), group=1) == "a:1x8x4x4 w:8x8x3x3 b:0 group=1,pads=1x1x1x1"


def test_shapes_and_attributes_tell_regions_apart_names_do_not() -> None:
    assert conv() == conv()
    different = {conv(), conv(16, 8, 3, 3), conv(8, 8, 1, 1), conv(group=8), conv(group=1), conv(strides=(2, 2))}
    assert len(different) == 6
    sketch = Sketch()
    renamed = sketch.add(Kind.CONV, sketch.input("other"), sketch.constant(8, 8, 3, 3))
    assert of(sketch, renamed, shapes={"other": (1, 8, 4, 4)}) == conv()


def test_the_shape_is_that_of_the_call_not_of_the_graph() -> None:
    sketch = Sketch()
    y = sketch.conv("x")
    assert of(sketch, y, shapes={"x": (1, 8, 4, 4)}) != of(sketch, y, shapes={"x": (16, 8, 4, 4)})


def test_a_bias_counts() -> None:
    sketch = Sketch()
    y = sketch.add(Kind.CONV, "x", sketch.constant(8, 8, 3, 3), sketch.constant(8))
    assert of(sketch, y) == conv().replace("b:0", "b:1")


def test_a_joint_has_no_weight() -> None:
    sketch = Sketch()
    other = sketch.input("y")
    assert of(sketch, sketch.add(Kind.ADD, "x", other), shapes={"x": (1, 8), "y": (1, 8)}) == "a:1x8,1x8 w:- b:0"


def test_what_is_fused_behind_is_said() -> None:
    sketch = Sketch()
    y = sketch.add(Kind.RELU, sketch.norm(sketch.conv("x")))
    graph = sketch.graph(y)
    (only,) = group(graph)
    assert fused(graph, only) == "Batch_Norm+Relu"
    plain = Sketch()
    graph = plain.graph(plain.conv("x"))
    assert fused(graph, group(graph)[0]) == ""


def test_the_blocks_of_a_transformer_are_alike() -> None:
    """Two layers of one width have the same regions, which are measured once."""
    graph = open_model(builders.transformer()).graph
    groups = group(graph)
    shapes = {
        name: tuple(12 if size == "sequence" else 1 if isinstance(size, str) else size for size in tensor.shape or ())
        for name, tensor in graph.tensors.items()
    }
    known = [one for one in groups if all(graph.tensors[name].shape for name in one.operands)]

    def name(one: Group) -> tuple[str, str, str]:
        return graph.node[one.name].op, signature(graph, one, shapes), fused(graph, one)

    products = [name(one) for one in known if one.is_product and one.weight]
    assert len(products) == 13
    # Four of one shape and two of the feed-forward part in each of two layers, and the classifier.
    assert len(set(products)) == 4
