"""What other tools leave behind, or stumble over: optimised, pre-processed and quantised models, split biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from builders import CASES, CHANNELS, Array, Net, images
from conversion import OPENVINO, TARGET, converted, error, precisions, run
from fewbits.errors import ModelError
from fewbits.flow.job import refuse_quantised
from fewbits.formats.scheme import INT8_DYNAMIC
from fewbits.models import open_model
from fewbits.plan import Plan
from fewbits.targets.protocol import Target
from odd_models import finish

LEVELS = onnxruntime.GraphOptimizationLevel


def optimised(proto: onnx.ModelProto, path: Path, level: onnxruntime.GraphOptimizationLevel) -> onnx.ModelProto:
    """`proto` as ONNX Runtime saves it after its own rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.optimized_model_filepath = level, str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


@pytest.mark.parametrize("level", [LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_model_that_onnx_runtime_has_rewritten(
    name: str, level: onnxruntime.GraphOptimizationLevel, tmp_path: Path
) -> None:
    case = CASES[name]
    proto, inputs = optimised(case.model(0), tmp_path / "optimised.onnx", level), case.inputs(8, 0)
    for scheme in (None, INT8_DYNAMIC):
        model, plan, artifact = converted(proto, inputs, scheme=scheme)
        assert error(run(artifact, inputs), run(proto, inputs)) < 0.06
        ran = precisions(model, artifact, inputs)
        assert {ran[one] for one in plan.low} <= {"int8"}
    # Rewritten or not, a product is a product.
    first = converted(case.model(0), inputs)[1]
    assert len(converted(proto, inputs)[1].low) >= 0.6 * len(first.low)


@pytest.mark.parametrize("name", ["pooled_classifier", "residual", "gemm_plain", "transformer"])
def test_a_model_that_was_prepared_for_another_quantiser(name: str, tmp_path: Path) -> None:
    """ONNX Runtime's own dynamic quantiser fails on some of these: shapes no longer agree."""
    case = CASES[name]
    onnx.save(case.model(0), tmp_path / "given.onnx")
    quant_pre_process(tmp_path / "given.onnx", tmp_path / "prepared.onnx", skip_symbolic_shape=True)
    proto, inputs = onnx.load(tmp_path / "prepared.onnx"), case.inputs(8, 0)
    for scheme in (None, INT8_DYNAMIC):
        _, plan, artifact = converted(proto, inputs, scheme=scheme)
        onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
        assert plan.low or (scheme is not None and name == "residual")
        assert error(run(artifact, inputs), run(proto, inputs)) < 0.05


class Once(CalibrationDataReader):
    """One batch."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._left = [dict(inputs)]

    def get_next(self) -> dict[str, Array] | None:  # type: ignore[override]
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator, None], ids=str)
def test_a_quantised_model_is_told_and_left_alone(form: QuantFormat | None, tmp_path: Path) -> None:
    case = CASES["gemm_plain"]
    inputs = case.inputs(8, 0)
    onnx.save(case.model(0), tmp_path / "given.onnx")
    if form is None:
        quantize_dynamic(tmp_path / "given.onnx", tmp_path / "low.onnx")
    else:
        quantize_static(tmp_path / "given.onnx", tmp_path / "low.onnx", Once(inputs), quant_format=form)
    model = open_model(tmp_path / "low.onnx")
    with pytest.raises(ModelError, match="already quantised"):
        refuse_quantised(model.graph)
    unchanged = model.converted(Plan(model.sha256, {}, {}))
    assert unchanged.content == (tmp_path / "low.onnx").read_bytes()


def _with_constants_behind(*ops: str) -> onnx.ModelProto:
    """Convolutions without a bias, with one factor or term per channel behind each."""
    net = Net()
    x = "x"
    for inputs in (3, CHANNELS):
        x = net.conv(x, inputs, CHANNELS)
        for op in ops:
            shape = (CHANNELS, 1, 1)
            x = net.add(op, x, net.positive(*shape) if op in ("Mul", "Div") else net.small(*shape))
        x = net.add("Relu", x)
    return finish(net, net.add("Neg", x))


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize("ops", [("Add",), ("Mul",), ("Mul", "Add"), ("Div", "Sub")], ids="+".join)
def test_convolutions_with_constants_behind(ops: tuple[str, ...], target: Target) -> None:
    """Quantisers per channel that fold these constants have crashed on them; here they stay what they are."""
    proto, inputs = _with_constants_behind(*ops), images(8)
    model, plan, artifact = converted(proto, inputs, target=target)
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    assert len(plan.low) == 2
    assert error(run(artifact, inputs, target), run(proto, inputs, target)) < 0.04
    if target is TARGET:
        assert {precisions(model, artifact, inputs)[name] for name in plan.low} == {"int8"}
