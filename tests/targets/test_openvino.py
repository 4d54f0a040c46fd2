"""OpenVINO behind the Target protocol: every structure in every scheme runs, and is read back as what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper

from builders import CASES, FEATURES, Array, Net, conv_bn_relu, features, gemm, images, pooled_classifier, transformer
from conversion import OPENVINO, TARGET, converted, error, precisions, rewritten, run
from fewbits.attribution import attribute
from fewbits.errors import DataError, ModelError, UsageError
from fewbits.formats.scheme import BF16, FP16, INT8_SYMMETRIC, INT8_SYMMETRIC_PAIR, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import Artifact, Model
from fewbits.targets.openvino import OpenVino
from odd_models import ODD, finish

MACHINE = frozenset(OPENVINO.machine.features)
DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "dotprod"}
"""Without one of them an x86 kernel adds two products in 16 bits, where large ones saturate (oneDNN documentation)."""
NATIVE: Mapping[Scheme, set[str]] = {BF16: {"avx512_bf16", "amx_bf16"}, FP16: {"avx512_fp16", "amx_fp16"}}
BOUNDS: Mapping[Scheme | None, float] = {
    None: 0.04 if MACHINE & DOT_PRODUCTS else 0.5,
    BF16: 0.02,
    FP16: 0.002,
    INT8_WEIGHT: 0.04,
    INT8_SYMMETRIC: 0.06,
}
"""The error that a format may leave; the static one is ``None``."""
NAMES = {None: "static", BF16: "bf16", FP16: "fp16", INT8_WEIGHT: "weight only", INT8_SYMMETRIC: "symmetric"}


@cache
def tuned(name: str, scheme: Scheme | None) -> tuple[Model, frozenset[str], Artifact]:
    """A builders' case, the groups that leave fp32, and the model with them in `scheme`."""
    case = CASES[name]
    model, plan, artifact = converted(case.model(0), case.inputs(8, 0), target=OPENVINO, scheme=scheme)
    return model, plan.low, artifact


def products(model: Model, artifact: Artifact, inputs: Mapping[str, Array]) -> dict[str, str]:
    """Product → the precision that it ran in, alone or inside of a kernel that computes several groups (attention)."""
    executed = OPENVINO.executed(artifact, inputs, 3)
    groups = group(model.graph)
    shares = attribute(model.graph, groups, executed)
    inside = {name: one.precision for one in executed for name in one.outputs}
    found = {one.name: shares[one.name].precision if one.name in shares else inside.get(one.name, "") for one in groups}
    return {one.name: found[one.name] for one in groups if one.is_product}


def asked(scheme: Scheme | None) -> set[str]:
    """What a product in `scheme` may be read back as on this machine."""
    if scheme is None or scheme.is_static:
        return {"int8"}
    if scheme == INT8_WEIGHT:
        # With integer activations made on the way, or decoded to floats: as the machine does it faster.
        return {"int8", "fp32"}
    # Where a machine has no such arithmetic, the read-back says that fp32 ran.
    return {str(scheme)} if MACHINE & NATIVE[scheme] else {str(scheme), "fp32"}


@pytest.mark.parametrize("scheme", BOUNDS, ids=lambda scheme: NAMES[scheme])
@pytest.mark.parametrize("name", CASES)
class TestEveryStructure:
    def test_it_is_the_same_model_in_fewer_bits(self, name: str, scheme: Scheme | None) -> None:
        proto, inputs = CASES[name].model(0), CASES[name].inputs(8, 0)
        _, low, artifact = tuned(name, scheme)
        result = onnx.load_model_from_string(artifact.content)
        onnx.checker.check_model(result, full_check=True)
        for one, other in ((result.graph.input, proto.graph.input), (result.graph.output, proto.graph.output)):
            assert [value.SerializeToString() for value in one] == [value.SerializeToString() for value in other]
        got, wanted = run(artifact, inputs, OPENVINO), run(proto, inputs)
        assert list(got) == list(wanted)
        assert {key: (one.shape, one.dtype) for key, one in got.items()} == {
            key: (one.shape, one.dtype) for key, one in wanted.items()
        }
        assert error(got, wanted) < BOUNDS[scheme]
        assert bool(low) or scheme in (INT8_WEIGHT, INT8_SYMMETRIC)

    def test_products_are_read_back_as_what_they_are(self, name: str, scheme: Scheme | None) -> None:
        model, low, artifact = tuned(name, scheme)
        ran = products(model, artifact, CASES[name].inputs(4, 0))
        for one, precision in ran.items():
            assert precision in (asked(scheme) if one in low else {"fp32"}), one

    def test_samples_stay_dynamic(self, name: str, scheme: Scheme | None) -> None:
        few = CASES[name].inputs(3, 0)
        got = run(tuned(name, scheme)[2], few, OPENVINO)
        wanted = run(CASES[name].model(0), few)
        assert {key: one.shape for key, one in got.items()} == {key: one.shape for key, one in wanted.items()}
        assert error(got, wanted) < 1.5 * BOUNDS[scheme]


