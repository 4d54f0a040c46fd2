"""From a module and an example of its arguments to a `Program`, by ``torch.export``."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from fewbits.errors import ModelError
from fewbits.models.pytorch.call_form import Arguments, CallForm, numbered
from fewbits.models.pytorch.program import Program, holder

Dynamic = Mapping[str, frozenset[int]]
"""Argument → the axes that may have another size at another call."""

_ONLY_CHECKS = ("aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten._assert_async.msg")
_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def export(module: nn.Module, example: Arguments, dynamic: Dynamic | None = None) -> Program:
    """`module` in inference, as it computes on arguments such as `example`. It is not changed: a copy that shares its
    weights is put into evaluation mode and traced.

    `dynamic`: axes whose size is free; by default the first of every tensor. An axis of size 1 in the example is fixed.

    Raises:
        ModelError: ``torch.export`` cannot trace it; the message has the line and the reason.
    """
    twin = in_evaluation(module)
    try:
        with _quiet(), torch.no_grad():
            traced = torch.export.export(twin, (), dict(example), dynamic_shapes=_axes(example, dynamic), strict=False)
            flat = traced.run_decompositions({})
    # torch.export raises what the module raises, and a dozen errors of its own that share no base.
    except Exception as error:
        raise ModelError(_why(module, error)) from error
    return _program(flat, twin, example)


def loaded(program: torch.export.ExportedProgram) -> Program:
    """A program that the user exported. Raises ModelError if it takes positional arguments that have no names."""
    with _quiet():
        flat = program.run_decompositions({})
    args, kwargs = flat.example_inputs if flat.example_inputs is not None else ((), {})
    names = list(inspect.signature(program.module().forward).parameters) if args else []
    return _program(flat, None, {**dict(zip(names, args, strict=False)), **kwargs})


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of what ``forward`` takes. Raises ModelError for ``*args`` or ``**kwargs`` alone."""
    named = [name for name, one in _signature(module).items() if one.kind in _NAMED]
    if not named:
        raise ModelError(f"{type(module).__name__}.forward has no named arguments; wrap it in a module that names them")
    return tuple(named)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def required_parameters(module: nn.Module) -> tuple[str, ...]:
    """Those of `parameters_of` that have no default."""
    parameters = _signature(module)
    return tuple(name for name in parameters_of(module) if parameters[name].default is inspect.Parameter.empty)


def _signature(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


def in_evaluation(module: nn.Module) -> nn.Module:
    """A copy of the structure of `module` that shares its tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    try:
        twin = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    # Whatever the user's class does when it is copied.
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and the given module is "
            "never changed; give it a __deepcopy__ that works, or an ExportedProgram (torch.export.export)"
        ) from error
    return twin.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about itself, and without the fused encoder layer, which is one call to all tools."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _axes(example: Arguments, dynamic: Dynamic | None) -> dict[str, object]:
    """What ``torch.export`` takes as dynamic shapes."""

    def of(name: str, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        free = frozenset({0}) if dynamic is None else dynamic.get(name, frozenset())
        return {axis: torch.export.Dim.AUTO for axis in sorted(free) if axis < value.ndim and value.shape[axis] > 1}

    return {name: pytree.tree_map(lambda leaf, name=name: of(name, leaf), value) for name, value in example.items()}


def _program(traced: torch.export.ExportedProgram, module: nn.Module | None, example: Arguments) -> Program:
    signature = traced.graph_signature
    changed = [one.target for one in signature.output_specs if one.kind is not OutputKind.USER_OUTPUT]
    if changed:
        raise ModelError(
            f"the model writes to {changed[0]} when it is called; only models whose calls leave no trace are converted"
        )
    tensors = {**traced.state_dict, **traced.constants}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    held: dict[str, torch.Tensor] = {}
    given = {spec.arg.name: spec for spec in signature.input_specs}
    places: list[int] = []
    fixed: dict[int, object] = {}
    flat_place = 0
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            spec = given[node.name]
            if spec.kind in _WEIGHTS:
                assert spec.target is not None
                held[spec.target] = tensors[spec.target]
                made[node] = graph.get_attr(spec.target)
                made[node].meta = dict(node.meta)
                continue
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                made[node] = graph.node_copy(node)
                places.append(flat_place)
            else:
                fixed[flat_place] = value
            flat_place += 1
        elif node.op == "output":
            (found,) = node.args
            values = [_known(one) for one in found]
            graph.output(tuple(made[value] for value in values))
        elif str(node.target) not in _ONLY_CHECKS:
            made[node] = graph.node_copy(node, lambda old: made[old])
    graph.eliminate_dead_code()
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    root = holder({name: tensor for name, tensor in held.items() if name in used})
    flat = fx.GraphModule(root, graph)
    call = CallForm(
        parameters=tuple(example) if module is None else parameters_of(module),
        defaults={} if module is None else _defaults(module),
        inputs=_numbered_arguments(example),
        tensors=tuple(places),
        fixed=fixed,
        outputs=numbered(traced.call_spec.out_spec),
    )
    return Program(flat, call)


def _numbered_arguments(example: Arguments) -> Mapping[str, object]:
    values, structure = pytree.tree_flatten(dict(example))
    found: dict[str, object] = pytree.tree_unflatten(list(range(len(values))), structure)
    return found


def _known(value: object) -> fx.Node:
    if not isinstance(value, fx.Node):
        raise ModelError(f"the model gives {value!r}, which is no tensor; return tensors alone")
    return value


def _defaults(module: nn.Module) -> dict[str, object]:
    return {name: one.default for name, one in _signature(module).items() if one.default is not inspect.Parameter.empty}


def _why(module: nn.Module, error: Exception) -> str:
    """One paragraph of what ``torch.export`` says, with the line of the user's that it names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = next((line for line in reversed(lines) if line.startswith('File "') and "/torch/" not in line), "")
    first = lines[0] if lines else type(error).__name__
    return (
        f"{type(module).__name__} cannot be exported: {first[:300]}"
        + (f" ({place})" if place else "")
        + ". Control flow that depends on data must become torch.where or torch.cond"
    )
