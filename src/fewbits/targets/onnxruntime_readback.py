"""What ONNX Runtime really ran: its optimised graph joined with its profile."""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from fewbits.targets.protocol import Executed, usual

_DROPPED_CALLS = 2
_NAMES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
_INTEGERS = ("uint8", "int8")
_RENAMED = re.compile(r"(_token_\d+|_nchwc|_nhwc|/duplicated|/MatMulScaleFusion/?|/MatMulAddFusion/?)+$")
"""What the optimiser hangs behind the name of the node, or of the tensor, that a new node stands for."""
_BOUNDARIES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_CONTROL = frozenset({"If", "Loop", "Scan"})


@dataclass
class _Timed:
    op: str
    types: tuple[str, ...]
    microseconds: list[int] = field(default_factory=list)


def readback(optimised: Path, profile: Path) -> tuple[Executed, ...]:
    """One entry per node of the `optimised` model, in order, with the usual time of the calls in `profile`.

    The profile names nodes by an index that the saved model does not have. Both list the nodes in
    execution order, so the n-th node of an operator in one is the n-th of that operator in the other.
    What runs inside of an If or a Loop counts as part of it.
    """
    timed: dict[str, _Timed] = {}
    for event in _main_graph(json.loads(profile.read_text())):
        arguments = event["args"]
        types = tuple(next(iter(one), "") for one in arguments["input_type_shape"])
        entry = timed.setdefault(arguments["node_index"], _Timed(arguments["op_name"], types))
        entry.microseconds.append(int(event["dur"]))
    queues: dict[str, deque[_Timed]] = defaultdict(deque)
    for entry in timed.values():
        queues[entry.op].append(entry)
    graph = onnx.load(optimised, load_external_data=False).graph
    found = []
    for index, node in enumerate(graph.node):
        queue = queues[node.op_type]
        entry = queue.popleft() if queue else _Timed(node.op_type, ())
        kernel = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        calls = entry.microseconds[_DROPPED_CALLS:] or entry.microseconds
        found.append(
            Executed(
                name=_RENAMED.sub("", node.name) or f"{node.op_type}_{index}",
                kernel=kernel,
                precision=precision(node.op_type, entry.types),
                outputs=tuple(node.output),
                seconds=usual(calls) / 1e6 if calls else 0.0,
            )
        )
    return tuple(found)


def precision(op: str, types: Sequence[str]) -> str:
    """The precision in which a node computed: ``int8`` if any operand is 8-bit codes, else that of the first float.

    A kernel may begin with a scale (QLinearConcat) or with floats that it quantises itself (DynamicQuantizeMatMul).
    """
    if op in _BOUNDARIES:
        return "boundary"
    if any(name in _INTEGERS for name in types):
        return "int8"
    given = [name for name in types if name]
    first = next((name for name in given if name in _NAMES), next(iter(given), "unknown"))
    return _NAMES.get(first, first)


def _main_graph(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of the main graph's kernels; a subgraph counts its nodes from 0 again.

    An event is written when it ends, so those of a subgraph stand before that of the node that runs it.
    """
    found: list[dict[str, Any]] = []
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        if event["args"]["op_name"] in _CONTROL:
            while found and found[-1]["ts"] >= event["ts"]:
                found.pop()
        found.append(event)
    return found
