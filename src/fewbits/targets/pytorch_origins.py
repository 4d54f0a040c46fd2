"""Nodes of a compiled graph, and the kernels that ran for them, led back to the calls of the module."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import fx
from torch.autograd.profiler_util import FunctionEvent

from fewbits.models.pytorch.converted import Label
from fewbits.models.torch_ops.kernels import Kernel, multiplies, named, product_among
from fewbits.targets.protocol import Executed
from fewbits.targets.pytorch_eager import decodes_only, is_boundary, precision_of

NAME: Final = "fewbits{}x"
"""What a call of the module is named by its number."""
_NUMBER: Final = re.compile(r"fewbits(\d+)x")
GENERATED: Final = re.compile(r"cpp_fused|triton_")
"""What names of generated kernels have in them."""
_TEMPLATE: Final = "triton_tem"
"""What the names of generated kernels that multiply begin with."""
_KEY_SHAPES: Final = 2
"""Operands whose shapes tell one product from another."""
_WIDTHS: Final = ("fp8", "int8", "bf16", "fp16", "fp32", "fp64")
"""Narrow ones first."""


@dataclass(slots=True)
class Origins:
    """A pass over the compiler's last graph: `operators` are its calls of library operators in order, each with the
    shapes and types that it reads and the number of the call that it is made from; `types` says what each call gives.
    """

    operators: list[Operator] = field(default_factory=list)
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
                self.operators.append(Operator(name, shapes, tuple(one.dtype for one in read), number))
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                self.types[number] = value.dtype
            node._rename(NAME.format(number))

    def claim(self, name: str, shapes: Sequence[object]) -> Operator | None:
        """The first call of the operator `name` that nothing claimed yet, on operands of `shapes` if there is one."""
        key = tuple(tuple(shape) for shape in shapes if isinstance(shape, list | tuple) and shape)[:_KEY_SHAPES]
        same = [one for one in self.operators if one.name == name]
        alike = [one for one in same if tuple(shape for shape in one.shapes if shape)[:_KEY_SHAPES] == key]
        found = next(iter(alike or same), None)
        if found is not None:
            self.operators.remove(found)
        return found

    def claim_product(self, numbers: Collection[int]) -> Operator | None:
        """The first product that nothing claimed yet among the calls with these `numbers`."""
        found = next((one for one in self.operators if one.number in numbers and multiplies(one.name)), None)
        if found is not None:
            self.operators.remove(found)
        return found


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of a library operator `name` in the compiler's last graph, made from the call `number` of the module."""

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


def led_back(
    event: FunctionEvent, origins: Origins, labels: Sequence[Label], ran: Sequence[Kernel], seconds: float
) -> Iterator[Executed]:
    """`event` as a node that ran; nothing where it is none of the graph's calls. `ran`: what it launched on a GPU."""
    if GENERATED.search(event.name):
        numbers = sorted({int(one) for one in _NUMBER.findall(event.name)})
        product = origins.claim_product(numbers) if event.name.startswith(_TEMPLATE) else None
        if product is not None:
            label = labels[product.number]
            names = tuple(dict.fromkeys([label.name, *(labels[number].name for number in numbers)]))
            yield Executed(label.name, f"{product.name} {_TEMPLATE}", _of_template(label, product), names, seconds)
        elif numbers:
            yield _fused(numbers, origins, labels, seconds)
        return
    operator = origins.claim(event.name, event.input_shapes)
    if operator is not None:
        label = labels[operator.number]
        kernel, precision = event.name, _narrowest(operator.types)
        main = product_among(ran)
        if main is not None:
            kernel, precision = named(main).kernel, main.precision
        if decodes_only(label):
            precision = label.precision
        yield Executed(label.name, kernel, precision, (label.name, *label.along), seconds)


def _of_template(label: Label, product: Operator) -> str:
    """What a generated product reads; the compiler has asked the process whether float32 is tf32."""
    precision = label.precision if decodes_only(label) else _narrowest(product.types)
    switch = torch.backends.cuda.matmul.fp32_precision
    return "tf32" if precision == "fp32" and switch == "tf32" and not decodes_only(label) else precision


def _fused(numbers: Sequence[int], origins: Origins, labels: Sequence[Label], seconds: float) -> Executed:
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
