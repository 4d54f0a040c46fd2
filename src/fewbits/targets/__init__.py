"""The only door to runtimes: `open_target`."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fewbits.errors import TargetError

if TYPE_CHECKING:
    from fewbits.targets.protocol import Target

TARGETS: Final = ("onnxruntime:cpu", "openvino:cpu")
"""What serves ONNX models: names that `open_target` knows, besides ``auto``."""

TORCH_TARGETS: Final = ("torch:cpu", "torch:cpu:compiled", "torch:cuda", "torch:cuda:compiled")
"""What serves PyTorch modules."""

SIMULATED: Final = "simulated"
"""What names of targets begin with, before a colon and a cost model, whose hardware is not at hand."""

_WITH: Final = {"openvino": "'fewbits[openvino]'", "torch": "'fewbits[torch]'"}


def open_target(text: str = "auto", threads: int = 0, streams: int = 1) -> Target:
    """The runtime that `text` names, with `threads` threads (0: every core that this process may use) in all, shared
    out to `streams` calls at the same time.

    ``auto`` is the first of `installed`; ``onnxruntime`` is short for ``onnxruntime:cpu``. ``simulated:mpic`` is the
    hardware that the cost model ``mpic`` describes (see `fewbits.costs.plugins.cost_model`), emulated.

    Raises:
        TargetError: an unknown name, or a runtime that is not installed.
        UsageError: more threads than cores, fewer than one stream, or an unknown cost model.
        ToolError: a plug-in's cost model cannot be loaded.
    """
    if is_simulated(text):
        from fewbits.targets.simulated import Simulated  # noqa: PLC0415

        return Simulated.of(text.partition(":")[2], threads)
    known = (*TARGETS, *TORCH_TARGETS)
    short = {one.partition(":")[0]: one for one in reversed(known)}
    name = installed()[0] if text == "auto" else short.get(text, text)
    if name not in known:
        near = get_close_matches(text, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TargetError(
            f"unknown target {text!r}; choose auto or {', '.join(known)}, or "
            f"{SIMULATED}:MODEL with a cost model such as mpic{hint}"
        )
    package = name.partition(":")[0]
    if find_spec(package) is None:
        raise TargetError(f"the target {name} needs the package {package}: pip install {_WITH.get(package, package)}")
    # A runtime is imported when it is opened, so that `import fewbits` stays light.
    if package == "torch":
        from fewbits.targets.pytorch import Torch  # noqa: PLC0415

        return Torch.of(threads, streams, name.split(":")[1], compiled=name.endswith(":compiled"))
    if package == "openvino":
        from fewbits.targets.openvino import OpenVino  # noqa: PLC0415

        return OpenVino.of(threads, streams)
    from fewbits.targets.onnxruntime import OnnxRuntime  # noqa: PLC0415

    return OnnxRuntime.of(threads, streams)


def open_targets(text: str = "auto", threads: int = 0, streams: int = 1, *, torch: bool = False) -> tuple[Target, ...]:
    """Every installed runtime for ``auto``, else the one that `text` names. `torch`: for a PyTorch module, which can be
    exported to ONNX, not for an ONNX model. Raises as `open_target`, and TargetError for PyTorch and an ONNX model."""
    if serves_modules(text) and not torch:
        raise TargetError(f"{text} serves PyTorch modules; choose auto or {', '.join(TARGETS)}")
    automatic = (*TORCH_TARGETS[:1], *installed()) if torch else installed()
    return tuple(open_target(name, threads, streams) for name in (automatic if text == "auto" else (text,)))


def serves_modules(text: str) -> bool:
    """Whether the target that `text` names opens PyTorch modules, and no ONNX models."""
    return text.partition(":")[0] == "torch"


def device_of(text: str) -> str:
    """Where the target that `text` names computes: ``cpu`` or ``cuda``."""
    return "cuda" if "cuda" in text.split(":") else "cpu"


def is_simulated(text: str) -> bool:
    """Whether the target that `text` names is hardware that is not at hand: it emulates, and costs are predicted."""
    return text.partition(":")[0] == SIMULATED


def installed() -> tuple[str, ...]:
    """The names of the targets whose runtime is installed; the first of all where none is."""
    return tuple(name for name in TARGETS if find_spec(name.partition(":")[0]) is not None) or TARGETS[:1]


__all__ = [
    "SIMULATED",
    "TARGETS",
    "TORCH_TARGETS",
    "device_of",
    "installed",
    "is_simulated",
    "open_target",
    "open_targets",
    "serves_modules",
]
