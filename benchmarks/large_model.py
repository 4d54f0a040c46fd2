"""A model of more than 2 GiB, whose weights lie beside it: what each step takes, in memory and seconds.

Nineteen residual blocks (LayerNormalization, 2048 x 8192, ReLU, 8192 x 2048) of random weights in float32, 2.4 GiB, are
written to disk. Every step is a process of its own; its peak is the resident set as the system counts it, mapped files
included. What is claimed is that no step of fewbits takes more than the float session of ONNX Runtime, one tensor and
500 MiB.

    python benchmarks/large_model.py                # results/large_model.json
    python benchmarks/large_model.py --tune         # with fewbits tune behind, which takes about an hour
    python benchmarks/large_model.py --blocks 2     # small, to try the script; writes nothing
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

BLOCKS: Final = 19
WIDTH: Final = 2048
HIDDEN: Final = 8192
SAMPLES: Final = 8
ALLOWED: Final = 500 * 2**20
RESULT: Final = Path(__file__).parent / "results" / "large_model.json"


@dataclass(frozen=True)
class Step:
    """One step: the most memory that its process held, with Python and all libraries; what it wrote, and the relative
    error of that."""

    name: str
    peak_bytes: int
    seconds: float
    written_bytes: int = 0
    relative_error: float = 0.0


def build(folder: Path, blocks: int) -> Path:
    """The model with its weights in ``weights.bin``, one at a time."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    with (folder / "weights.bin").open("wb") as file:

        def weight(called: str, rows: int, columns: int) -> str:
            values = rng.standard_normal((rows, columns), np.float32) * np.float32(rows**-0.5)
            tensor = onnx.TensorProto(name=called, data_type=TensorProto.FLOAT, dims=values.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", file.tell()), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(values.data)
            weights.append(tensor)
            return called

        for k in range(blocks):
            for part, length in (("gain", WIDTH), ("shift", WIDTH), ("bias", HIDDEN)):
                start = np.ones if part == "gain" else np.zeros
                weights.append(numpy_helper.from_array(start(length, np.float32), f"{part}_{k}"))
            nodes += [
                helper.make_node("LayerNormalization", [name, f"gain_{k}", f"shift_{k}"], [f"norm_{k}"], f"norm_{k}"),
                helper.make_node("MatMul", [f"norm_{k}", weight(f"up_{k}", WIDTH, HIDDEN)], [f"u_{k}"], f"up_{k}"),
                helper.make_node("Add", [f"u_{k}", f"bias_{k}"], [f"b_{k}"], f"bias_{k}"),
                helper.make_node("Relu", [f"b_{k}"], [f"r_{k}"], f"relu_{k}"),
                helper.make_node("MatMul", [f"r_{k}", weight(f"down_{k}", HIDDEN, WIDTH)], [f"d_{k}"], f"down_{k}"),
                helper.make_node("Add", [name, f"d_{k}"], [f"y_{k}"], f"sum_{k}"),
            ]
            name = f"y_{k}"
    given, made = (helper.make_tensor_value_info(one, TensorProto.FLOAT, ["batch", WIDTH]) for one in ("x", name))
    graph = helper.make_graph(nodes, "large", [given], [made], weights)
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def inputs() -> Mapping[str, object]:
    import numpy as np

    return {"x": np.random.default_rng(1).standard_normal((SAMPLES, WIDTH), np.float32)}


def session(folder: Path, name: str, target: str) -> float:
    """Open a model and call it once, by fewbits' own worker's way; the relative error beside the float outputs."""
    import numpy as np

    from fewbits.targets import open_target
    from fewbits.targets.worker import read_model

    with open_target(target, 2).open(read_model(folder / name)) as opened:
        (found,) = opened(inputs()).values()  # type: ignore[arg-type]
    reference = folder / "reference.npy"
    if not reference.exists():
        np.save(reference, found)
    expected = np.load(reference)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def inspect(folder: Path) -> float:
    """Read, hash and check the model, and list what its groups may become."""
    import fewbits.flow

    fewbits.flow.inspect(folder / "model.onnx", "onnxruntime", 2)
    return 0.0


def calibrate(folder: Path) -> float:
    """Observe what every product reads and gives, and write plans: static int8 for all, 4-bit weights for all."""
    from fewbits.data.batches import Batch
    from fewbits.formats.scheme import INT4_BLOCKS, INT8_STATIC, INT8_WEIGHT
    from fewbits.grouping import group
    from fewbits.models import open_model
    from fewbits.plan import Choice, Plan

    model = open_model(folder / "model.onnx")
    groups = [one for one in group(model.graph) if one.is_product]
    names = list(dict.fromkeys(name for one in groups for name in (*one.operands, one.inner, one.output)))
    (found,) = model.observe([Batch(inputs())], names)  # type: ignore[arg-type]
    ranges = {name: (float(found[name].min()), float(found[name].max())) for name in names}
    for file, scheme, target in (
        ("int8", INT8_STATIC, "onnxruntime:cpu"),
        ("int4", INT4_BLOCKS, "onnxruntime:cpu"),
        ("weights8", INT8_WEIGHT, "openvino:cpu"),
    ):
        choices = {one.name: Choice(str(scheme), "benchmark") for one in groups}
        plan = Plan(model.sha256, choices, ranges if scheme is INT8_STATIC else {}, target)
        (folder / f"{file}.json").write_text(plan.to_json())
    return 0.0


def convert(folder: Path, name: str) -> float:
    """Apply a plan and save what it makes."""
    import fewbits.flow

    artifact = fewbits.flow.convert(folder / "model.onnx", folder / f"{name}.json")
    fewbits.flow.save(artifact, folder / f"{name}.onnx")
    return 0.0


def tune(folder: Path) -> float:
    """The whole of ``fewbits tune``, with little effort; processes that measure are not counted."""
    import numpy as np

    import fewbits

    data = {"x": np.random.default_rng(2).standard_normal((128, WIDTH)).astype(np.float32)}
    result = fewbits.tune(
        folder / "model.onnx",
        data,
        evaluate="cosine",
        max_loss="1%",
        target="onnxruntime",
        threads=2,
        effort="low",
        out=folder / "run",
    )
    (folder / "tuned.txt").write_text(result.outcome)
    return 0.0


STEPS: Final[Mapping[str, Callable[[Path], float]]] = {
    "float session, ONNX Runtime": lambda folder: session(folder, "model.onnx", "onnxruntime:cpu"),
    "float session, OpenVINO": lambda folder: session(folder, "model.onnx", "openvino:cpu"),
    "inspect": inspect,
    "observe": calibrate,
    "convert to int8": lambda folder: convert(folder, "int8"),
    "int8 session, ONNX Runtime": lambda folder: session(folder, "int8.onnx", "onnxruntime:cpu"),
    "convert to 4-bit weights": lambda folder: convert(folder, "int4"),
    "4-bit session, ONNX Runtime": lambda folder: session(folder, "int4.onnx", "onnxruntime:cpu"),
    "convert to 8-bit weights": lambda folder: convert(folder, "weights8"),
    "8-bit session, OpenVINO": lambda folder: session(folder, "weights8.onnx", "openvino:cpu"),
    "tune": tune,
}
WRITTEN: Final = {
    "convert to int8": "int8.onnx",
    "convert to 4-bit weights": "int4.onnx",
    "convert to 8-bit weights": "weights8.onnx",
    "tune": "run/model.onnx",
}


def one(name: str, folder: Path) -> Step:
    """Do the step `name`, in this process."""
    from fewbits.targets.worker import peak_resident_bytes

    start = time.perf_counter()
    error = STEPS[name](folder)
    seconds, peak = time.perf_counter() - start, peak_resident_bytes()
    files = [folder / f"{WRITTEN[name]}{suffix}" for suffix in ("", ".data")] if name in WRITTEN else []
    return Step(name, peak, seconds, sum(file.stat().st_size for file in files if file.exists()), error)


def all_steps(folder: Path, without: str, *, tuned: bool) -> Iterator[Step]:
    """Every step in a process of its own."""
    for name in STEPS:
        if name in without or (name == "tune" and not tuned):
            continue
        command = [sys.executable, __file__, "--step", name, "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        step = Step(**json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{step.name:30} {step.peak_bytes / 2**20:7.0f} MiB {step.seconds:6.1f} s "
            f"{step.written_bytes / 2**20:7.0f} MiB written, error {step.relative_error:.2g}",
            flush=True,
        )
        yield step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--without", default="", help="steps to leave out")
    parser.add_argument("--tune", action="store_true", help="do that, too")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; about 12 GiB are needed")
    parser.add_argument("--step", choices=STEPS, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(asdict(one(given.step, given.folder))))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        model = build(Path(name), given.blocks)
        size = sum(file.stat().st_size for file in model.parent.iterdir())
        print(f"{size / 2**30:.2f} GiB", flush=True)
        steps = tuple(all_steps(model.parent, given.without, tuned=given.tune))
    largest = WIDTH * HIDDEN * 4
    limit = steps[0].peak_bytes + largest + ALLOWED
    over = [step.name for step in steps if "session" not in step.name and step.peak_bytes > limit]
    print(f"within the bound of {limit / 2**20:.0f} MiB" if not over else f"beyond the bound: {', '.join(over)}")
    if given.blocks == BLOCKS and not given.without:
        store(size, largest, limit, steps)


def store(size: int, largest: int, limit: int, steps: tuple[Step, ...]) -> None:
    """Write the result with how it was taken."""
    from fewbits.targets.probe import this_machine
    from results import PACKAGES, Taken, write

    content = {
        "what": (
            "peak resident set (VmHWM) of a fresh process per step, once each, in bytes; tune without processes that "
            "measure. The bound is the float session of ONNX Runtime, the largest tensor and 500 MiB"
        ),
        "model_bytes": size,
        "largest_tensor_bytes": largest,
        "bound_bytes": limit,
        # Seconds are for whoever waits: a machine that does other things, too, says nothing about speed.
        "steps": [{key: value for key, value in asdict(step).items() if key != "seconds"} for step in steps],
        # Wherever it worked: the folder is gone.
        "taken": {**asdict(Taken.now(this_machine(PACKAGES))), "command": "python benchmarks/large_model.py"},
    }
    write(json.dumps(content, indent=1).encode(), RESULT)


if __name__ == "__main__":
    main()
