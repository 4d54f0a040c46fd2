"""A converted module run call by call: how long each call took, and which kernel, in which precision, computed it.

Times and types are seen here; what oneDNN makes of a product is in its log alone, which a process of its own writes. On
CUDA the profiler has the kernels that each call launched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

import torch
from torch import fx

from fewbits.formats.scheme import Scheme
from fewbits.models.pytorch.converted import Converted, Label
from fewbits.models.torch_ops.executed import launched_by_call, onednn_by_call, operators_by_call
from fewbits.models.torch_ops.kernels import Kernel, named, product_among
from fewbits.models.torch_ops.profiling import wait
from fewbits.targets.protocol import Executed, usual

DROPPED_CALLS: Final = 2
_PRECISIONS: Final[Mapping[torch.dtype, str]] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int8: "int8",
    torch.uint8: "int8",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}
_PRODUCTS: Final = frozenset({"matmul", "convolution", "deconvolution", "inner_product", "rnn"})
"""oneDNN's primitives that multiply and accumulate."""


def timed_calls(module: Converted, given: Sequence[torch.Tensor], calls: int, device: str) -> tuple[Executed, ...]:
    """What ran in `calls` calls of `module` on `given`, call by call, with as many threads as PyTorch has now.

    Products are looked at once more. On the CPU, if the plan has something in codes or small floats, they have the
    kernel and the precision that oneDNN's log says; where it says none, those of the operator that PyTorch's profiler
    saw. On CUDA they have those of the kernel that was launched.

    Raises WorkerError if the log cannot be read, and whatever the module raises.
    """
    timing = _Timing(module, device)
    for _ in range(calls + DROPPED_CALLS):
        timing.run(*given)
    if device == "cuda":
        # Where the profiler sees no GPU, it still sees operators and types.
        ran = launched_by_call(module.graph_module, given) or operators_by_call(module.graph_module, given)
        return timing.executed(products_by_call(ran, module.labels))
    return timing.executed(_products(module, given) if _is_low(module) else {})


def products_by_call(ran: Mapping[int, Sequence[Kernel]], labels: Sequence[Label]) -> Mapping[int, Kernel]:
    """Number of a call → what multiplied in it, of all kernels that `ran` in it. A module that says that it multiplies,
    and launched no product, has the slowest kernel. What keeps its weight in codes is left out."""
    found = {}
    for number, label in enumerate(labels):
        # Our own operators, in Python, call what computes.
        own = [one for one in ran.get(number, ()) if one.precision and not one.operator.startswith("fewbits::")]
        if not own or decodes_only(label):
            continue
        product = product_among(own)
        if product is None and label.kernel:
            product = max(own, key=lambda one: one.seconds)
        if product is not None:
            found[number] = named(product)
    return found


def is_boundary(label: Label) -> bool:
    """Whether it stands for a cast that conversion put between two groups."""
    return not label.kernel and label.name.endswith((".quantize", ".dequantize", ".float32"))


def decodes_only(label: Label) -> bool:
    """Whether it is a module that keeps its weight in codes, and multiplies floats."""
    return bool(label.kernel) and label.precision == "fp32"


def precision_of(dtype: torch.dtype) -> str:
    """`dtype` in the words of a target."""
    return _PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))


def _is_low(module: Converted) -> bool:
    """Whether something is to compute in less than fp32."""
    schemes = {Scheme.parse(text) for text in module.schemes.values()}
    return any(not scheme.is_fp32 and not scheme.is_weight_only for scheme in schemes)


def _products(module: Converted, given: Sequence[torch.Tensor]) -> Mapping[int, Kernel]:
    """Number of a call → what multiplied in it."""
    logged = onednn_by_call(module.graph_module, given, torch.get_num_threads())
    found = {number: one for number, kernels in logged.items() if (one := _main(kernels)) is not None}
    found = {number: one for number, one in found.items() if not decodes_only(module.labels[number])}
    claimed = [number for number, label in enumerate(module.labels) if label.kernel and not decodes_only(label)]
    if all(number in found for number in claimed):
        return found
    # Not by oneDNN, whatever the module says of itself.
    operators = products_by_call(operators_by_call(module.graph_module, given), module.labels)
    return {**{number: operators[number] for number in claimed if number in operators}, **found}


def _main(kernels: Sequence[Kernel]) -> Kernel | None:
    """The primitive of a call that multiplies, the slowest if there are several."""
    products = [one for one in kernels if one.operator in _PRODUCTS]
    slowest = max(products, key=lambda one: one.seconds, default=None)
    return None if slowest is None else Kernel("", f"{slowest.operator} {slowest.kernel}", slowest.precision, 0.0)


class _Timing(fx.Interpreter):
    """Runs a graph call by call and keeps how long each took."""

    def __init__(self, module: Converted, device: str) -> None:
        super().__init__(module.graph_module)
        self._device = device
        calls = [node for node in module.graph.nodes if node.op in ("call_function", "call_module")]
        self._labels = dict(zip(calls, module.labels, strict=True))
        self._numbers = {node: number for number, node in enumerate(calls)}
        self._seconds: dict[fx.Node, list[float]] = {}
        self._precision: dict[fx.Node, str] = {}

    def run_node(self, n: fx.Node) -> object:
        """Run and time one call."""
        if n not in self._labels:
            return super().run_node(n)
        before = perf_counter()
        value = super().run_node(n)
        wait(self._device)
        self._seconds.setdefault(n, []).append(perf_counter() - before)
        self._precision[n] = self._ran_in(n, value)
        return value

    def _ran_in(self, node: fx.Node, value: object) -> str:
        label: Label = self._labels[node]
        if label.precision:
            return label.precision
        if is_boundary(label):
            return "boundary"
        first = value[0] if isinstance(value, tuple) else value
        return precision_of(first.dtype) if isinstance(first, torch.Tensor) else "unknown"

    def executed(self, seen: Mapping[int, Kernel]) -> tuple[Executed, ...]:
        """What ran, in order; `seen` says by number what multiplied, where that is known."""
        return tuple(self._one(node, seconds, seen.get(self._numbers[node])) for node, seconds in self._seconds.items())

    def _one(self, node: fx.Node, seconds: Sequence[float], seen: Kernel | None) -> Executed:
        label = self._labels[node]
        kernel = label.kernel or str(node.target).removeprefix("aten.").removesuffix(".default")
        precision = self._precision[node]
        if seen is not None:
            kernel, precision = seen.kernel, seen.precision
        return Executed(label.name, kernel, precision, (label.name, *label.along), usual(seconds[DROPPED_CALLS:]))
