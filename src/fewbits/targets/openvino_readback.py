"""What OpenVINO really ran: its runtime model joined with its performance counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import openvino as ov

from fewbits.targets.protocol import Executed, usual

_DROPPED_CALLS: Final = 2
_NOT_COMPUTED: Final = frozenset({"Const", "Constant", "Input", "Output", "Parameter", "Result"})
_BOUNDARIES: Final = frozenset({"Convert", "FakeQuantize", "Reorder"})
_PRECISIONS: Final[Mapping[str, str]] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "f64": "fp64",
    "u8": "int8",
    "i8": "int8",
    "u4": "int4",
    "i4": "int4",
}
_CONVERSIONS: Final = (".quantize", ".dequantize")
_SUFFIXES: Final = ("/WithoutBiases", "/DequantizationSubtract", "/DequantizationMultiply")
"""What the runtime hangs behind the name of the node that a new node stands for."""


def readback(model: ov.Model, profiles: Sequence[Sequence[ov.ProfilingInfo]]) -> tuple[Executed, ...]:
    """One entry per node of the runtime's own `model`, in execution order, with its usual time over the calls of which
    `profiles` are the counters."""
    times: dict[str, list[float]] = {}
    for counters in profiles[_DROPPED_CALLS:] or profiles:
        for counter in counters:
            times.setdefault(counter.node_name, []).append(counter.real_time.total_seconds())
    found = []
    for node in model.get_ordered_ops():
        said = node.get_rt_info()
        layer = _said(said, "layerType")
        if layer in _NOT_COMPUTED:
            continue
        name = node.get_friendly_name()
        names = tuple(_plain(one) for one in _said(said, "originalLayersNames").split(",") if one)
        # A conversion may run as generated code, under its own name or first of several.
        boundary = layer in _BOUNDARIES or (bool(names) and names[0].endswith(_CONVERSIONS))
        if boundary and not names:
            # What the runtime put in by itself counts for whoever reads it.
            names = tuple(f"{reader}.reorder" for reader in _readers(node))
        found.append(
            Executed(
                name=names[0] if names else name,
                kernel=f"{layer} {_said(said, 'primitiveType')}".strip(),
                precision="boundary" if boundary else _precision(_said(said, "runtimePrecision")),
                outputs=names,
                seconds=usual(times[name]) if name in times else 0.0,
            )
        )
    return tuple(found)


def _readers(node: ov.Node) -> list[str]:
    targets = [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
    originals = (_said(target.get_rt_info(), "originalLayersNames").split(",")[0] for target in targets)
    return [_plain(name) for name in originals if name]


def _said(information: ov.RTMap, key: str) -> str:
    return str(information[key].astype(str)) if key in information else ""


def _plain(name: str) -> str:
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("/transpose_b", ".transposed")


def _precision(text: str) -> str:
    return _PRECISIONS.get(text.lower(), text)
