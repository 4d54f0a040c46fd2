"""The runtime model of OpenVINO in our words: names without what it hangs behind them, precisions, boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import openvino as ov
import pytest
from openvino import opset13 as ops

from fewbits.targets.openvino_readback import readback
from fewbits.targets.protocol import Executed


@dataclass(frozen=True)
class Counter:
    """As ``openvino.ProfilingInfo`` has it."""

    node_name: str
    real_time: timedelta


def counted(**microseconds: int) -> list[Counter]:
    return [Counter(name, timedelta(microseconds=time)) for name, time in microseconds.items()]


def chain(*nodes: Mapping[str, str]) -> ov.Model:
    """A runtime model of one node after the other, with the runtime's information on each."""
    first = ops.parameter([2], ov.Type.f32)
    first.get_rt_info()["layerType"] = "Input"
    last: ov.Node = first
    for number, information in enumerate(nodes):
        last = ops.relu(last)
        last.set_friendly_name(f"node_{number}")
        for key, value in information.items():
            last.get_rt_info()[key] = value
    result = ops.result(last)
    result.get_rt_info()["layerType"] = "Output"
    return ov.Model([result], [first])


def said(layer: str, names: str, *, kernel: str = "jit_f32", precision: str = "f32") -> dict[str, str]:
    return {
        "layerType": layer,
        "originalLayersNames": names,
        "primitiveType": kernel,
        "runtimePrecision": precision,
    }


def read(*nodes: Mapping[str, str]) -> tuple[Executed, ...]:
    return readback(chain(*nodes), [])


def test_inputs_and_outputs_are_not_computed() -> None:
    (found,) = read(said("Eltwise", "relu_0"))
    assert found == Executed("relu_0", "Eltwise jit_f32", "fp32", ("relu_0",), 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32", "fp32"),
        ("F32", "fp32"),
        ("bf16", "bf16"),
        ("f16", "fp16"),
        ("u8", "int8"),
        ("i8", "int8"),
        ("i4", "int4"),
        ("i64", "i64"),
    ],
)
def test_precisions(text: str, expected: str) -> None:
    (found,) = read(said("FullyConnected", "matmul_0", precision=text))
    assert found.precision == expected


@pytest.mark.parametrize("layer", ["Convert", "FakeQuantize", "Reorder"])
def test_what_only_changes_the_type_or_layout_is_a_boundary(layer: str) -> None:
    assert read(said(layer, "x.uint8.quantize", precision="u8"))[0].precision == "boundary"


@pytest.mark.parametrize("name", ["x.uint8.quantize", "x.bfloat16.quantize", "conv_0_out.dequantize"])
def test_a_conversion_that_runs_as_generated_code_is_one_too(name: str) -> None:
    assert read(said("Subgraph", f"{name},relu_1"))[0].precision == "boundary"
    assert read(said("Subgraph", f"relu_1,{name}"))[0].precision == "fp32"


def test_the_first_name_is_the_nodes_all_are_its_outputs() -> None:
    (found,) = read(said("Convolution", "conv_0,conv_0,relu_1", precision="u8"))
    assert (found.name, found.outputs) == ("conv_0", ("conv_0", "conv_0", "relu_1"))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("gemm_0/WithoutBiases", "gemm_0"),
        ("conv_0/DequantizationSubtract", "conv_0"),
        ("conv_0/DequantizationMultiply", "conv_0"),
        ("matmul_0/transpose_b", "matmul_0.transposed"),
        ("/layer1/conv/Conv", "/layer1/conv/Conv"),
    ],
)
def test_what_is_hung_behind_a_name_is_taken_off(name: str, plain: str) -> None:
    assert read(said("FullyConnected", name))[0].outputs == (plain,)


def test_a_reorder_of_the_runtimes_own_counts_for_its_reader() -> None:
    first, second = read(said("Reorder", ""), said("Convolution", "conv_0,relu_1"))
    assert (first.name, first.outputs, first.precision) == ("conv_0.reorder", ("conv_0.reorder",), "boundary")
    assert second.name == "conv_0"


def test_a_node_without_any_name_has_the_runtimes_own() -> None:
    (found,) = read(said("Subgraph", ""))
    assert (found.name, found.outputs) == ("node_0", ())


def test_nothing_said_is_nothing_known() -> None:
    (found,) = read({"layerType": "Subgraph"})
    assert (found.kernel, found.precision) == ("Subgraph", "")


def test_times_are_lower_quartiles_without_the_first_two_calls() -> None:
    model = chain(said("Eltwise", "a"), said("Eltwise", "b"))
    calls = [counted(node_0=1, node_1=5), counted(node_0=2, node_1=5)]
    calls += [counted(node_0=time, node_1=5) for time in (30, 10, 900, 20, 40)]
    assert [round(one.seconds * 1e6) for one in readback(model, calls)] == [20, 5]
    assert [round(one.seconds * 1e6) for one in readback(model, calls[:2])] == [1, 5]


def test_a_node_that_was_not_timed_takes_no_time() -> None:
    assert readback(chain(said("Eltwise", "a")), [counted(other=7)] * 3)[0].seconds == 0.0
