"""Whatever exporters write is opened and converted, on the runtimes that run it as it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from builders import Array
from conversion import OPENVINO, TARGET, converted, error, run
from exported_models import EXPORTED
from exporter_patterns import PATTERNS
from fewbits.formats.scheme import BF16, FP16, INT8_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.plan import Plan
from fewbits.targets.protocol import Target

MODELS = {**EXPORTED, **PATTERNS}
# What OpenVINO does not load or run, as it is or with anything low in it.
_NOT_ON_OPENVINO = {"absent inputs", "contributed operators", "empty tensors", "functions in functions", "sequences"}
PAIRS = (
    (TARGET, None),
    (TARGET, FP16),
    (TARGET, INT8_DYNAMIC),
    (TARGET, INT8_BLOCKS),
    (TARGET, INT8_WEIGHT),
    (OPENVINO, None),
    (OPENVINO, BF16),
    (OPENVINO, INT8_WEIGHT),
)


def floats(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Those with elements, as float64."""
    return {name: array.astype(np.float64) for name, array in arrays.items() if array.size}


@pytest.mark.parametrize(("target", "scheme"), PAIRS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_same_model_in_fewer_bits(name: str, target: Target, scheme: Scheme | None) -> None:
    exported = MODELS[name]
    proto, inputs = exported.model(), exported.inputs(8)
    model, plan, artifact = converted(proto, inputs, target=target, scheme=scheme)
    result = onnx.load_model_from_string(artifact.content)
    # Where nothing is low it is the original, stale shapes and all.
    onnx.checker.check_model(result, full_check=bool(plan.low))
    assert [one.name for one in result.graph.input] == [one.name for one in proto.graph.input]
    assert [one.SerializeToString() for one in result.graph.output] == [
        one.SerializeToString() for one in proto.graph.output
    ]
    assert len(plan.low) >= (exported.low if scheme is None else 0)
    assert model.converted(Plan(model.sha256, {}, {})).content == proto.SerializeToString()
    if target is OPENVINO and name in _NOT_ON_OPENVINO:
        return
    wanted = run(proto, inputs, target)
    got = run(artifact, inputs, target)
    assert {key: (array.shape, array.dtype) for key, array in got.items()} == {
        key: (array.shape, array.dtype) for key, array in wanted.items()
    }
    assert error(floats(got), floats(wanted)) < 0.05
