"""Weights in codes alone, and activations coded at every call: against the same arithmetic in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import fewbits
from affine_casts import fake_quantize
from builders import CASES, Net
from conversion import OPENVINO, TARGET, error, planned, precisions, run
from fewbits.codes import name_of
from fewbits.errors import PlanError
from fewbits.formats.granularity import Group, Tensor
from fewbits.formats.integer import INT8R, UINT8
from fewbits.formats.numerics.affine import asymmetric, symmetric
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT4_BLOCKS, INT4_SHIFTED_BLOCKS, INT8_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target
from odd_models import ODD, finish

Float = NDArray[np.float32]
DEPTH, COLUMNS = 96, 24
INT8_ACTIVATION = 0.01
"""What 8-bit activations with a scale for each row or block, which kernels may use (accuracy level 4), may add."""


def inputs(samples: int = 6) -> dict[str, Float]:
    return {"x": np.random.default_rng(1).standard_normal((samples, 5, DEPTH)).astype(np.float32)}


def layer(*, bias: bool = False) -> tuple[onnx.ModelProto, Float]:
    net = Net()
    weight = net._random.standard_normal((DEPTH, COLUMNS)).astype(np.float32)
    weight *= net._random.uniform(0.1, 2, COLUMNS).astype(np.float32)
    y = net.add("MatMul", "x", net.constant(weight))
    if bias:
        y = net.add("Add", y, net.constant(np.linspace(-1, 1, COLUMNS, dtype=np.float32)))
    return finish(net, y, x=("batch", "tokens", DEPTH)), weight


def stored(proto: onnx.ModelProto, scheme: Scheme, target: Target) -> Artifact:
    model = open_model(proto)
    return model.converted(Plan(model.sha256, {"matmul_0": Choice(str(scheme), "")}, {}, target.name))


def decoded(weight: Float, scheme: Scheme) -> Float:
    """`weight` as its codes have it."""
    assert isinstance(scheme.weight, ScaledFormat)
    if isinstance(scheme.weight.granularity, Group):
        return np.asarray(fewbits.fake_quantize(weight, scheme.weight), np.float32)
    return fake_quantize(weight, symmetric(np.abs(weight).max(axis=0), INT8R, 1))


def relative(got: Float, wanted: Float) -> float:
    return error({"y": got}, {"y": wanted})


STORED = (INT8_WEIGHT, INT8_BLOCKS, INT4_BLOCKS, INT4_SHIFTED_BLOCKS)
INT4 = (INT4_BLOCKS, INT4_SHIFTED_BLOCKS)


@pytest.mark.parametrize("scheme", STORED)
class TestStored:
    def test_behind_a_dequantiser_it_is_exactly_the_decoded_weight(self, scheme: Scheme) -> None:
        proto, weight = layer()
        made = onnx.load_model_from_string(stored(proto, scheme, OPENVINO).content)
        onnx.checker.check_model(made, full_check=True)
        assert [node.op_type for node in made.graph.node] == ["DequantizeLinear", "MatMul"]
        (got,) = ReferenceEvaluator(made).run(None, inputs())
        assert np.allclose(got, inputs()["x"] @ decoded(weight, scheme), rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
    def test_runtimes_add_no_more_than_int8_activations(self, scheme: Scheme, target: Target) -> None:
        proto, weight = layer(bias=True)
        (got,) = run(stored(proto, scheme, target), inputs(), target).values()
        (exact,) = run(proto, inputs()).values()
        bias = np.linspace(-1, 1, COLUMNS, dtype=np.float32)
        assert got.shape == exact.shape
        assert relative(got, inputs()["x"] @ decoded(weight, scheme) + bias) < INT8_ACTIVATION
        assert relative(got, exact) < (0.12 if scheme in INT4 else 0.02)

    def test_what_it_takes_on_disk(self, scheme: Scheme) -> None:
        proto, weight = layer()
        codes = weight.size // 2 if scheme in INT4 else weight.size
        scales = 4 * (COLUMNS if scheme == INT8_WEIGHT else weight.size // 32)
        for target in (TARGET, OPENVINO):
            made = onnx.load_model_from_string(stored(proto, scheme, target).content)
            held = sum(len(one.raw_data) for one in made.graph.initializer)
            assert codes + scales <= held <= codes + scales + 2 * COLUMNS

    def test_names_and_other_products_stay(self, scheme: Scheme) -> None:
        odd = ODD["relu between products"]
        proto = odd.model()
        for target in (TARGET, OPENVINO):
            artifact = stored(proto, scheme, target)
            made = onnx.load_model_from_string(artifact.content)
            named = {node.name: node.op_type for node in made.graph.node}
            assert named["matmul_0"] == ("MatMul" if target is OPENVINO or scheme == INT8_WEIGHT else "MatMulNBits")
            assert initialisers(made, TensorProto.FLOAT, 2) == (1 if scheme == INT8_WEIGHT else 2)
            assert relative(*(run(one, odd.inputs(4), target)["y0"] for one in (artifact, proto))) < 0.2

    def test_samples_and_tokens_stay_dynamic(self, scheme: Scheme) -> None:
        proto, _ = layer()
        for target in (TARGET, OPENVINO):
            artifact = stored(proto, scheme, target)
            for shape in ((1, 1), (2, 9)):
                x = np.ones((*shape, DEPTH), np.float32)
                assert run(artifact, {"x": x}, target)["y0"].shape == (*shape, COLUMNS)


def initialisers(proto: onnx.ModelProto, dtype: int, rank: int) -> int:
    """How many initialisers of `dtype` have `rank` axes."""
    return sum(one.data_type == dtype and len(one.dims) == rank for one in proto.graph.initializer)


class TestBlocks:
    @pytest.mark.parametrize(("scheme", "bits"), [(INT8_BLOCKS, 8), (INT4_BLOCKS, 4), (INT4_SHIFTED_BLOCKS, 4)])
    def test_the_codes_of_the_kernel_are_those_of_the_format(self, scheme: Scheme, bits: int) -> None:
        """Against the definition of MatMulNBits in ONNX Runtime's documentation of operators: unsigned codes (columns,
        blocks, bytes), the zero point in the middle where none is given."""
        proto, weight = layer()
        made = onnx.load_model_from_string(stored(proto, scheme, TARGET).content)
        (node,) = made.graph.node
        values = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
        attributes = {one.name: one.i for one in node.attribute}
        sizes = {"K": DEPTH, "N": COLUMNS, "bits": bits, "block_size": 32, "accuracy_level": 4}
        assert attributes == sizes
        packed, scales = (values[name] for name in node.input[1:3])
        assert packed.shape == (COLUMNS, DEPTH // 32, 32 * bits // 8)
        if bits == 4:
            packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(COLUMNS, DEPTH // 32, 32)
        zeros: int | Float = 2 ** (bits - 1)
        if scheme == INT4_SHIFTED_BLOCKS:
            given = values[node.input[3]]
            assert given.shape == (COLUMNS, 2)  # three blocks of four bits in whole bytes
            zeros = np.stack([given & 15, given >> 4], axis=-1).reshape(COLUMNS, 4)[:, :3, None].astype(np.float32)
        real = (packed.astype(np.float32) - zeros) * scales[..., None]
        assert np.allclose(real.reshape(COLUMNS, DEPTH).T, decoded(weight, scheme), rtol=1e-6)

    @pytest.mark.parametrize("scheme", [INT8_BLOCKS, *INT4])
    def test_it_runs_as_such(self, scheme: Scheme) -> None:
        proto, _ = layer()
        (ran,) = TARGET.executed(stored(proto, scheme, TARGET), inputs(), 1)
        assert (ran.name, ran.kernel) == ("matmul_0", "com.microsoft.MatMulNBits")

    def test_a_column_of_zeros(self) -> None:
        net = Net()
        weight = net._random.standard_normal((DEPTH, COLUMNS)).astype(np.float32)
        weight[:, 3] = 0
        weight[:32, 5] = 0
        weight *= np.float32(1e-3)
        proto = finish(net, net.add("MatMul", "x", net.constant(weight)), x=("batch", "tokens", DEPTH))
        for scheme in STORED:
            for target in (TARGET, OPENVINO):
                (got,) = run(stored(proto, scheme, target), inputs(), target).values()
                assert np.isfinite(got).all()
                # A kernel may take the zero point out of the sum at the end, in float32.
                assert np.abs(got[..., 3]).max() < 1e-4 * np.abs(got).max()


class TestCodesThatWereFound:
    """Those that a plan names take the place of rounding to nearest."""

    def found(self, scheme: Scheme, *, shift: int = 0) -> tuple[onnx.ModelProto, QTensor[Float], Plan]:
        proto, weight = layer()
        assert isinstance(scheme.weight, ScaledFormat)
        nearest = fewbits.quantize(weight, scheme.weight)
        codes = np.clip(nearest.codes + shift, 0, 7).astype(nearest.codes.dtype)
        other = replace(nearest, codes=codes, scale=nearest.scale * np.float32(0.75))
        model = open_model(proto)
        choices = {"matmul_0": Choice(str(scheme), "")}
        return proto, other, Plan(model.sha256, choices, {}, codes={"matmul_0": name_of(other)})

    @pytest.mark.parametrize("scheme", [INT8_BLOCKS, *INT4])
    def test_the_model_computes_with_them(self, scheme: Scheme) -> None:
        proto, codes, plan = self.found(scheme, shift=1)
        model = open_model(proto).knowing({name_of(codes): codes})
        for target in (TARGET, OPENVINO):
            artifact = model.converted(replace(plan, target=target.name))
            got = run(artifact, inputs(), target)["y0"]
            assert relative(got, inputs()["x"] @ fewbits.dequantize(codes)) < INT8_ACTIVATION

    def test_without_them_the_plan_is_refused(self) -> None:
        proto, _, plan = self.found(INT4_BLOCKS)
        with pytest.raises(PlanError, match="of the run beside the plan"):
            open_model(proto).converted(plan)

    def test_codes_of_another_format_are_refused(self) -> None:
        proto, codes, plan = self.found(INT4_BLOCKS)
        other = replace(plan, choices={"matmul_0": Choice(str(INT8_BLOCKS), "")})
        with pytest.raises(PlanError, match="its codes are int4r/g32@0"):
            open_model(proto).knowing({name_of(codes): codes}).converted(other)

    def test_codes_of_another_shape_are_refused(self) -> None:
        proto, codes, plan = self.found(INT4_BLOCKS)
        half = replace(codes, codes=codes.codes[:64], scale=codes.scale[:2], zero_point=codes.zero_point[:2])
        with pytest.raises(PlanError, match="made for another model"):
            open_model(proto).knowing({name_of(codes): half}).converted(plan)


class TestDynamic:
    def emulated(self, x: Float, weight: Float) -> Float:
        """DynamicQuantizeLinear (ONNX operators): one range for the whole activation that holds 0, u8 codes."""
        activation = asymmetric(float(min(x.min(), 0)), float(max(x.max(), 0)), UINT8)
        return fake_quantize(x, activation) @ decoded(weight, INT8_WEIGHT)

    @pytest.mark.parametrize("bias", [False, True])
    def test_it_is_what_numpy_computes(self, bias: bool) -> None:
        proto, weight = layer(bias=bias)
        wanted = self.emulated(inputs()["x"], weight)
        if bias:
            wanted = wanted + np.linspace(-1, 1, COLUMNS, dtype=np.float32)
        artifact = stored(proto, INT8_DYNAMIC, TARGET)
        onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
        for got in (run(artifact, inputs())["y0"], ReferenceEvaluator(artifact.content).run(None, inputs())[0]):
            # A value between two codes may become either, and moves one sum by a step times a weight.
            step = np.abs(inputs()["x"]).max() / 127
            assert np.abs(got - wanted).max() < 2 * step * np.abs(weight).max()
            assert relative(got, wanted) < 1e-3

    @pytest.mark.parametrize("bias", [False, True])
    def test_it_runs_on_integers(self, bias: bool) -> None:
        proto, _ = layer(bias=bias)
        artifact = stored(proto, INT8_DYNAMIC, TARGET)
        kernels = [one.kernel.rpartition(".")[2] for one in TARGET.executed(artifact, inputs(), 1)]
        assert set(kernels) <= {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
        assert precisions(open_model(proto), artifact, inputs()) == {"matmul_0": "int8"}

    def test_every_layer_of_a_transformer_is_fused(self) -> None:
        case = CASES["transformer"]
        proto, given = case.model(0), case.inputs(4, 0)
        model = open_model(proto)
        plan = planned(model, given, scheme=INT8_DYNAMIC)
        artifact = model.converted(plan)
        # The classifier is a Gemm.
        assert len(plan.low) == 13
        assert error(run(artifact, given), run(proto, given)) < 0.04
        ran = precisions(model, artifact, given)
        assert {ran[name] for name in plan.low} == {"int8"}
        kernels = {one.kernel for one in TARGET.executed(artifact, given, 1)}
        assert not kernels & {"MatMulInteger"}

    def test_an_empty_batch(self) -> None:
        proto, _ = layer()
        none = {"x": np.zeros((0, 5, DEPTH), np.float32)}
        assert run(stored(proto, INT8_WEIGHT, TARGET), none)["y0"].shape == (0, 5, COLUMNS)


def test_one_scale_for_the_whole_weight() -> None:
    proto, weight = layer()
    made = stored(proto, Scheme(ScaledFormat(INT8R, Tensor())), OPENVINO)
    (got,) = ReferenceEvaluator(made.content).run(None, inputs())
    wanted = fake_quantize(weight, symmetric(np.abs(weight).max(), INT8R))
    assert np.allclose(got, inputs()["x"] @ wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scheme", [*STORED, INT8_DYNAMIC])
@pytest.mark.parametrize("name", ["names like ours", "weight behind three", "product read twice", "huge bias"])
def test_odd_models(name: str, scheme: Scheme) -> None:
    odd = ODD[name]
    proto, given = odd.model(), odd.inputs(4)
    model = open_model(proto)
    plan = planned(model, given, target=OPENVINO if scheme == INT8_WEIGHT else TARGET, scheme=scheme)
    assert plan.low
    for target in (TARGET, OPENVINO):
        artifact = model.converted(replace(plan, target=target.name))
        assert error(run(artifact, given, target), run(proto, given)) < (0.2 if scheme in INT4 else 0.04)
