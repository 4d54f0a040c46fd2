"""Peak memory and seconds of calibration: fewbits against ONNX Runtime's calibrators, as the samples grow.

Every run is a process of its own that sees the same model, the same tensors and the same batches, made
one at a time from a seed. Peak memory is ``ru_maxrss`` of that process, with its libraries and model.

    python benchmarks/calibration_memory.py            # 64 and 512 samples, three runs each
    python benchmarks/calibration_memory.py --quick    # 8 and 64 samples, one run each, writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

# The kernel hands the peak of a parent on to its children, so this process imports nothing large until
# they are done.
if TYPE_CHECKING:
    import numpy as np

RESULT = Path(__file__).parent / "results" / "calibration_memory.json"
PACKAGES = ("numpy", "onnx", "onnxruntime")
SIZE = 64
BATCH = 8
CONVOLUTIONS = ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1))
CASES = (
    ("fewbits", "minmax"),
    ("fewbits", "percentile"),
    ("fewbits", "mse"),
    ("fewbits", "entropy"),
    ("onnxruntime", "minmax"),
    ("onnxruntime", "percentile"),
    ("onnxruntime", "entropy"),
)


@dataclass(frozen=True)
class Run:
    """One calibration in a fresh process; `load` is how many processes wanted a core before it began."""

    tool: str
    method: str
    samples: int
    seconds: float
    before_bytes: int
    peak_bytes: int
    tensors: int
    load: float = 0.0


def build(path: Path) -> None:
    """A network of ten 3x3 convolutions with ReLU on 3x64x64 inputs, He-initialised."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name, channels = [], [], "input", 3
    for k, (wider, stride) in enumerate(CONVOLUTIONS):
        weight = rng.normal(size=(wider, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{k}"))
        nodes.append(
            helper.make_node("Conv", [name, f"w{k}"], [f"conv{k}"], f"conv{k}", strides=[stride] * 2, pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"conv{k}"], [f"relu{k}"], f"relu{k}"))
        name, channels = f"relu{k}", wider
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    made = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, SIZE // 4, SIZE // 4])
    graph = helper.make_graph(nodes, "ten_convolutions", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def tensors() -> list[str]:
    """What is calibrated: the input and every output of a node, as ONNX Runtime selects them."""
    return ["input", *(f"{op}{k}" for k in range(len(CONVOLUTIONS)) for op in ("conv", "relu"))]


def inputs(samples: int) -> Iterator[dict[str, np.ndarray]]:
    import numpy as np

    rng = np.random.default_rng(1)
    for start in range(0, samples, BATCH):
        size = min(BATCH, samples - start)
        yield {"input": rng.standard_normal((size, 3, SIZE, SIZE), dtype=np.float32)}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_fewbits(model: Path, method_name: str, samples: int) -> Run:
    from fewbits.calibration.collect import collect
    from fewbits.calibration.ranges import method
    from fewbits.data.batches import Batch
    from fewbits.formats.integer import UINT8
    from fewbits.models import open_model
    from fewbits.progress import Silent

    opened = open_model(model)
    before, start = peak_bytes(), time.perf_counter()
    observations = opened.observe((Batch(batch) for batch in inputs(samples)), tensors())
    ranges = collect(observations, [method(method_name)], dict.fromkeys(tensors(), UINT8), Silent())[method_name]
    return Run("fewbits", method_name, samples, time.perf_counter() - start, before, peak_bytes(), len(ranges))


def run_onnxruntime(model: Path, method_name: str, samples: int) -> Run:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = inputs(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    augmented = str(model.with_name("augmented.onnx"))
    before, start = peak_bytes(), time.perf_counter()
    calibrator = create_calibrator(
        model, ["Conv", "Relu"], augmented_model_path=augmented, calibrate_method=methods[method_name]
    )
    calibrator.collect_data(Reader())
    ranges = calibrator.compute_data().data
    return Run("onnxruntime", method_name, samples, time.perf_counter() - start, before, peak_bytes(), len(ranges))


def work(tool: str, method_name: str, samples: int, model: Path) -> None:
    run = (run_fewbits if tool == "fewbits" else run_onnxruntime)(model, method_name, samples)
    print(json.dumps(asdict(run)))


def child(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(counts: list[int], repeats: int, model: Path) -> list[Run]:
    """All cases at all sample counts, in turn, `repeats` times over."""
    runs = []
    for _ in range(repeats):
        for samples in counts:
            for tool, name in CASES:
                load = os.getloadavg()[0]
                # The libraries may print; the result is the last line.
                line = child("--worker", tool, name, str(samples), str(model)).splitlines()[-1]
                runs.append(replace(Run(**json.loads(line)), load=load))
                print(f"{tool:>12} {name:<10} {samples:>5} samples  {runs[-1].seconds:6.2f} s", file=sys.stderr)
    return runs


def summary(runs: list[Run]) -> list[dict[str, str | int | float]]:
    """Medians over the runs of each case."""
    keys = list(dict.fromkeys((run.tool, run.method, run.samples) for run in runs))
    same = [[run for run in runs if (run.tool, run.method, run.samples) == key] for key in keys]
    return [
        {
            "tool": tool,
            "method": name,
            "samples": samples,
            "seconds": round(median(run.seconds for run in group), 3),
            "peak_mib": round(median(run.peak_bytes for run in group) / 2**20, 1),
            "above_start_mib": round(median(run.peak_bytes - run.before_bytes for run in group) / 2**20, 1),
        }
        for (tool, name, samples), group in zip(keys, same, strict=True)
    ]


def write(path: Path, runs: list[Run]) -> None:
    from fewbits.targets.probe import this_machine

    document = {
        "command": shlex.join(["python", *sys.argv]),
        "what": "calibration of 21 tensors of ten convolutions (batches of 8 x 3x64x64), one process per run",
        "machine": asdict(this_machine(PACKAGES)),
        "summary": summary(runs),
        "runs": [asdict(run) for run in runs],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples, one run each, no file written")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    parser.add_argument("--worker", nargs=4, metavar=("TOOL", "METHOD", "SAMPLES", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(options.build)
        return
    if options.worker:
        tool, name, samples, model = options.worker
        work(tool, name, int(samples), Path(model))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        child("--build", str(model))
        runs = measure([8, 64] if options.quick else [64, 512], 1 if options.quick else 3, model)
    print(f"{'tool':>12} {'method':<10} {'samples':>7} {'seconds':>8} {'peak MiB':>9} {'above start':>12}")
    for row in summary(runs):
        print(
            f"{row['tool']:>12} {row['method']:<10} {row['samples']:>7} {row['seconds']:>8} "
            f"{row['peak_mib']:>9} {row['above_start_mib']:>12}"
        )
    if not options.quick:
        write(options.out, runs)
        print(f"written to {options.out}")


if __name__ == "__main__":
    main()
