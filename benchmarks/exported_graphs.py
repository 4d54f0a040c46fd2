"""Graphs as exporters write them, small, with random weights: ``python benchmarks/exported_graphs.py [--only NAME]``.

Every architecture is built from its transformers configuration (or scikit-learn), exported by one of torch's two
exporters, skl2onnx, or ONNX Runtime's own optimiser, and tuned on every runtime; what came out of it is stored in
``benchmarks/results/exported_graphs.json``. ``--given FOLDER`` takes the graphs that the scripts in
``benchmarks/exporters/`` wrote there, in environments of their own. Nothing may crash: a graph with nothing to gain
comes back as it was, with the reason. With ``--nncf-python`` the tools that quantise ONNX files are given the same
graphs: what matters here is whether they give a model that loads and runs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from transformers.utils import logging

import fewbits
import results
from exported_architectures import ARCHITECTURES, SAMPLES, First, Inputs
from fewbits.errors import FewbitsError
from fewbits.targets.probe import this_machine
from results import Exported

THREADS = 2
SECONDS = 20.0

EXPORTERS = ("dynamo", "torchscript")
OPTIMISED = ("bert", "gpt2", "vit", "resnet", "mobilenet v2", "swin")
"""Saved after ONNX Runtime's own optimiser as well, with its contrib operators."""


def graphs(folder: Path) -> Iterator[tuple[str, str, Path, Inputs]]:
    """Name, exporter, file and inputs of every graph that its exporter can write."""
    for exporter in EXPORTERS:
        for name, make in ARCHITECTURES.items():
            path = folder / f"{name} {exporter}.onnx".replace(" ", "_")
            torch.manual_seed(0)
            module, inputs = make()
            if not path.is_file() and not _export(module.eval(), inputs, path, dynamo=exporter == "dynamo"):
                continue
            yield name, exporter, path, inputs
            if name in OPTIMISED and exporter == "dynamo":
                optimised = path.with_name(f"{path.stem}_optimised.onnx")
                _optimise(path, optimised)
                yield name, "ONNX Runtime's optimiser", optimised, inputs
    yield from _trees(folder)


def _export(module: nn.Module, inputs: Inputs, path: Path, *, dynamo: bool) -> bool:
    arguments = tuple(torch.from_numpy(array[:2]) for array in inputs.values())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                arguments,
                path,
                input_names=list(inputs),
                output_names=["y"],
                dynamic_shapes=_dynamic(module, inputs) if dynamo else None,
                dynamic_axes=None if dynamo else {name: {0: "batch"} for name in (*inputs, "y")},
                opset_version=18 if dynamo else 17,
                dynamo=dynamo,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # noqa: BLE001 - an exporter may fail in any way; then there is no graph
        print(f"{path.stem}: not exported ({type(error).__name__}: {' '.join(str(error).split())[:100]})")
        return False
    return True


def _dynamic(module: nn.Module, inputs: Inputs) -> tuple[object, ...]:
    axes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    return (axes,) if isinstance(module, First) else axes


def _optimise(path: Path, optimised: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _trees(folder: Path) -> Iterator[tuple[str, str, Path, Inputs]]:
    """Models of scikit-learn, where skl2onnx is installed."""
    try:
        from skl2onnx import to_onnx
        from sklearn.datasets import load_digits
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC
    except ImportError as error:
        print(f"models of scikit-learn are left out: {error}")
        return
    digits = load_digits()
    x, y = digits.data.astype(np.float32), digits.target
    models = {
        "perceptron": make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=200, random_state=0)),
        "logistic regression": LogisticRegression(max_iter=300),
        "random forest": RandomForestClassifier(20, random_state=0),
        "support vectors": SVC(random_state=0),
    }
    for name, model in models.items():
        path = folder / f"{name}_skl2onnx.onnx".replace(" ", "_")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {} if name == "support vectors" else {"zipmap": False}
            made = to_onnx(model.fit(x, y), x[:1], options=options, target_opset=18)
        onnx.save(made, path)
        yield name, "skl2onnx", path, {made.graph.input[0].name: x[:SAMPLES]}


