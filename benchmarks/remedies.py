"""What array remedies buy on real layers, and what those cost that compute something more: ``python
benchmarks/remedies.py``.

For each product by a matrix of MiniLM and of the small GPT: the squared error of its outputs on inputs that nothing was
fitted to, over that of rounding to nearest, with the weight alone in four bits (blocks of 32 and 128) and with static
8-bit codes. Rotations and splits compute something more at every call: how much, on one layer of MiniLM's sizes, is
timed beside it on ONNX Runtime. Writes ``benchmarks/results/remedies.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import ConfigDict, TypeAdapter

import minilm
import results
from fewbits.benchmark import Candidate, compare
from fewbits.data import open_data
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT4_BLOCKS, INT8_CHANNEL, INT8_STATIC, UINT8_TENSOR, Scheme
from fewbits.formats.text import parse
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.measurement import Comparison
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from fewbits.refine.awq import search_factors
from fewbits.refine.best_codes import Way, best_codes, learnt_codes
from fewbits.refine.channel_mean import ChannelMean
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.outliers import Split, worst_channels
from fewbits.refine.rotation import Rotation, largest_block
from fewbits.refine.smoothing import search_smoothing
from fewbits.targets.probe import this_machine
from suite import SUITE, THREADS

Array = NDArray[np.float32]
FORMATS: Final = ("int4r/g32", "uint4/g128")
FITTED: Final = 128
APART: Final = 32
ROWS: Final = 4096
KEPT: Final = 0.02
"""The share of its inputs whose weights a split keeps in float."""
ROUNDS: Final = 12
DEPTH, COLUMNS, POSITIONS = 384, 1536, 64

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Layer:
    """One product; by format and remedy, the squared error over that of rounding to nearest."""

    model: str
    name: str
    shape: tuple[int, ...]
    errors: Mapping[str, Mapping[str, float]]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class Remedies:
    """All layers, and seconds of one layer of MiniLM's sizes by runtime."""

    layers: tuple[Layer, ...]
    costs: Mapping[str, Comparison]
    taken: results.Taken

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A weight (outputs, inputs), rows that it reads, to fit to and to judge by."""

    weight: Array
    fitted: Array
    apart: Array


def layers(name: str, folder: Path, most: int) -> Iterator[tuple[str, Read]]:
    """The products by a matrix of the model `name`, every so many that there are at most `most`."""
    member = SUITE[name]
    model = open_model(member.model(folder))
    given = member.calibration(folder) or member.data(folder)
    source = open_data({key: array for key, array in given.items() if key != "labels"}, model.inputs)
    found = [one for one in group(model.graph) if one.weight and one.kind in (Kind.MATMUL, Kind.GEMM)]
    found = found[:: max(1, -(-len(found) // most))]
    tensors = list(dict.fromkeys(one.operands[0] for one in found))
    rows: dict[str, list[Array]] = {tensor: [] for tensor in tensors}
    mask = "attention_mask" if "attention_mask" in given else ""
    data = source.take(range(FITTED + APART))
    for values in model.observe(data.batches(8), [*tensors, *([mask] if mask else [])]):
        for tensor in tensors:
            whole = values[tensor]
            rows[tensor].append(whole[values[mask] > 0] if mask else whole.reshape(-1, whole.shape[-1]))
    for one in found:
        weight = model.weight(one.weight)
        by_outputs = weight if model.graph.node[one.name].attributes.get("transB", 0) else weight.T
        parts = rows[one.operands[0]]
        cut = len(parts) * FITTED // (FITTED + APART)
        fitted, apart = (np.concatenate(some)[:ROWS] for some in (parts[:cut], parts[cut:]))
        yield one.name, Read(np.ascontiguousarray(by_outputs, np.float32), fitted, apart)


def stored(one: Read, format: ScaledFormat, *, learn: bool) -> Mapping[str, float]:
    """Squared errors with the weight alone in `format`, over rounding to nearest."""
    fitted, apart = Gram.of(one.fitted[None]), Gram.of(one.apart[None])

    def error(values: NDArray[np.floating]) -> float:
        return float(output_errors(values.astype(np.float64) - one.weight, apart).sum())

    plain = error(fake_quantize(one.weight, format))
    found = {
        str(way): best_codes(one.weight, fitted, apart, format, {way}).error
        for way in (Way.CLIPPED, Way.HQQ, Way.GPTQ, Way.GPTQ_CLIPPED)
    }
    best = best_codes(one.weight, fitted, apart, format)
    found["best of these"] = best.error
    if learn:
        found["AdaRound behind it"] = learnt_codes(one.weight, fitted, apart, best).error
    magnitude = ChannelMean.empty(one.weight.shape[1]).update(np.abs(one.fitted), axis=-1).mean
    factors = search_factors(one.weight, fitted, magnitude, format)
    moved = [Gram.of(factors.divided(rows)[None]) for rows in (one.fitted, one.apart)]
    found["AWQ"] = best_codes(factors.scaled(one.weight), moved[0], moved[1], format, set()).error
    found["AWQ, then the best"] = best_codes(factors.scaled(one.weight), moved[0], moved[1], format).error
    turn = rotation(one.weight.shape[1])
    turned = [Gram.of(turn.apply(rows)[None]) for rows in (one.fitted, one.apart)]
    found["rotation"] = best_codes(turn.apply(one.weight), turned[0], turned[1], format, set()).error
    found["rotation, then the best"] = best_codes(turn.apply(one.weight), turned[0], turned[1], format).error
    change = fake_quantize(one.weight, format) - one.weight
    split = Split.of(one.weight, worst_channels(change, fitted, kept(one)))
    found["split"] = error(joined(split, fake_quantize(split.rest, format)))
    found["split, then the best"] = error(joined(split, values(best_codes(split.rest, fitted, apart, format).codes)))
    return {name: value / plain for name, value in found.items()}


def static(one: Read) -> Mapping[str, float]:
    """Squared errors with static codes of 8 bits, over rounding to nearest."""
    expected = one.apart @ one.weight.T

    def error(weight: Array, fitted: Array, inputs: Array, extra: float | Array = 0.0) -> float:
        scales = quantize(fitted, UINT8_TENSOR)
        rounded = values(quantize(inputs, UINT8_TENSOR, scale=scales.scale, zero_point=scales.zero_point))
        return float(np.square(rounded @ fake_quantize(weight, INT8_CHANNEL).T + extra - expected).sum())

    plain = error(one.weight, one.fitted, one.apart)
    factors = search_smoothing(one.weight, one.fitted, INT8_CHANNEL, UINT8_TENSOR)
    turn = rotation(one.weight.shape[1])
    peaks = np.argsort(-np.abs(one.fitted).max(axis=0))[: kept(one)]
    split = Split.of(one.weight, np.sort(peaks))
    (fitted, _), (inputs, large) = split.inputs(one.fitted), split.inputs(one.apart)
    found = {
        "SmoothQuant": error(factors.scaled(one.weight), factors.divided(one.fitted), factors.divided(one.apart)),
        "rotation": error(turn.apply(one.weight), turn.apply(one.fitted), turn.apply(one.apart)),
        "split": error(split.rest, fitted, inputs, large @ split.kept.T),
    }
    return {name: value / plain for name, value in found.items()}


def rotation(size: int) -> Rotation:
    """A random one of `size`, in the largest blocks that it has."""
    return Rotation.random(size, 0, largest_block(size))


def kept(one: Read) -> int:
    """How many inputs a split keeps in float."""
    return max(1, round(KEPT * one.weight.shape[1]))


def values(codes: QTensor[NDArray[np.generic]]) -> Array:
    """What `codes` stand for."""
    return np.asarray(dequantize(codes), np.float32)


def joined(split: Split, rest: Array) -> Array:
    """The weight that `rest` and the columns in float come to."""
    whole = rest.copy()
    whole[:, split.channels] = split.kept
    return whole


def net(kind: str) -> onnx.ModelProto:
    """A product of MiniLM's sizes, as it is, behind a rotation, or split."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((DEPTH, COLUMNS)).astype(np.float32) / 20
    constants = {"w": weight, "turn": np.linalg.qr(rng.standard_normal((DEPTH, DEPTH)))[0].astype(np.float32)}
    constants |= {"places": np.arange(8) * 7, "small": weight[np.arange(8) * 7], "ones": np.ones(DEPTH, np.float32)}
    nodes = {
        "plain": [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "rotated": [
            helper.make_node("MatMul", ["x", "turn"], ["turned"], "turn"),
            helper.make_node("MatMul", ["turned", "w"], ["y"], "product"),
        ],
        "split": [
            helper.make_node("Mul", ["x", "ones"], ["rest"], "mask"),
            helper.make_node("Gather", ["x", "places"], ["large"], "pick", axis=2),
            helper.make_node("MatMul", ["rest", "w"], ["most"], "product"),
            helper.make_node("MatMul", ["large", "small"], ["few"], "kept"),
            helper.make_node("Add", ["most", "few"], ["y"], "sum"),
        ],
    }[kind]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", POSITIONS, DEPTH))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", POSITIONS, COLUMNS))],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def form(kind: str, scheme: Scheme, target: str) -> bytes:
    """The layer `kind` with its product in `scheme`, as `target` wants it."""
    model = open_model(net(kind))
    ranges = dict.fromkeys(("x", "turned", "rest", "y", "most"), (-4.0, 4.0))
    plan = Plan(model.sha256, {"product": Choice(str(scheme), "")}, ranges, target=target)
    return model.converted(plan).content


