"""The catalogue of formats as text: what each costs and holds, and what this machine does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewbits.formats.describe import Description, Kind
from fewbits.machine import Gpu, Machine
from fewbits.native import CPU, Support, Use
from fewbits.report.figures import limit
from fewbits.report.table import paragraph, table


@dataclass(frozen=True, slots=True)
class Entry:
    """A format and the instructions that compute with it on a machine, the best first."""

    description: Description
    native: tuple[Support, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Formats, and the machine of which `Entry.native` speaks."""

    machine: Machine
    gpus: tuple[Gpu, ...]
    formats: tuple[Entry, ...]


_TITLES: Mapping[Kind, str] = {
    Kind.FLOAT: "floats",
    Kind.INTEGER: "integers",
    Kind.LEVELS: "levels",
    Kind.SCALED: "blocks",
}

_NOTES: Mapping[Use, str] = {
    Use.SATURATING: "sums of 16 bits, which saturate: exact only if one operand keeps to 7 bits",
    Use.ELEMENTS: "products of elements; the scales of groups and tiles are applied by other instructions",
    Use.WIDER: "as the next wider integer format: saves memory, not arithmetic",
    Use.CONVERSION: "conversion only: saves memory, arithmetic is in fp32",
}

_LEGEND = (
    "bits: of one element, with its share of the scale of its block.",
    "max, min > 0: largest and smallest positive value, of blocks in units of their scale.",
    "eps: distance from 1 to the next value, twice the largest relative error of normal numbers.",
    "native: instructions of this machine that multiply such operands; -: decoded to fp32 by software.",
)

_FAMILIES = (
    ("int4r, uint3, int8f6", "integers of 2 to 16 bits: r symmetric range, fN bits behind the binary point"),
    ("e4m3b11fnuz, e3m4", "floats eXmY: bN bias; fn NaN but no Inf, f neither, fnuz no -0 either"),
    ("kmeans4", "2^N values fitted to the data; codebook(-1,0,1) are given ones"),
    ("bfp8/tile24x24", "block floating point of N bits"),
    ("int4r/g128", "what shares a scale: /tensor /channel /channel@1 /token /g128 /tile16x16"),
    ("int8/tensor/pow2", "scales are powers of two; /asym: with zero point"),
    ("mxfp4-rceil", "which power of two: floor, ceil, rceil, even"),
)


def render(catalogue: Catalogue, width: int) -> str:
    """`catalogue` as text of at most `width` columns, with how to write what is not in it."""
    notes: dict[Use, int] = {}
    rows: list[tuple[str, ...]] = []
    kind: Kind | None = None
    for entry in catalogue.formats:
        if entry.description.kind is not kind:
            kind = entry.description.kind
            rows += [("",) * 7] * bool(rows) + [(_TITLES[kind], *("",) * 6)]
        rows.append(_row(entry, notes))
    headers = ("", "bits", "max", "min > 0", "eps", "specials", "native")
    lines = [*_machine(catalogue, width), "", *table(headers, rows, right=(1, 2, 3, 4), width=width), ""]
    lines += [line for text in _LEGEND for line in paragraph(text, hang="  ", width=width)]
    for use, place in notes.items():
        lines += paragraph(f"[{place}] {_NOTES[use]}", hang="    ", width=width)
    lines += ["", *table(("Others, by example", ""), _FAMILIES, width=width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def instructions(native: Sequence[Support]) -> dict[str, str]:
    """Device → its instructions in words: ``{"CPU": "AMX-BF16, AVX512-BF16", "sm_90": "tensor cores"}``."""
    found: dict[str, list[str]] = {}
    for support in native:
        found.setdefault(support.device, []).append(support.instruction)
    return {device: ", ".join(dict.fromkeys(names)) for device, names in found.items()}


def note(use: Use) -> str:
    """What is to be known about `use`; nothing for plain products."""
    return _NOTES.get(use, "")


def specials(description: Description) -> str:
    """``Inf NaN -0``; empty if every code is an ordinary number."""
    wanted = (("Inf", description.infinity), ("NaN", description.nan), ("-0", description.negative_zero))
    return " ".join(name for name, there in wanted if there)


def _row(entry: Entry, notes: dict[Use, int]) -> tuple[str, ...]:
    description = entry.description
    first: dict[str, Support] = {}
    for support in entry.native:
        first.setdefault(support.device, support)
    where = [
        f"{support.instruction if device == CPU else device}{_mark(support.use, notes)}"
        for device, support in first.items()
    ]
    return (
        f"  {description.name}",
        f"{description.bits_per_element:.5g}",
        limit(description.max),
        limit(description.min_positive),
        limit(description.epsilon) if description.epsilon else "-",
        specials(description) or "-",
        ", ".join(where) or "-",
    )


def _mark(use: Use, notes: dict[Use, int]) -> str:
    return f" [{notes.setdefault(use, len(notes) + 1)}]" if use in _NOTES else ""


def _machine(catalogue: Catalogue, width: int) -> list[str]:
    gpus = ", ".join(f"{gpu.name} ({gpu.architecture})" for gpu in catalogue.gpus) or "no CUDA device"
    return paragraph(f"Formats on this machine: {catalogue.machine.cpu}; {gpus}", hang="  ", width=width)
