"""What ONNX Runtime really ran: its optimised graph joined with its profile."""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import onnx

from fewbits.targets.protocol import Executed

_DROPPED_CALLS = 2
_NAMES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
_INTEGERS = ("uint8", "int8")
_RENAMED = re.compile(r"(_token_\d+|_nchwc|_nhwc|/duplicated|/MatMulScaleFusion/?|/MatMulAddFusion/?)+$")
"""What the optimiser hangs behind the name of the node, or of the tensor, that a new node stands for."""


@dataclass
class _Timed:
    op: str
    types: tuple[str, ...]
    microseconds: list[int] = field(default_factory=list)


def readback(optimised: Path, profile: Path) -> tuple[Executed, ...]:
    """One entry per node of the `optimised` model, in order, with the median time of the calls in `profile`.

    The profile names nodes by an index that the saved model does not have. Both list the nodes in
    execution order, so the n-th node of an operator in one is the n-th of that operator in the other.
    """
    timed: dict[str, _Timed] = {}
    for event in json.loads(profile.read_text()):
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
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
                seconds=median(calls) / 1e6 if calls else 0.0,
            )
        )
    return tuple(found)


def precision(op: str, types: tuple[str, ...]) -> str:
    """The precision in which a node computed: that of its first operand, ``int8`` for 8-bit codes."""
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return "boundary"
    # QLinearConcat begins with the scale and zero point of its output.
    operands = types[2:] if op == "QLinearConcat" else types
    first = next((name for name in operands if name), "unknown")
    return "int8" if first in _INTEGERS else _NAMES.get(first, first)
