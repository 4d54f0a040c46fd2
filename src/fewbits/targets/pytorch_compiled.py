"""A converted module compiled: which kernels a call runs, for which of its calls each computes, and how long they take.

What a compiler makes of a graph has no calls to time: casts, activations and norms are fused with each other, and with
what stands before or behind. So the compiled call is profiled as a whole, and its kernels are led back to the calls:

* every call of the graph has a number, which PyTorch keeps as the origin of what it makes of the call;
* behind the compiler's last pass over the graph its nodes are named by these numbers; a fused kernel has the names of
  the nodes that it fuses;
* a kernel that is not generated (a product of a library) is found by operator and shapes, in graph order: those that
  are alike in both are alike in what they take, too. On CUDA the kernel that it launches says in which precision;
* a generated kernel that multiplies (on CUDA, from a template) stands for its product.

A fused kernel counts as one: its seconds are not shared out. Parts of a graph that nothing ties together, as regions
that are measured side by side, are compiled one by one: the compiler would put loops of two of them into one kernel.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import fx
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

from fewbits.models.pytorch.converted import Converted, Label
from fewbits.models.torch_ops.executed import launched, operand_types
from fewbits.models.torch_ops.profiling import profiled, wait
from fewbits.targets.protocol import Executed, usual
from fewbits.targets.pytorch_eager import DROPPED_CALLS
from fewbits.targets.pytorch_origins import GENERATED, NAME, Origins, led_back

_ROUND: Final = "fewbits_round"
_MICRO: Final = 1e-6


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
        origins, read = Origins(), [inputs[node] for node in part if node.op == "placeholder"]
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
        name = NAME.format(numbers[node]) if node in numbers else node.name
        made[node] = graph.create_node(node.op, node.target, args, kwargs, name=name)
    graph.output(tuple(made[node] for node in module.graph.output_node().all_input_nodes if node in made))
    return fx.GraphModule(module, graph)


@dataclass(frozen=True, slots=True)
class _Part:
    """Something that was compiled as one, and what it reads."""

    call: Callable[..., object]
    given: Sequence[torch.Tensor]
    origins: Origins


def _profiled(parts: Sequence[_Part], labels: Sequence[Label], calls: int, device: str) -> Iterator[Executed]:
    with profiled(device) as seen:
        for place, part in enumerate(parts):
            for _ in range(calls):
                with record_function(f"{_ROUND}{place}"):
                    part.call(*part.given)
        wait(device)
    events, types = list(seen.events() or ()), operand_types(seen)
    for place, part in enumerate(parts):
        rounds = [list(_kernels(one)) for one in events if one.name == f"{_ROUND}{place}"]
        for same in zip(*rounds, strict=True):
            seconds = usual([_seconds(one) for one in same])
            ran = tuple(launched(_within(same[0]), types))
            yield from led_back(same[0], part.origins, labels, ran, seconds)


def _compiled(graph: fx.GraphModule, given: Sequence[torch.Tensor], origins: Origins) -> Callable[..., object]:
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
        if "::" in child.name or GENERATED.search(child.name):
            yield child
        else:
            yield from _kernels(child)


def _seconds(event: FunctionEvent) -> float:
    """What `event` took with all that it calls: on a GPU what it launched, otherwise what it computed."""
    on_gpu = sum(kernel.seconds for kernel in launched(_within(event), {}))
    return on_gpu or float(event.cpu_time_total) * _MICRO


def _within(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """`event` and all that it calls."""
    yield event
    for child in event.cpu_children:
        yield from _within(child)
