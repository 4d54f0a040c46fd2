"""LSTM, GRU and RNN with their matrices in codes: exactly the float layer with the decoded matrices, and small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from builders import Array
from conversion import OPENVINO, TARGET, refusal, rewritten, run
from exported_models import F, body, model, node
from fewbits.data.batches import Batch
from fewbits.errors import PlanError
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import BF16, INT4_ROW_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.onnx_recurrent import matrix_codes
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target

TIME, BATCH, WIDTH, HIDDEN = 5, 3, 32, 64
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OPERATORS = pytest.mark.parametrize("operator", list(GATES))
BOTH = pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
SCHEMES = pytest.mark.parametrize("scheme", [INT8_WEIGHT, INT4_ROW_BLOCKS], ids=str)


@dataclass(frozen=True)
class Layer:
    """A recurrent layer as exporters write them; `given` are the inputs beside the sequence that are not constants."""

    operator: str
    direction: str = "forward"
    bias: bool = True
    given: str = ""
    read: str = "y"
    peepholes: bool = False
    attributes: Mapping[str, object] = field(default_factory=dict)

    def proto(self) -> onnx.ModelProto:
        """The model: the layer alone, whose results are outputs."""
        rng, both = np.random.default_rng(0), 2 if self.direction == "bidirectional" else 1
        first = bool(self.attributes.get("layout"))
        state: tuple[int | str, ...] = (both, "batch", HIDDEN)
        if first:
            state = ("batch", both, HIDDEN)
        values = {
            "x": ("x", F, ("batch", "time", WIDTH) if first else ("time", "batch", WIDTH)),
            "lengths": ("lengths", onnx.TensorProto.INT32, ("batch",)),
            "h0": ("h0", F, state),
            "c0": ("c0", F, state),
        }
        given = self.given.split()
        operands = ["x", "w", "r", "b" if self.bias else "-"]
        operands += [name if name in given else "-" for name in ("lengths", "h0")]
        if self.operator == "LSTM":
            operands += ["c0" if "c0" in given else "-", "p" if self.peepholes else "-"]
        while operands[-1] == "-":
            operands.pop()
        gates = GATES[self.operator] * HIDDEN

        def normal(*shape: int) -> Array:
            return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

        return model(
            [
                node(
                    self.operator,
                    " ".join(operands),
                    self.read,
                    hidden_size=HIDDEN,
                    direction=self.direction,
                    **self.attributes,
                )
            ],
            [values[name] for name in ("x", *given)],
            [
                (name, F, ("a", "b", "c", HIDDEN) if name == "y" else ("a", "b", HIDDEN))
                for name in self.read.split()
                if name != "-"
            ],
            w=normal(both, gates, WIDTH),
            r=normal(both, gates, HIDDEN),
            b=normal(both, 2 * gates),
            p=normal(both, 3 * HIDDEN),
        )

    def inputs(self) -> dict[str, Array]:
        """Values for what it reads."""
        rng = np.random.default_rng(1)
        sizes = {"batch": BATCH, "time": TIME}
        found: dict[str, Array] = {}
        for value in self.proto().graph.input:
            shape = [one.dim_value or sizes[one.dim_param] for one in value.type.tensor_type.shape.dim]
            found[value.name] = rng.standard_normal(shape).astype(np.float32)
        if "lengths" in found:
            found["lengths"] = np.array([2, TIME, 1], np.int32)
        return found


LAYERS: Mapping[str, Callable[[str], Layer]] = {
    "plain": Layer,
    "without bias": lambda operator: Layer(operator, bias=False),
    "backwards": lambda operator: Layer(operator, "reverse", read="y h"),
    "both ways": lambda operator: Layer(operator, "bidirectional", read="- h"),
    "first state": lambda operator: Layer(operator, given="h0"),
    "lengths": lambda operator: Layer(operator, "bidirectional", given="lengths h0", read="y h"),
    "clipped": lambda operator: Layer(operator, attributes={"clip": 0.5}),
    "no sequence": lambda operator: Layer(operator, read="- h"),
}
OTHERS = {
    "both states": Layer("LSTM", given="h0 c0", read="y h c"),
    "cell alone": Layer("LSTM", given="c0", read="- - c"),
    "peepholes": Layer("LSTM", peepholes=True),
    "reset behind": Layer("GRU", attributes={"linear_before_reset": 1}),
    "relu": Layer("RNN", attributes={"activations": ["Relu"]}),
}


def stored_in(proto: onnx.ModelProto, scheme: Scheme, target: Target) -> Artifact:
    """`proto` with the matrices of its layer in `scheme`."""
    opened = open_model(proto)
    (one,) = group(opened.graph)
    return opened.converted(Plan(opened.sha256, {one.name: Choice(str(scheme), "")}, {}, target.name))


def with_decoded(proto: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """`proto` in float with the matrices that the codes stand for."""
    format = scheme.weight
    assert isinstance(format, ScaledFormat)

    def change(copy: onnx.ModelProto) -> None:
        for tensor in copy.graph.initializer:
            if tensor.name not in ("w", "r"):
                continue
            matrix = numpy_helper.to_array(tensor)
            if scheme == INT8_WEIGHT:
                codes, scale = matrix_codes(matrix, format)
                found = codes.transpose(0, 2, 1).astype(np.float32) * scale[:, :, None]
            else:
                found = dequantize(quantize(matrix, format))
            tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))

    return rewritten(proto, change)


def check(layer: Layer, scheme: Scheme, target: Target) -> None:
    """Converted and decoded agree on `target`, and both are close to the original."""
    proto, inputs = layer.proto(), layer.inputs()
    artifact = stored_in(proto, scheme, target)
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    got, wanted = run(artifact, inputs, target), run(with_decoded(proto, scheme), inputs, target)
    plain = run(proto, inputs, target)
    for name in wanted:
        if target is TARGET:
            assert np.array_equal(got[name], wanted[name])
        else:
            assert np.allclose(got[name], wanted[name], atol=1e-5)
        assert 0 < np.abs(got[name] - plain[name]).max() < (0.05 if scheme == INT8_WEIGHT else 0.6)


@BOTH
@SCHEMES
@OPERATORS
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "clipped"])
def test_it_is_the_float_layer_with_decoded_matrices(operator: str, name: str, scheme: Scheme, target: Target) -> None:
    check(LAYERS[name](operator), scheme, target)


@SCHEMES
@pytest.mark.parametrize("name", list(OTHERS))
def test_so_are_those_with_what_only_they_have(name: str, scheme: Scheme) -> None:
    check(OTHERS[name], scheme, TARGET)


@SCHEMES
@OPERATORS
def test_values_that_are_clipped_stay_so(operator: str, scheme: Scheme) -> None:
    check(LAYERS["clipped"](operator), scheme, TARGET)


@SCHEMES
@OPERATORS
def test_samples_may_come_first(operator: str, scheme: Scheme) -> None:
    """ONNX Runtime has no kernel for that layout, whatever the matrices."""
    check(Layer(operator, "bidirectional", read="y h", attributes={"layout": 1}), scheme, OPENVINO)


@BOTH
@OPERATORS
@pytest.mark.parametrize(("scheme", "share"), [(INT8_WEIGHT, 0.25), (INT4_ROW_BLOCKS, 0.125)], ids=str)
def test_it_is_small(operator: str, scheme: Scheme, share: float, target: Target) -> None:
    proto = Layer(operator, "bidirectional", bias=False).proto()
    weights = sum(numpy_helper.to_array(one).nbytes for one in proto.graph.initializer if one.name in "wr")
    scales = weights / 4 / WIDTH * 5
    assert stored_in(proto, scheme, target).size < share * weights + scales + 4500


@OPERATORS
def test_it_is_cut_out_with_its_lengths(operator: str) -> None:
    layer = Layer(operator, "bidirectional", given="lengths h0", read="y h")
    opened, inputs = open_model(layer.proto()), layer.inputs()
    (one,) = group(opened.graph)
    assert one.operands == ("x", "lengths", "h0")
    (values,) = opened.observe([Batch(inputs)], one.operands)
    cut = opened.regions([one], {name: array.shape for name, array in values.items()})
    got = run(cut.model.original(), {name: values[operand] for name, operand in cut.inputs.items()})
    assert np.allclose(next(iter(got.values())), np.abs(run(layer.proto(), inputs)["y"]), atol=1e-5)


@OPERATORS
def test_what_is_offered(operator: str) -> None:
    opened = open_model(Layer(operator).proto())
    (one,) = group(opened.graph)
    stored = {INT8_WEIGHT, INT4_ROW_BLOCKS}
    dynamic = {INT8_DYNAMIC} if operator == "LSTM" else set()
    for target, schemes in ((TARGET, stored | dynamic), (OPENVINO, stored)):
        menu = target.menu(opened.graph, one)
        assert {scheme for scheme in menu.schemes if not scheme.is_fp32} == schemes
        assert BF16 in {each.scheme for each in menu.refusals}


def test_what_is_refused() -> None:
    gru = Layer("GRU").proto()
    assert "only LSTM has" in refusal(gru, "makes_y", INT8_DYNAMIC)
    assert "as codes of its matrices" in refusal(gru, "makes_y")
    for text in ("w:int4r/channel", "w:int8r/g32", "w:int4r/g32@1", "w:int8r/channel@1", "w:int4r/g7"):
        with pytest.raises(PlanError, match=r"only|elements"):
            stored_in(gru, Scheme.parse(text), TARGET)


def test_matrices_that_two_layers_share_stay() -> None:
    shared = model(
        [
            node("GRU", "x w r", "y h", hidden_size=HIDDEN),
            node("GRU", "x w r b", "z k", hidden_size=HIDDEN),
        ],
        [("x", F, ("time", "batch", WIDTH))],
        [("h", F, (1, "batch", HIDDEN)), ("k", F, (1, "batch", HIDDEN))],
        w=np.ones((1, 3 * HIDDEN, WIDTH), np.float32),
        r=np.ones((1, 3 * HIDDEN, HIDDEN), np.float32),
        b=np.ones((1, 6 * HIDDEN), np.float32),
    )
    assert "w is read by others" in refusal(shared, "makes_y", INT8_WEIGHT)


def test_matrices_that_are_computed_are_no_weights() -> None:
    proto = rewritten(Layer("GRU").proto(), _computed)
    opened = open_model(proto)
    assert group(opened.graph) == ()
    assert opened.converted(Plan(opened.sha256, {}, {}, TARGET.name)).content == proto.SerializeToString()


def _computed(copy: onnx.ModelProto) -> None:
    copy.graph.node.insert(0, node("Mul", "w factor", "scaled"))
    copy.graph.node[1].input[1] = "scaled"
    copy.graph.input.append(onnx.helper.make_tensor_value_info("factor", F, (1,)))


@pytest.mark.parametrize(
    "layer",
    [
        Layer("LSTM", bias=False),
        Layer("LSTM", "reverse", read="- h"),
        Layer("LSTM", given="c0", read="y - c"),
        Layer("LSTM", peepholes=True),
        Layer("LSTM", attributes={"clip": 0.5}),
        Layer("LSTM", attributes={"activations": ["Sigmoid", "Relu", "Tanh"]}),
    ],
    ids=["without bias", "backwards", "cell alone", "peepholes", "clipped", "relu"],
)
def test_ranges_at_every_call_go_with_all_that_an_lstm_has(layer: Layer) -> None:
    proto, inputs = layer.proto(), layer.inputs()
    got, wanted = run(stored_in(proto, INT8_DYNAMIC, TARGET), inputs), run(proto, inputs)
    assert all(0 < np.abs(got[name] - wanted[name]).max() < 0.05 for name in wanted)


@BOTH
@SCHEMES
def test_matrices_may_be_put_together_from_constants(scheme: Scheme, target: Target) -> None:
    """As paddle2onnx does, which orders the gates anew; the parts are gone afterwards."""
    plain, inputs = Layer("LSTM").proto(), Layer("LSTM").inputs()
    whole = {one.name: numpy_helper.to_array(one) for one in plain.graph.initializer}

    def change(copy: onnx.ModelProto) -> None:
        kept = [one for one in copy.graph.initializer if one.name not in ("w", "r")]
        del copy.graph.initializer[:]
        copy.graph.initializer.extend(kept)
        made = []
        for name in ("w", "r"):
            first, last = np.split(whole[name][0], [HIDDEN])
            for part, array in (("first", first), ("last", last)):
                copy.graph.initializer.append(numpy_helper.from_array(array.copy(), f"{name}_{part}"))
            made += [
                node("Concat", f"{name}_first {name}_last", f"{name}_flat", axis=0),
                node("Unsqueeze", f"{name}_flat axis", name),
            ]
        copy.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
        nodes = [*made, *copy.graph.node]
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)

    artifact = stored_in(rewritten(plain, change), scheme, target)
    assert artifact.size < 0.5 * plain.ByteSize()
    wanted = run(with_decoded(plain, scheme), inputs, target)["y"]
    assert np.allclose(run(artifact, inputs, target)["y"], wanted, atol=0 if target is TARGET else 1e-5)


def test_a_layer_in_a_body_stays() -> None:
    inside = body("then", [node("GRU", "x w r", "k -", hidden_size=HIDDEN)], (), ("k", F, ()))
    other = body("else", [node("Identity", "zero", "k")], (), ("k", F, ()))
    proto = model(
        [node("If", "which", "y", then_branch=inside, else_branch=other)],
        [("x", F, ("time", "batch", WIDTH)), ("which", onnx.TensorProto.BOOL, ())],
        [("y", F, ("a", "b", "c", HIDDEN))],
        w=np.ones((1, 3 * HIDDEN, WIDTH), np.float32),
        r=np.ones((1, 3 * HIDDEN, HIDDEN), np.float32),
        zero=np.zeros((1, 1, 1, HIDDEN), np.float32),
    )
    assert group(open_model(proto).graph) == ()
