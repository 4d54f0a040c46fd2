"""Regions that compute in bf16 or fp16: casts at their borders only, weights stored as they are used.

What a plan decides about computes as it says. What stands between (normalisation, activations, reshapes) follows what
it reads: in the small float if all of that is there, in float32 otherwise, so that a stack of layers is one region.
Operators whose sums or ranges suffer stay in float32 (`KEPT`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Final

import torch
from torch import fx
from torch.fx.node import Argument

from fewbits.grouping import CARRIERS
from fewbits.models.pytorch.kinds import KINDS, operator
from fewbits.models.pytorch.program import Program, weight_of

Types = Mapping[fx.Node, torch.dtype]
"""Call that a plan decides about → the type that it computes in."""

KEPT: Final = frozenset(
    {
        "acos", "asin", "cos", "cosh", "cumprod", "cumsum", "dist", "erfinv", "exp", "expm1", "linalg_vector_norm",
        "log", "log10", "log1p", "log2", "logsumexp", "norm", "pow", "prod", "reciprocal", "renorm", "rsqrt", "sin",
        "sinh", "std", "tan", "var", "var_mean", "grid_sampler", "grid_sampler_2d", "fft_fft", "_fft_r2c",
        "_fft_c2r", "stft",
    }
)  # fmt: skip
"""Operators that stay in float32 unless a plan names them, as with torch.autocast on CUDA; beyond its list sin and cos,
whose argument may be a large angle: rounded to bf16, that of a distant position is off by whole turns."""

_WORDS: Final = {
    torch.bfloat16: "bfloat16.quantize",
    torch.float16: "float16.quantize",
    torch.float32: "float32",
}


@dataclass(frozen=True)
class Cast:
    """A graph with casts, and the tensors that it holds; `made` maps calls of the program to its own, `casts` what is
    cast, with the words that attribution knows a cast by, to the casts."""

    graph: fx.Graph
    tensors: Mapping[str, torch.Tensor]
    made: Mapping[fx.Node, fx.Node]
    casts: Mapping[tuple[fx.Node, str], fx.Node]


def spread(program: Program, decided: Mapping[fx.Node, torch.dtype | None], endless: Collection[fx.Node] = ()) -> Types:
    """The types of all calls that compute in a small float: those `decided` to, and what follows them. `decided` has
    ``None`` for calls that stay in float32; `endless` are masks, which follow whatever they are added to."""
    found: dict[fx.Node, torch.dtype] = {}
    for node in program.graph.nodes:
        if node in decided:
            wanted = decided[node]
            if wanted is not None:
                found[node] = wanted
            continue
        if node.op != "call_function" or not gives_float(node) or _is_fixed(node):
            continue
        read = [source for source in node.all_input_nodes if gives_float(source) and source.op != "get_attr"]
        floats = [source for source in read if source not in endless] or read
        types = {found.get(source) for source in floats}
        only = next(iter(types), None)
        if len(types) == 1 and only is not None:
            found[node] = only
    # What only moves numbers moves fewer bytes behind a cast, and one cast serves all.
    for node in reversed(program.graph.nodes):
        if node in decided or node in found or not _moves(node):
            continue
        types = {found.get(user) for user in node.users}
        only = next(iter(types), None)
        if len(types) == 1 and only is not None:
            found[node] = only
    return found


def _moves(node: fx.Node) -> bool:
    return node.op == "call_function" and gives_float(node) and KINDS.get(operator(node.target)) in CARRIERS


def cast(program: Program, types: Types, endless: Collection[fx.Node] = (), *, wide_weights: bool = False) -> Cast:
    """The program with every call of `types` in its type: operands are cast where they are not in it already, once for
    all readers, and weights are held in the types that they are read in; what is `endless` is cut to what the type
    holds. What is given back is float32, as before. `wide_weights`: weights stay as they are and are cast, too."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
    wanted = _types_of_weights(program, types)
    tensors: dict[str, torch.Tensor] = {}

    def held(node: fx.Node, dtype: torch.dtype) -> fx.Node:
        key = (node, dtype)
        if key not in casts:
            name = str(node.target)
            tensor = weight_of(program.module, name)
            if wide_weights and dtype != tensor.dtype:
                source = held(node, tensor.dtype)
                casts[key] = graph.call_function(torch.ops.aten._to_copy.default, (source,), {"dtype": dtype})
                casts[key].meta = dict(node.meta)
                return casts[key]
            alone = len(wanted[node]) == 1
            target = name if alone or dtype == tensor.dtype else f"{name}_{_short(dtype)}"
            tensors[target] = tensor if dtype == tensor.dtype else narrowed(tensor, dtype)
            casts[key] = graph.get_attr(target)
            casts[key].meta = dict(node.meta)
        return casts[key]

    def read(node: fx.Node, dtype: torch.dtype) -> fx.Node:
        """`node` as a float of `dtype`."""
        if node.op == "get_attr":
            return held(node, dtype)
        own = types.get(node, torch.float32)
        if own == dtype:
            return made[node]
        key = (node, dtype)
        if key not in casts:
            source = made[node]
            if node in endless and dtype != torch.float32:
                limit = torch.finfo(dtype).max
                source = graph.call_function(torch.ops.aten.clamp.default, (source, -limit, limit))
                source.meta = dict(node.meta)
            casts[key] = graph.call_function(torch.ops.aten._to_copy.default, (source,), {"dtype": dtype})
            casts[key].meta = dict(node.meta)
        return casts[key]

    def operand(node: fx.Node, reader: fx.Node) -> fx.Node:
        if not gives_float(node):
            return (
                held(node, weight_of(program.module, str(node.target)).dtype) if node.op == "get_attr" else made[node]
            )
        return read(node, types.get(reader, torch.float32))

    for node in program.graph.nodes:
        if node.op == "placeholder":
            made[node] = graph.node_copy(node)
        elif node.op == "get_attr":
            continue
        elif node.op == "output":
            (given,) = node.args
            graph.output(tuple(operand(one, node) for one in given))
        else:
            made[node] = graph.node_copy(node, partial(operand, reader=node))
            if node in types:
                _retype(made[node], types[node])
    between = {key: node for key, node in casts.items() if node.op != "get_attr"}
    words = {(source, _WORDS[dtype]): node for (source, dtype), node in between.items()}
    return Cast(graph, tensors, made, words)


