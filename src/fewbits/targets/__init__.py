"""The only door to runtimes: `open_target`."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fewbits.errors import TargetError

if TYPE_CHECKING:
    from fewbits.targets.protocol import Target

TARGETS: Final = ("onnxruntime:cpu",)
"""The names that `open_target` knows, besides ``auto``."""


def open_target(text: str = "auto", threads: int = 0) -> Target:
    """The runtime that `text` names, with `threads` threads (0: every core that this process may use).

    ``auto`` is the best installed one; ``onnxruntime`` is short for ``onnxruntime:cpu``.

    Raises:
        TargetError: an unknown name, or a runtime that is not installed.
        UsageError: more threads than cores.
    """
    name = {"auto": TARGETS[0], "onnxruntime": TARGETS[0]}.get(text, text)
    if name not in TARGETS:
        near = get_close_matches(text, TARGETS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TargetError(f"unknown target {text!r}; choose auto or {', '.join(TARGETS)}{hint}")
    if find_spec("onnxruntime") is None:
        raise TargetError("the target onnxruntime:cpu needs the package onnxruntime: pip install onnxruntime")
    # The runtime is imported when it is opened, so that `import fewbits` stays light.
    from fewbits.targets.onnxruntime import OnnxRuntime  # noqa: PLC0415

    return OnnxRuntime.of(threads)


__all__ = ["TARGETS", "open_target"]