# OpenVINO itself takes a bias of higher rank than the product, beside a weight in codes alone, for one of its rank.
AWKWARD = ("bias that adds an axis", INT8_WEIGHT)
PAIRS = [(name, scheme) for name in ODD for scheme in BOUNDS if (name, scheme) != AWKWARD]


@pytest.mark.parametrize(("name", "scheme"), PAIRS, ids=lambda one: one if isinstance(one, str) else NAMES[one])
def test_odd_models(name: str, scheme: Scheme | None) -> None:
    odd = ODD[name]
    proto, inputs = odd.model(), odd.inputs(4)
    _, plan, artifact = converted(proto, inputs, target=OPENVINO, scheme=scheme)
    if plan.low:
        onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    got, wanted = run(artifact, inputs, OPENVINO), run(proto, inputs)
    assert {key: one.shape for key, one in got.items()} == {key: one.shape for key, one in wanted.items()}
    assert error(got, wanted) < max(BOUNDS[scheme], odd.tolerance if scheme in (None, INT8_SYMMETRIC) else 0)


@pytest.mark.parametrize("length", [7, 11])
def test_sequences_of_another_length(length: int) -> None:
    proto, inputs = transformer(), CASES["transformer"].inputs(8, 0)
    short = {name: array[:2, :length] for name, array in inputs.items()}
    for scheme, bound in BOUNDS.items():
        _, _, artifact = converted(proto, inputs, target=OPENVINO, scheme=scheme)
        assert error(run(artifact, short, OPENVINO), run(proto, short)) < 2.5 * bound


def test_floats_are_those_of_the_other_runtime() -> None:
    for case in CASES.values():
        proto, inputs = case.model(0), case.inputs(4, 0)
        assert error(run(proto, inputs, OPENVINO), run(proto, inputs, TARGET)) < 1e-5


def test_no_precision_of_its_own_choice() -> None:
    for case in CASES.values():
        model, inputs = open_model(case.model(0)), case.inputs(2, 0)
        assert set(products(model, model.original(), inputs).values()) == {"fp32"}


def test_the_scores_of_attention_have_symmetric_codes() -> None:
    model, low, artifact = tuned("transformer", None)
    made = onnx.load_model_from_string(artifact.content)
    zeros = {one.name for one in made.graph.initializer if not any(onnx.numpy_helper.to_array(one).reshape(-1))}
    makers = {name: node for node in made.graph.node for name in node.output}
    pairs = [one for one in group(model.graph) if one.is_product and not one.weight and one.name in low]
    assert len(pairs) == 4
    nodes = {node.name: node for node in made.graph.node}
    for one in pairs:
        for operand in nodes[one.name].input:
            source = makers[operand]
            while source.op_type != "DequantizeLinear":
                assert source.op_type in ("Reshape", "Transpose")
                source = makers[source.input[0]]
            assert source.input[2] in zeros
    assert str(INT8_SYMMETRIC_PAIR) == "w:int8r/tensor a:int8r/tensor"


def test_every_output_has_its_onnx_name() -> None:
    odd = ODD["identities"]
    proto, inputs = odd.model(), odd.inputs(2)
    with OPENVINO.open(Artifact(proto.SerializeToString())) as session:
        got = session(inputs)
    assert list(got) == [output.name for output in proto.graph.output]
    assert error(got, run(proto, inputs)) < 1e-5


