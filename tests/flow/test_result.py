from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fewbits
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.targets import open_target
from timing import Timing


def digits() -> dict[str, np.ndarray]:
    with np.load(demo_data()) as data:
        return {"image": data["image"][:5]}


def tuned(target: str) -> fewbits.Result:
    return fewbits.tune(
        demo_model(),
        demo_data(),
        calibration=demo_calibration(),
        calibration_method="minmax",
        threads=1,
        target=target,
    )


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_it_predicts_on_the_runtime_that_serves(timed: Timing, target: str) -> None:
    result = tuned(target)
    assert result.target == f"{target}:cpu" == result.plan.target
    with open_target(target, 1).open(result.artifact) as session:
        expected = session(digits())["scores"]
    np.testing.assert_array_equal(result.predict(digits())["scores"], expected)
    with pytest.raises(fewbits.DataError):
        result.predict({"image": np.zeros((2, 3), np.float32)})


def test_it_is_saved_whole(timed: Timing, tmp_path: Path) -> None:
    result = tuned("onnxruntime")
    assert result.save(tmp_path / "small.onnx").read_bytes() == result.artifact.content
    with pytest.raises(
        fewbits.UsageError, match=r"onnxruntime:cpu serves ONNX files; give a name such as .*small\.onnx"
    ):
        result.save(tmp_path / "small.xml")
    assert not (tmp_path / "small.xml").exists()


def test_openvino_has_a_form_of_its_own(timed: Timing, tmp_path: Path) -> None:
    import openvino

    result = tuned("openvino")
    result.save(tmp_path / "small.xml")
    assert (tmp_path / "small.bin").stat().st_size < demo_model().stat().st_size / 2
    compiled = openvino.Core().compile_model(tmp_path / "small.xml", "CPU", {"INFERENCE_PRECISION_HINT": "dynamic"})
    scores = compiled(digits())["scores"]
    assert (scores.argmax(1) == result.predict(digits())["scores"].argmax(1)).all()
