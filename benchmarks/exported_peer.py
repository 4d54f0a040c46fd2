"""One tool on one graph, in an environment that has NNCF: ``exported_peer.py TOOL MODEL DATA``.

Ends with 0 if the tool gives a model that its runtime loads and runs; otherwise the error is the last line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION = 16


class Reader(CalibrationDataReader):
    """One sample at a time."""

    def __init__(self, samples: list[dict[str, np.ndarray]]) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self._left, None)


def main() -> None:
    """Quantise, load and run."""
    tool, model, data = sys.argv[1], sys.argv[2], sys.argv[3]
    with np.load(data) as stored:
        arrays = {name: stored[name] for name in stored.files}
    names = {one.name for one in onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()}
    samples = [{n: a[i : i + 1] for n, a in arrays.items() if n in names} for i in range(CALIBRATION)]
    logging.disable(logging.CRITICAL)
    if tool == "NNCF":
        import nncf
        import openvino

        core = openvino.Core()
        quantised = nncf.quantize(core.read_model(model), nncf.Dataset(samples), subset_size=CALIBRATION)
        core.compile_model(quantised, "CPU")(samples[0])
        return
    with TemporaryDirectory() as folder:
        made, prepared = Path(folder) / "made.onnx", Path(folder) / "prepared.onnx"
        if tool == "dynamic":
            quantize_dynamic(model, made)
        else:
            quant_pre_process(model, str(prepared))
            quantize_static(
                prepared,
                made,
                Reader(samples),
                per_channel=tool.endswith("per-channel"),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, samples[0])


if __name__ == "__main__":
    main()