def is_cast(node: fx.Node) -> bool:
    """Whether `node` changes the type of a float and nothing else."""
    if node.op != "call_function" or operator(node.target) not in ("_to_copy", "to"):
        return False
    wanted = node.kwargs.get("dtype")
    source = node.args[0]
    before = _dtype(source) if isinstance(source, fx.Node) else None
    types = [wanted, before]
    return all(isinstance(one, torch.dtype) and one.is_floating_point for one in types)


def _retype(node: fx.Node, dtype: torch.dtype) -> None:
    """Make the copy of a float32 call one in `dtype`: what it says about its type, and numbers that `dtype` cannot
    hold, as those that stand for infinity in masks."""
    limit = torch.finfo(dtype).max

    def fitted(value: Argument) -> Argument:
        if value is torch.float32:
            return dtype
        return max(-limit, min(limit, value)) if isinstance(value, float) and isfinite(value) else value

    node.args = tuple(fitted(value) for value in node.args)
    node.kwargs = {name: fitted(value) for name, value in node.kwargs.items()}


def _types_of_weights(program: Program, types: Types) -> Mapping[fx.Node, frozenset[torch.dtype]]:
    found: dict[fx.Node, frozenset[torch.dtype]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            own = weight_of(program.module, str(node.target)).dtype
            float32 = own == torch.float32
            found[node] = frozenset(types.get(user, torch.float32) if float32 else own for user in node.users)
    return found


def gives_float(node: fx.Node) -> bool:
    """Whether `node` gave float32 when it was traced."""
    return _dtype(node) == torch.float32


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value.dtype if isinstance(value, torch.Tensor) else None


def _is_fixed(node: fx.Node) -> bool:
    """Whether `node` stays in float32, or in another type that its call names: float32 read and float32 asked for is
    no decision of the model's."""
    asked = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, torch.dtype)]
    return operator(node.target) in KEPT or any(value != torch.float32 for value in asked)


def narrowed(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`tensor` in `dtype`; what stands for infinity becomes the largest number, so that a sum of two is no NaN."""
    limit = torch.finfo(dtype).max
    plain = tensor.detach()
    beyond = torch.isfinite(plain) & (plain.abs() > limit)
    narrow = torch.where(beyond, plain.clamp(-limit, limit), plain).to(dtype)
    return torch.nn.Parameter(narrow, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else narrow


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}.get(dtype, str(dtype).split(".")[-1])


def borders(graph: fx.Graph) -> Sequence[fx.Node]:
    """The casts of `graph`."""
    return tuple(node for node in graph.nodes if is_cast(node))