def test_an_output_that_is_an_input_and_one_tensor_as_two() -> None:
    for name in ("input is an output", "operand is an output", "conv is an output too"):
        odd = ODD[name]
        got, wanted = run(odd.model(), odd.inputs(2), OPENVINO), run(odd.model(), odd.inputs(2))
        assert list(got) == list(wanted)
        assert error(got, wanted) < 1e-5


def test_results_of_one_call_outlive_the_next() -> None:
    with OPENVINO.open(Artifact(gemm().SerializeToString())) as session:
        first = session(features(4, 0))["y"]
        copy = first.copy()
        session(features(4, 1))
        session(features(2, 2))
        assert np.array_equal(first, copy)


def test_inputs_in_another_order_of_memory() -> None:
    x = images(4)["x"]
    turned = np.asfortranarray(x)
    assert not turned.flags["C_CONTIGUOUS"]
    proto = conv_bn_relu()
    assert error(run(proto, {"x": turned}, OPENVINO), run(proto, {"x": x})) < 1e-5


def test_models_that_it_does_not_load() -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].op_type, proto.graph.node[1].domain = "Sparkle", "my.company"
        proto.opset_import.append(helper.make_opsetid("my.company", 1))

    with pytest.raises(ModelError, match=r"OpenVINO 20.* does not load the model: .*Sparkle"):
        OPENVINO.open(Artifact(rewritten(gemm(), change).SerializeToString()))
    with pytest.raises(ModelError, match="does not load"):
        OPENVINO.open(Artifact(b"no model"))


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((2, FEATURES + 1), np.float32)},
        {"x": np.zeros((2, 3, FEATURES), np.float32)},
        {"x": np.zeros((2, FEATURES), np.float32), "z": np.zeros(2, np.float32)},
        {},
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, np.ndarray]) -> None:
    with OPENVINO.open(Artifact(gemm().SerializeToString())) as session, pytest.raises(DataError, match="does not run"):
        session(inputs)


@pytest.mark.parametrize(("groups", "channels"), [(1, 16), (2, 8)])
def test_a_transposed_convolution(groups: int, channels: int) -> None:
    """With a norm and a bias, between convolutions; on integers where its channels are many enough for a kernel."""
    net = Net()
    x = net.add("Relu", net.conv("x", 3, channels, bias=True))
    weight = net.weight(channels, channels // groups, 3, 3, fan_in=4 * channels)
    x = net.add("ConvTranspose", x, weight, net.small(channels), strides=[2, 2], group=groups)
    x = net.add("Relu", net.norm(x, channels))
    proto, inputs = finish(net, net.add("Neg", net.conv(x, channels, 4))), images(4)
    for scheme in (None, BF16, FP16):
        model, plan, artifact = converted(proto, inputs, target=OPENVINO, scheme=scheme)
        onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
        assert "convtranspose_2" in plan.low
        assert error(run(artifact, inputs, OPENVINO), run(proto, inputs, OPENVINO)) < BOUNDS[scheme]
        ran = precisions(model, artifact, inputs, OPENVINO)["convtranspose_2"]
        if scheme is not None:
            assert ran == str(scheme)
        elif groups == 1 and MACHINE & DOT_PRODUCTS:
            assert ran == "int8"


def test_an_input_that_no_node_reads_may_be_given() -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2]))

    proto, inputs = rewritten(gemm(), change), features(2)
    with OPENVINO.open(Artifact(proto.SerializeToString())) as session:
        (got,) = session({**inputs, "z": np.zeros((2, 2), np.float32)}).values()
    assert np.allclose(got, run(gemm(), inputs)["y"], atol=1e-5)


def test_two_outputs_that_are_one_tensor_keep_their_names() -> None:
    net = Net()
    hidden = net.add("Relu", net.add("Gemm", "x", net.weight(FEATURES, FEATURES), transB=1))
    outputs = [hidden, net.add("Identity", hidden), net.add("Dropout", hidden), net.add("Neg", hidden)]
    shape = ("batch", FEATURES)
    proto = net.model({"x": (TensorProto.FLOAT, shape)}, {f"y{i}": (name, shape) for i, name in enumerate(outputs)})
    got = run(proto, features(2), OPENVINO)
    wanted = run(proto, features(2))
    assert list(got) == list(wanted)
    assert all(np.allclose(got[name], wanted[name], atol=1e-5) for name in wanted)


