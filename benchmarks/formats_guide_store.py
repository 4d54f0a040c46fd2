"""What benchmarks/formats_guide.py measures, and the file that it is stored in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter

from results import FOLDER, Taken, write

STORED = FOLDER / "formats_guide.json"


@dataclass(frozen=True, slots=True)
class Point:
    """One format on one kind of values. `series` names the line or the rows that it belongs to, `x` its place there.

    `sqnr` is in dB; `clipped` and `underflowed` are shares of the elements.
    """

    series: str
    values: str
    format: str
    x: float
    bits: float
    sqnr: float
    clipped: float = 0.0
    underflowed: float = 0.0

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, slots=True)
class Guide:
    """All points by section, and how they were taken."""

    taken: Taken
    sections: dict[str, tuple[Point, ...]]

    __pydantic_config__ = ConfigDict(extra="forbid")


_GUIDE = TypeAdapter(Guide)
_INNERMOST = re.compile(r"\{([^{}\[\]]*)\}")


def load() -> Guide:
    """What is stored. Stops if nothing is."""
    if not STORED.is_file():
        raise SystemExit(f"{STORED} is not there: run python benchmarks/formats_guide.py")
    return _GUIDE.validate_json(STORED.read_bytes())


def store(guide: Guide) -> None:
    """Write `guide`, one point per line."""
    text = _GUIDE.dump_json(guide, indent=1).decode()
    write(_INNERMOST.sub(lambda match: f"{{{' '.join(match[1].split())}}}", text).encode(), STORED)
