"""What can be asked for a group: the schemes that can be written, and a reason for each that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import CASES
from conversion import OPENVINO, TARGET
from fewbits.eligibility import obstacle
from fewbits.formats.scheme import (
    BF16,
    FP16,
    FP32,
    INT4_BLOCKS,
    INT4_OTHER_BLOCKS,
    INT4_SHIFTED_BLOCKS,
    INT4_SMOOTHED,
    INT8_BLOCKS,
    INT8_DYNAMIC,
    INT8_PAIR,
    INT8_SMOOTHED,
    INT8_STATIC,
    INT8_SYMMETRIC,
    INT8_SYMMETRIC_PAIR,
    INT8_SYMMETRIC_SMOOTHED,
    INT8_WEIGHT,
    Scheme,
)
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.targets import open_target
from fewbits.targets.menu import menu
from fewbits.targets.protocol import Target
from graphs import Sketch


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize("name", CASES)
def test_everything_asked_is_offered_or_refused_with_the_reason(target: Target, name: str) -> None:
    graph = open_model(CASES[name].model(0)).graph
    for one in group(graph):
        found = target.menu(graph, one)
        assert found.schemes[0] == FP32
        assert len({*found.schemes, *(refusal.scheme for refusal in found.refusals)}) == len(found.schemes) + len(
            found.refusals
        )
        assert not any(obstacle(graph, one, scheme) for scheme in found.schemes)
        assert all(refusal.reason == obstacle(graph, one, refusal.scheme) != "" for refusal in found.refusals)


def linear() -> Sketch:
    sketch = Sketch(("batch", 64))
    sketch.add(Kind.MATMUL, "x", sketch.constant(64, 6))
    return sketch


def offered(target: Target, sketch: Sketch) -> tuple[Scheme, ...]:
    graph = sketch.graph()
    return target.menu(graph, group(graph)[0]).schemes


def test_a_linear_layer() -> None:
    codes = (INT8_STATIC, INT8_SMOOTHED)
    blocks = (INT8_BLOCKS, INT4_BLOCKS, INT4_SHIFTED_BLOCKS)
    # Of a depth of 64: no blocks of 128.
    more = [one for one in (*INT4_OTHER_BLOCKS, *INT4_SMOOTHED) if "g128" not in str(one)]
    assert offered(TARGET, linear()) == (FP32, *codes, BF16, FP16, INT8_DYNAMIC, *blocks, *more)
    codes = (INT8_STATIC, INT8_SYMMETRIC, INT8_SMOOTHED, INT8_SYMMETRIC_SMOOTHED)
    assert offered(OPENVINO, linear()) == (FP32, *codes, BF16, FP16, INT8_WEIGHT)


def test_a_product_of_two_activations_has_the_runtimes_own_pair() -> None:
    sketch = Sketch((3, 4, 4))
    sketch.add(Kind.MATMUL, "x", sketch.input("z"))
    assert offered(TARGET, sketch) == (FP32, INT8_PAIR, BF16, FP16)
    assert offered(OPENVINO, sketch) == (FP32, INT8_SYMMETRIC_PAIR, BF16, FP16)


def test_a_joint_has_unsigned_codes_on_every_runtime() -> None:
    sketch = Sketch()
    sketch.add(Kind.OTHER, sketch.add(Kind.ADD, "x", sketch.input("z")))
    assert offered(TARGET, sketch) == offered(OPENVINO, sketch) == (FP32, INT8_PAIR, BF16, FP16)


def test_static_codes_come_first_and_others_in_the_order_given() -> None:
    graph = linear().graph()
    (one,) = group(graph)
    assert menu(graph, one, (FP16, INT8_WEIGHT, BF16)).schemes == (FP32, INT8_STATIC, FP16, INT8_WEIGHT, BF16)
    assert menu(graph, one, ()).schemes == (FP32, INT8_STATIC)


def test_modules_are_smoothed_where_a_matrix_multiplies() -> None:
    target = open_target("torch:cpu", 1)
    schemes = offered(target, linear())
    awq = tuple(replace(one, smoothed=True) for one in schemes if one in (INT4_BLOCKS, INT4_SHIFTED_BLOCKS))
    assert {INT8_STATIC, INT8_SMOOTHED, *awq} <= {*schemes} and len(awq) == 2
    # Of an image, and of two activations, it is not even asked.
    image = Sketch(("batch", 3, 8, 8))
    image.add(Kind.CONV, "x", image.constant(4, 3, 3, 3))
    found = target.menu(image.graph(), group(image.graph())[0])
    assert not any(one.smoothed for one in (*found.schemes, *(refusal.scheme for refusal in found.refusals)))