def test_more_threads_than_cores() -> None:
    with pytest.raises(UsageError):
        OpenVino.of(100_000)


def test_it_names_itself_and_its_version() -> None:
    assert OPENVINO.name == "openvino:cpu"
    assert "openvino" in OPENVINO.machine.versions


@pytest.mark.parametrize("scheme", BOUNDS, ids=lambda scheme: NAMES[scheme])
def test_its_own_files_hold_the_same_model(tmp_path: Path, scheme: Scheme | None) -> None:
    _, _, artifact = tuned("mlp_gelu", scheme)
    files = OPENVINO.files(artifact, tmp_path)
    assert set(files) == {".xml", ".bin"} and all(file.is_file() for file in files.values())
    core = ov.Core()
    hints = {"INFERENCE_PRECISION_HINT": "dynamic", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(files[".xml"]), "CPU", hints)
    inputs = features(4)
    assert np.array_equal(compiled(inputs)["y"], run(artifact, inputs, OPENVINO)["y"])


class TestReadBack:
    def test_every_call_is_timed(self) -> None:
        proto, inputs = pooled_classifier(), images(8)
        executed = OPENVINO.executed(open_model(proto).original(), inputs, 5)
        computing = [one for one in executed if one.kernel.startswith(("Convolution", "FullyConnected", "Pooling"))]
        assert len(computing) == 5
        assert sum(one.seconds for one in computing) > 0
        assert all(one.seconds >= 0 for one in executed)
        assert not any(one.kernel.split()[0] in ("Input", "Output", "Const", "Constant") for one in executed)

    def test_a_single_call(self) -> None:
        assert OPENVINO.executed(Artifact(conv_bn_relu().SerializeToString()), images(1), 1)

    def test_codes_are_made_and_read_at_boundaries(self) -> None:
        model, low, artifact = tuned("mlp_gelu", None)
        executed = OPENVINO.executed(artifact, features(4), 2)
        (entry,) = (one for one in executed if one.outputs[:1] == ("x.uint8.quantize",))
        assert (entry.name, entry.precision) == ("x.uint8.quantize", "boundary")
        shares = attribute(model.graph, group(model.graph), [entry])
        assert list(shares) == [min(low)]

    @pytest.mark.parametrize("scheme", [BF16, FP16], ids=str)
    def test_casts_are_boundaries_of_the_group_that_wants_them(self, scheme: Scheme) -> None:
        model, _, artifact = tuned("gemm_plain", scheme)
        executed = OPENVINO.executed(artifact, features(4), 2)
        casts = [one for one in executed if one.kernel.startswith("Convert")]
        assert {one.precision for one in casts} <= {"boundary"}
        owners = {name for one in casts for name in attribute(model.graph, group(model.graph), [one])}
        # Where the machine computes in fp32 there is nothing to cast at run time, or only something to round.
        assert owners <= {"gemm_0", "gemm_2"}
        assert not MACHINE & NATIVE[scheme] or owners == {"gemm_0", "gemm_2"}

    def test_one_kernel_for_two_products(self) -> None:
        # A constant factor behind a product is folded into it; the group is found by the factor's name.
        net = Net()
        y = net.add("Mul", net.conv("x", 3, 8), net.number(0.5))
        model = open_model(finish(net, y))
        assert precisions(model, model.original(), images(2), OPENVINO) == {"conv_0": "fp32"}


def test_an_empty_batch() -> None:
    none = {key: array[:0] for key, array in CASES["transformer"].inputs(2, 0).items()}
    got = run(transformer(), none, OPENVINO)
    assert all(array.shape[0] == 0 for array in got.values())


def test_integers_and_floats_as_inputs() -> None:
    net = Net()
    y = net.add("Gather", net.weight(10, 4), "x", axis=0)
    proto = net.model({"x": (TensorProto.INT64, ("batch",))}, {"y": (y, ("batch", 4))})
    inputs: dict[str, Array] = {"x": np.arange(6)}
    assert np.array_equal(run(proto, inputs, OPENVINO)["y"], run(proto, inputs)["y"])
