"""A converted module compiled: which kernels a call runs, for which of its calls each computes, and how long they take.

What a compiler makes of a graph has no calls to time: casts, activations and norms are fused with each other, and with
what stands before or behind. So the compiled call is profiled as a whole, and its kernels are led back to the calls:

* every call of the graph has a number, which PyTorch keeps as the origin of what it makes of the call;
* behind the compiler's last pass over the graph its nodes are named by these numbers; a fused kernel has the names of
  the nodes that it fuses;
* a kernel that is not generated (a product of a library) is found by operator and shapes, in graph order: those that
  are alike in both are alike in what they take, too.

A fused kernel counts as one: its seconds are not shared out. Parts of a graph that nothing ties together, as regions
that are measured side by side, are compiled one by one: the compiler would put loops of two of them into one kernel.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import fx
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from fewbits.models.pytorch.converted import Converted, Label
from fewbits.targets.protocol import Executed, usual
from fewbits.targets.pytorch_eager import DROPPED_CALLS, decodes_only, is_boundary, precision_of

_ROUND: Final = "fewbits_round"
_NAME: Final = "fewbits{}x"
_NUMBER: Final = re.compile(r"fewbits(\d+)x")
_GENERATED: Final = re.compile(r"cpp_fused|triton_")
_MICRO: Final = 1e-6
_KEY_SHAPES: Final = 2
"""Operands whose shapes tell one product from another."""
_WIDTHS: Final = ("int8", "bf16", "fp16", "fp32", "fp64")
"""Narrow ones first."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler for what is compiled for the CPU."""
    with _quiet():
        wanted = torch._inductor.config.cpp.cxx
    names = wanted if isinstance(wanted, tuple | list) else (wanted,)
    return any(name is not None and shutil.which(name) is not None for name in names)


def compiled_call(graph: fx.GraphModule) -> Callable[..., Sequence[torch.Tensor]]:
    """`graph` as it is served: compiled at the first call for the shapes of that call, and once more for sizes that
    turn out to differ from call to call, whatever they are (texts of many lengths)."""
    with _quiet():
        found: Callable[..., Sequence[torch.Tensor]] = torch.compile(graph)
    return found


def compiled_kernels(module: Converted, given: Sequence[torch.Tensor], calls: int, device: str) -> tuple[Executed, ...]:
    """The kernels of a compiled call of `module` on `given`, in order, with their usual seconds over `calls` calls.

    Raises what the compiler and the module raise.
    """
    nodes = [node for node in module.graph.nodes if node.op in ("call_function", "call_module")]
    numbers = {node: number for number, node in enumerate(nodes)}
    inputs = dict(zip((one for one in module.graph.nodes if one.op == "placeholder"), given, strict=True))
    parts = []
    for part in _parts(module.graph):
        origins, read = _Origins(), [inputs[node] for node in part if node.op == "placeholder"]
        call = _compiled(_numbered(module.graph_module, part, numbers), read, origins)
        for _ in range(DROPPED_CALLS):
            call(*read)
        parts.append(_Part(call, read, origins))
    return tuple(_profiled(parts, module.labels, calls, device))


def _parts(graph: fx.Graph) -> list[list[fx.Node]]:
    """The nodes of `graph` but weights and the output, those together that are tied by what they read; parts that give
    nothing back are left out."""
    root: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while root.setdefault(node, node) is not node:
            node = root[node]
        return node

    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    for node in nodes:
        for source in node.all_input_nodes:
            if source.op != "get_attr":
                root[find(node)] = find(source)
    parts: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        parts.setdefault(find(node), []).append(node)
    given_back = set(graph.output_node().all_input_nodes)
    return [part for part in parts.values() if given_back.intersection(part) and _computes(part)]


def _computes(part: Sequence[fx.Node]) -> bool:
    return any(node.op != "placeholder" for node in part)