def costs(target: str, scheme: Scheme) -> Comparison:
    """The layer in `scheme` as it is, behind a rotation, split; and in float."""
    inputs = {"x": np.random.default_rng(0).standard_normal((1, POSITIONS, DEPTH)).astype(np.float32)}
    with TemporaryDirectory(prefix="fewbits-") as folder:
        files = {kind: form(kind, scheme, target) for kind in ("plain", "rotated", "split")}
        files["float"] = net("plain").SerializeToString()
        candidates = []
        for name, content in files.items():
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(content)
            candidates.append(Candidate(name, path, target, THREADS))
        return compare(candidates, inputs, rounds=ROUNDS, looks=1)


def main() -> None:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(description="What array remedies buy on real layers, and what they cost.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where models.py put them (%(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="of each model, at most (%(default)s)")
    arguments = parser.parse_args()
    found = []
    for name in ("minilm", "tiny_gpt"):
        for number, (layer, one) in enumerate(layers(name, arguments.dir, arguments.layers)):
            formats = [parse(text) for text in FORMATS]
            errors = {
                text: stored(one, format, learn=number % 3 == 0)
                for text, format in zip(FORMATS, formats, strict=True)
                if isinstance(format, ScaledFormat) and one.weight.shape[1] % 128 == 0
            }
            found.append(Layer(name, layer, one.weight.shape, {**errors, "static": static(one)}))
            print(name, layer, one.weight.shape, flush=True)
    wanted = [("onnxruntime:cpu", INT8_STATIC), ("onnxruntime:cpu", INT4_BLOCKS)]
    timed = {f"{target}, {scheme}": costs(target, scheme) for target, scheme in wanted}
    taken = results.Taken.now(this_machine(results.PACKAGES))
    written = TypeAdapter(Remedies).dump_json(Remedies(tuple(found), timed, taken), indent=1)
    results.write(written, results.FOLDER / "remedies.json")
    for name in ("minilm", "tiny_gpt"):
        for format in (*FORMATS, "static"):
            rows = [one.errors[format] for one in found if one.model == name and format in one.errors]
            for remedy in dict.fromkeys(key for row in rows for key in row):
                shares = [row[remedy] for row in rows if remedy in row]
                print(f"{name} {format} {remedy}: median {median(shares):.3f}, {min(shares):.3f} to {max(shares):.3f}")
    for what, comparison in timed.items():
        for kind, speedup in comparison.speedups.items():
            print(f"{what}, {kind}: {1 / speedup.value:.2f} of the time of plain")


if __name__ == "__main__":
    main()