def given(folder: Path) -> Iterator[tuple[str, str, Path, Inputs]]:
    """The graphs in `folder`, called ``EXPORTER--NAME.onnx``, with their inputs."""
    for path in sorted(folder.glob("*--*.onnx")):
        exporter, _, name = path.stem.replace("_", " ").partition("--")
        with np.load(path.with_suffix(".npz")) as inputs:
            yield name, exporter, path, dict(inputs)


def tuned(name: str, exporter: str, path: Path, inputs: Inputs, peers: Mapping[str, str]) -> Exported:
    """What `tune` makes of one graph."""
    nodes = len(onnx.load(path).graph.node)
    try:
        result = fewbits.tune(
            path,
            inputs,
            evaluate="cosine",
            max_loss=0.05,
            objective="size",
            threads=THREADS,
            max_seconds=SECONDS,
            max_trials=2,
        )
    except FewbitsError as error:
        return Exported(name, exporter, nodes, "refused", str(error), 0.0, peers)
    except Exception as error:  # noqa: BLE001 - what must not happen is what is looked for
        said = f"{type(error).__name__}: {error}"
        return Exported(name, exporter, nodes, "CRASHED", said, 0.0, peers)
    record = result.record
    loss = record.accuracy.loss.value if record.accuracy is not None else 0.0
    return Exported(name, exporter, nodes, str(result.outcome), _without_speed(record.reason), loss, peers)


def _without_speed(reason: str) -> str:
    """`reason` without its sentence about speed: graphs so small say nothing of it."""
    return re.sub(r" It is (slower|faster)[^.]*\.\d+x[^.]*\.| Serve it on .*$", "", reason)


def main() -> None:
    """Export, tune and store."""
    parser = argparse.ArgumentParser(description="Tune graphs of many exporters.")
    parser.add_argument("--dir", type=Path, help="where the graphs go; a folder that is gone afterwards if not given")
    parser.add_argument("--given", type=Path, help="take the graphs in this folder instead of exporting any")
    parser.add_argument("--only", action="append", help="only architectures whose name holds this")
    parser.add_argument("--nncf-python", help="Python of an environment that has NNCF; without it no other tool is run")
    parser.add_argument("--build", action="store_true", help="only export")
    parser.add_argument("--missing", action="store_true", help="only graphs that have no stored outcome")
    parser.add_argument(
        "--peers-only",
        action="store_true",
        help="run the other tools alone, on graphs that have an outcome but none of theirs",
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    os.environ.setdefault("TORCH_LOGS", "-all")
    outcomes = {(one.name, one.exporter): one for one in results.read_exported()}
    with TemporaryDirectory() as scratch:
        folder = options.dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, exporter, path, inputs in given(options.given) if options.given else graphs(folder):
            if options.only and not any(text in name for text in options.only):
                continue
            known = outcomes.get((name, exporter))
            if (known is not None) if options.missing else options.peers_only and (known is None or known.peers):
                continue
            if not options.given:
                np.savez(path.with_suffix(".npz"), **inputs)
            if options.build:
                print(path)
                continue
            peers = _peers(options.nncf_python, path) if options.nncf_python else {}
            one = (
                replace(known, peers=peers)
                if options.peers_only and known is not None
                else tuned(name, exporter, path, inputs, peers)
            )
            results.add_exported(one, this_machine(results.PACKAGES))
            print(f"{name}, {exporter}: {one.outcome}; {one.reason[:100]}", flush=True)
            for tool, said in peers.items():
                print(f"  {tool}: {said or 'runs'}", flush=True)


def _peers(python: str, path: Path) -> Mapping[str, str]:
    """What other tools do with the file, each in a process of its own."""
    script = Path(__file__).with_name("exported_peer.py")
    said = {}
    for tool in ("static", "static per-channel", "dynamic", "NNCF"):
        done = subprocess.run(
            [python, script, tool, path, path.with_suffix(".npz")],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        last = (done.stderr.strip().splitlines() or [""])[-1]
        said[tool] = "" if done.returncode == 0 else last[:200] or f"ended with {done.returncode}"
    return said


if __name__ == "__main__":
    sys.exit(main())
