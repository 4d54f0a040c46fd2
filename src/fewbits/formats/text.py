"""The text form of every format: ``parse(format_text(f)) == f``.

::

    ELEMENT                         fp8_e4m3  bf16  e4m3b11fnuz  int8  int8r  int8f6  ternary  nf4  kmeans4
    ELEMENT/GRANULARITY             int8r/channel  int4r/g128  fp8_e4m3/tile128x128  uint8/tensor
    ELEMENT/GRANULARITY/SCALE       fp4_e2m1/g32/e8m0-rceil  int8/tensor/pow2  fp4_e2m1/g16/nested-fp8_e4m3
    ...[/asym | /sym]               int8/tensor/asym  uint8/tensor/sym
    NAME[-RULE][/GRANULARITY]       mxfp4  mxfp8_e4m3-rceil  nvfp4  mxfp4/g32@0  nvfp4/tile16x16
    bfpN[-RULE][/GRANULARITY]       bfp8/tile24x24: block floating point, N bits with sign

Upper case, blanks around the parts, and what other libraries call a format (``float8_e4m3fn``, ``torch.bfloat16``) are
read too; what is written is always the text above.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches

from fewbits.errors import FormatError
from fewbits.formats import granularity
from fewbits.formats.aliases import ALIASES, NOT_READ, PREFIX
from fewbits.formats.catalog import CATALOGUE, SCALED
from fewbits.formats.floating import E8M0, FP32, FloatFormat
from fewbits.formats.granularity import Granularity, Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import CodebookFormat, KMeansFormat, TernaryFormat, TernaryRule
from fewbits.formats.scaled import (
    REAL,
    Element,
    Format,
    NestedScale,
    PowerOfTwoScale,
    Scale,
    ScaledFormat,
    ScaleRule,
)

_BFP = re.compile(r"bfp([0-9]{1,2})(?:-(\w+))?\Z")
_RULES: Mapping[str, ScaleRule] = {str(rule): rule for rule in ScaleRule}
_NAMED: Mapping[str, Element] = {
    **{name: format for name, format in CATALOGUE.items() if not isinstance(format, ScaledFormat)},
    **{str(TernaryFormat(rule)): TernaryFormat(rule) for rule in TernaryRule},
}
_SUGGESTED = tuple(dict.fromkeys([*CATALOGUE, *_NAMED, "kmeans4", "e4m3b11fnuz"]))


def format_text(format: Format) -> str:
    """`format` as text; names where there are names."""
    if not isinstance(format, ScaledFormat):
        return str(format)
    return _named(format) or _block_floating_point(format) or _spelt(format)


def parse(text: str) -> Format:
    """Read `text`, the inverse of `format_text`. Raises FormatError, with the nearest names."""
    head, *parts = (part.strip() for part in text.lower().split("/"))
    head = head.removeprefix(PREFIX)
    if head in NOT_READ:
        raise FormatError(f"{text!r} is not a number format here: {NOT_READ[head]}")
    head = ALIASES.get(head, head)
    if (named := _read_named(head, parts, text)) is not None:
        return named
    element = _element(head, parts, text)
    return _scaled(element, parts, text) if parts else element


def _named(format: ScaledFormat) -> str:
    for name, known in SCALED.items():
        rule, plain = _without_rule(format)
        if replace(plain, granularity=known.granularity) == known:
            sharing = "" if format.granularity == known.granularity else f"/{format.granularity}"
            return f"{name}{rule}{sharing}"
    return ""


def _block_floating_point(format: ScaledFormat) -> str:
    element, scale = format.element, format.scale
    if isinstance(scale, PowerOfTwoScale) and scale.storage == FP32 and isinstance(element, IntFormat):
        rule, _ = _without_rule(format)
        if element == IntFormat(element.bits, signed=True, restricted=True):
            sharing = "" if format.granularity == Tensor() else f"/{format.granularity}"
            return f"bfp{element.bits}{rule}{sharing}"
    return ""


def _spelt(format: ScaledFormat) -> str:
    parts = [str(format.element), str(format.granularity)]
    if format.scale != REAL:
        parts.append(str(format.scale))
    if format.asymmetric != format.own_asymmetry:
        parts.append("asym" if format.asymmetric else "sym")
    return "/".join(parts)


def _without_rule(format: ScaledFormat) -> tuple[str, ScaledFormat]:
    scale = format.scale
    if not isinstance(scale, PowerOfTwoScale) or scale.rule is ScaleRule.FLOOR:
        return "", format
    return f"-{scale.rule}", replace(format, scale=replace(scale, rule=ScaleRule.FLOOR))


def _read_named(head: str, parts: list[str], whole: str) -> ScaledFormat | None:
    """The format whose name says what its scales are, with what shares one if `parts` say so."""
    name, dash, rule = head.partition("-")
    if name in SCALED:
        known = SCALED[name]
        if dash:
            if not isinstance(known.scale, PowerOfTwoScale):
                raise FormatError(f"{whole!r}: {name} takes no rule for powers of two, its scales are {known.scale}")
            known = replace(known, scale=replace(known.scale, rule=_rule(rule)))
    elif (match := _BFP.match(head)) is not None:
        element = IntFormat(int(match[1]), signed=True, restricted=True)
        known = ScaledFormat(element, Tensor(), PowerOfTwoScale(_rule(match[2] or "floor"), FP32))
    else:
        return None
    if len(parts) > 1:
        spelt = f"{known.element}/{'/'.join(parts)}"
        raise FormatError(f"{whole!r}: {name} says already what its scales are; for other scales write {spelt}")
    return replace(known, granularity=granularity.parse(parts[0])) if parts else known


def _rule(text: str) -> ScaleRule:
    if text not in _RULES:
        raise FormatError(f"{text!r} is not a rule for powers of two; choose {', '.join(_RULES)}")
    return _RULES[text]


def _element(text: str, parts: list[str], whole: str) -> Element:
    if text in _NAMED:
        return _NAMED[text]
    families: tuple[tuple[str, Callable[[str], Element]], ...] = (
        (r"u?int[0-9]+r?(f[0-9]+)?\Z", IntFormat.parse),
        (r"u?e[0-9]+m[0-9]+(b-?[0-9]+)?(fnuz|fn|f)?(nz)?(ftz)?\Z", FloatFormat.parse),
        (r"kmeans[0-9]+\Z", lambda found: KMeansFormat(int(found.removeprefix("kmeans")))),
        (r"codebook\(.*\)\Z", _codebook),
    )
    for pattern, read in families:
        if re.match(pattern, text):
            return read(text)
    *others, last = ["/".join([name, *parts]) for name in _nearest(text)] or [""]
    near = f"{', '.join(others)} or {last}" if others else last
    hint = f"did you mean {near}?" if near else "`fewbits formats` lists those that have a name"
    raise FormatError(f"{whole!r} is not a number format; {hint}")


def _nearest(text: str) -> list[str]:
    """At most three names like `text`: those that it begins, otherwise those that are spelt alike."""
    begun = [name for name in _SUGGESTED if len(text) > 1 and name.startswith(text)]
    return begun[:3] or get_close_matches(text, _SUGGESTED, n=3, cutoff=0.5)


def _codebook(text: str) -> CodebookFormat:
    try:
        return CodebookFormat(tuple(map(float, text.removeprefix("codebook(").removesuffix(")").split(","))))
    except ValueError as error:
        raise FormatError(f"{text!r}: a codebook is written codebook(-1,0,0.5), values in rising order") from error


def _scaled(element: Element, parts: list[str], whole: str) -> ScaledFormat:
    sharing: Granularity = granularity.parse(parts[0])
    zero_points = [part == "asym" for part in parts[1:] if part in ("asym", "sym")]
    scales = [_scale(part, whole) for part in parts[1:] if part not in ("asym", "sym")]
    if len(zero_points) > 1 or len(scales) > 1:
        raise FormatError(f"{whole!r} says something twice: give one kind of scale at most, and one of asym and sym")
    scale: Scale = scales[0] if scales else REAL
    return ScaledFormat(element, sharing, scale, zero_points[0] if zero_points else None)


def _scale(text: str, whole: str) -> Scale:
    if text == "real":
        return REAL
    storage, dash, rule = text.partition("-")
    if storage in ("e8m0", "pow2"):
        return PowerOfTwoScale(_rule(rule) if dash else ScaleRule.FLOOR, E8M0 if storage == "e8m0" else FP32)
    if storage == "nested" and dash:
        return NestedScale(FloatFormat.parse(rule))
    raise FormatError(
        f"{whole!r}: {text!r} says nothing about scales; choose real, e8m0, e8m0-rceil, pow2 or nested-fp8_e4m3, "
        "and asym or sym"
    )