def _numbered(module: fx.GraphModule, part: Sequence[fx.Node], numbers: dict[fx.Node, int]) -> fx.GraphModule:
    """`part` as a module of its own, its calls named by their numbers."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in sorted(part, key=lambda one: one.op != "placeholder"):
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in made:
                made[source] = graph.get_attr(str(source.target))
        args = fx.map_arg(node.args, made.__getitem__)
        kwargs = fx.map_arg(node.kwargs, made.__getitem__)
        name = _NAME.format(numbers[node]) if node in numbers else node.name
        made[node] = graph.create_node(node.op, node.target, args, kwargs, name=name)
    graph.output(tuple(made[node] for node in module.graph.output_node().all_input_nodes if node in made))
    return fx.GraphModule(module, graph)


@dataclass(slots=True)
class _Origins:
    """A pass over the compiler's last graph: `operators` are its calls of library operators in order, each with the
    shapes and types that it reads and the number of the call that it is made from; `types` says what each call gives.
    """

    operators: list[_Operator] = field(default_factory=list)
    types: dict[int, torch.dtype] = field(default_factory=dict)

    def __call__(self, graph: fx.Graph) -> None:
        """Look at `graph`, and name its nodes by their origins."""
        number_of: dict[fx.Node, int] = {}
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            # What a pass put there without saying why belongs to what it reads.
            before = [number_of[source] for source in node.all_input_nodes if source in number_of]
            number = _named(node)
            if number < 0:
                number = max(before, default=-1)
            if number < 0:
                continue
            number_of[node] = number
            values = [source.meta.get("val") for source in node.all_input_nodes]
            read = [value for value in values if isinstance(value, torch.Tensor)]
            if isinstance(node.target, torch._ops.OpOverload):
                name = f"{node.target.namespace}::{node.target._schema.name.rpartition('::')[2]}"
                shapes = tuple(tuple(map(int, one.shape)) for one in read)
                self.operators.append(_Operator(name, shapes, tuple(one.dtype for one in read), number))
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                self.types[number] = value.dtype
            node._rename(_NAME.format(number))

    def claim(self, name: str, shapes: Sequence[object]) -> _Operator | None:
        """The first call of the operator `name` that nothing claimed yet, on operands of `shapes` if there is one."""
        key = tuple(tuple(shape) for shape in shapes if isinstance(shape, list | tuple) and shape)[:_KEY_SHAPES]
        named = [one for one in self.operators if one.name == name]
        alike = [one for one in named if tuple(shape for shape in one.shapes if shape)[:_KEY_SHAPES] == key]
        found = next(iter(alike or named), None)
        if found is not None:
            self.operators.remove(found)
        return found


@dataclass(frozen=True, slots=True)
class _Operator:
    name: str
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[torch.dtype, ...]
    number: int


def _named(node: fx.Node) -> int:
    """The number of the call that `node` is made from; -1 where nothing says."""
    origins = list(node.meta.get("from_node") or ())
    while origins:
        origin = origins.pop()
        match = _NUMBER.match(origin.name)
        if match is not None:
            return int(match[1])
        origins += origin.from_node
    return -1


@dataclass(frozen=True, slots=True)
class _Part:
    """Something that was compiled as one, and what it reads."""

    call: Callable[..., object]
    given: Sequence[torch.Tensor]
    origins: _Origins


def _profiled(parts: Sequence[_Part], labels: Sequence[Label], calls: int, device: str) -> Iterator[Executed]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as seen:
        for place, part in enumerate(parts):
            for _ in range(calls):
                with record_function(f"{_ROUND}{place}"):
                    part.call(*part.given)
        if device == "cuda":
            torch.cuda.synchronize()
    events = list(seen.events() or ())
    for place, part in enumerate(parts):
        rounds = [list(_kernels(one)) for one in events if one.name == f"{_ROUND}{place}"]
        for same in zip(*rounds, strict=True):
            seconds = usual([_seconds(one) for one in same])
            yield from _executed(same[0], part.origins, labels, seconds)


def _compiled(graph: fx.GraphModule, given: Sequence[torch.Tensor], origins: _Origins) -> Callable[..., object]:
    options = {
        "cpp.enable_kernel_profile": True,
        "cpp.descriptive_names": "inductor_node",
        "triton.descriptive_names": "inductor_node",
        "post_grad_custom_post_pass": origins,
    }
    with _quiet():
        found: Callable[..., object] = torch._inductor.compile(graph, list(given), options)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's own warnings, which say nothing to whoever asked for a figure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _kernels(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """What the compiled code calls, in order; not what that calls in turn."""
    for child in sorted(event.cpu_children, key=lambda one: one.time_range.start):
        if "::" in child.name or _GENERATED.search(child.name):
            yield child
        else:
            yield from _kernels(child)


def _seconds(event: FunctionEvent) -> float:
    """What `event` took with all that it calls: on a GPU what it launched, otherwise what it computed."""
    return (_launched(event) or float(event.cpu_time_total)) * _MICRO


def _launched(event: FunctionEvent) -> float:
    return float(sum(one.duration for one in event.kernels)) + sum(_launched(child) for child in event.cpu_children)


def _executed(event: FunctionEvent, origins: _Origins, labels: Sequence[Label], seconds: float) -> Iterator[Executed]:
    """`event` as a node that ran; nothing where it is none of the graph's calls."""
    if _GENERATED.search(event.name):
        numbers = sorted({int(one) for one in _NUMBER.findall(event.name)})
        if numbers:
            yield _fused(numbers, origins, labels, seconds)
        return
    operator = origins.claim(event.name, event.input_shapes)
    if operator is not None:
        label = labels[operator.number]
        precision = label.precision if decodes_only(label) else _narrowest(operator.types)
        yield Executed(label.name, event.name, precision, (label.name, *label.along), seconds)


def _fused(numbers: Sequence[int], origins: _Origins, labels: Sequence[Label], seconds: float) -> Executed:
    """A generated kernel. It has the name of a call with something behind: what multiplies has the name itself. Of a
    module in codes it is what makes codes, or floats of them."""
    names = tuple(labels[number].name for number in numbers)
    computing = [number for number in numbers if not _converts(labels[number])]
    if not computing:
        return Executed(f"{names[0]}.fused", "fused", "boundary", names, seconds)
    # Of calls in several types, those in a small one are what a plan asks about.
    precision = _narrowest([origins.types[number] for number in computing if number in origins.types])
    return Executed(f"{labels[computing[0]].name}.fused", "fused", precision, names, seconds)


def _converts(label: Label) -> bool:
    return is_boundary(label) or (bool(label.kernel) and not decodes_only(label))


def _narrowest(types: Sequence[torch.dtype]) -> str:
    """The precision of what reads operands of `types`."""
    names = [precision_of(one) for one in types]
    return next((one for one in _WIDTHS if one in names), next(iter(names), "unknown"))
