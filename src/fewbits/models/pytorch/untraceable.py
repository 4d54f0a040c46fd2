"""Why a module cannot be traced: what torch says, the line of the user's where it happened, what to do."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")
_STANDARD = sysconfig.get_path("stdlib")
_MOST = 300


def reason(error: BaseException) -> str:
    """One paragraph: the first line of what torch says, where, and what can be done."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    place = _place(error)
    return f"{said[:_MOST].rstrip('. ')}{f' ({place})' if place else ''}. {_advice(error)}"


def _place(error: BaseException) -> str:
    """The innermost line that is neither torch's nor Python's nor ours; "" if there is none."""
    frames = [
        frame
        for one in _chain(error)
        for frame in traceback.extract_tb(one.__traceback__)
        if not frame.filename.startswith(_OTHERS)
        if not frame.filename.startswith(_STANDARD) or "site-packages" in frame.filename
    ]
    if not frames:
        return ""
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}: {frames[-1].line}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the first cause last."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _advice(error: BaseException) -> str:
    if any(isinstance(one, GuardOnDataDependentSymNode) for one in _chain(error)) or "data-dependent" in str(error):
        return "Control flow that depends on data must become torch.where or torch.cond"
    if "which is not a known type" in str(error) or "pytree" in str(error):
        return "Let forward take and give tensors, and tuples, lists, mappings and dataclasses of them"
    return "Without a graph, only whole layers can be converted"
