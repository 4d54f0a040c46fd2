"""From a module and an example of its arguments to a `Program`, by ``torch.export``."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from fewbits.errors import ExportError, ModelError
from fewbits.models.pytorch.call_form import (
    Arguments,
    CallForm,
    closed_dataclasses,
    numbered,
    open_dataclasses,
    without_leaves,
)
from fewbits.models.pytorch.constants import folded
from fewbits.models.pytorch.copies import without_copies
from fewbits.models.pytorch.given import check, check_program, in_evaluation, plain_state, unwrapped
from fewbits.models.pytorch.program import Program, holder
from fewbits.models.pytorch.untraceable import reason

Dynamic = Mapping[str, frozenset[int]]
"""Argument → the axes that may have another size at another call."""

_ONLY_CHECKS = ("aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten._assert_async.msg")
_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def export(module: nn.Module, example: Arguments, dynamic: Dynamic | None = None) -> Program:
    """`module` in inference, as it computes on arguments such as `example`. It is not changed: a copy that shares its
    weights is put into evaluation mode and traced.

    `dynamic`: axes whose size is free; by default the first of every tensor. An axis of size 1 in the example is fixed.

    Raises:
        ModelError: ``torch.export`` cannot trace it, or it leaves traces when it is called; the message has the line
            and the reason.
    """
    own = unwrapped(module)
    check(own)
    _check_arguments(own, example)
    twin = in_evaluation(own)
    form = _Form(plain_state(twin))
    twin.register_forward_hook(form.seen)
    traced = _traced(twin, example, dynamic)
    if form.changed:
        _check_counters(twin, form, example, dynamic)
    return _program(traced, own, example, form.outputs)


class _Form:
    """Sees the form of what a module gives, and gives it on as what ``torch.export`` can see into; sees which of the
    `numbers` that its attributes are it has changed by then, which ``torch.export`` takes back."""

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self.numbers = numbers
        self.changed: Mapping[str, float] = {}
        self.outputs: object = None

    def seen(self, module: nn.Module, args: object, outputs: object) -> object:
        """A forward hook."""
        self.outputs = without_leaves(outputs)
        self.changed = {
            name: value for name, value in plain_state(module).items() if self.numbers.get(name, value) != value
        }
        return open_dataclasses(outputs)


def _check_counters(twin: nn.Module, form: _Form, example: Arguments, dynamic: Dynamic | None) -> None:
    """Raises ModelError if a number that a call changes is changed by the next call, too. What is kept once and for
    all, as the length of a table, is not."""
    before = form.changed
    for name, value in before.items():
        path, _, last = name.rpartition(".")
        vars(twin.get_submodule(path))[last] = value
    form.numbers = plain_state(twin)
    try:
        _traced(twin, example, dynamic)
    except ModelError:
        # It reads what the first call kept beside the number, and torch.export took back: no counter.
        return
    counted = sorted(set(form.changed) & set(before))
    if counted:
        raise ModelError(
            f"the model changes its attribute {counted[0]} at every call, so no two calls compute the same; only "
            "models whose calls leave no trace are converted"
        )


def _traced(twin: nn.Module, example: Arguments, dynamic: Dynamic | None) -> torch.export.ExportedProgram:
    try:
        with quiet(), torch.no_grad():
            traced = torch.export.export(twin, (), dict(example), dynamic_shapes=_axes(example, dynamic), strict=False)
            flat: torch.export.ExportedProgram = traced.run_decompositions({})
    # torch.export raises what the module raises, and a dozen errors of its own that share no base.
    except Exception as error:
        raise ExportError(f"{type(twin).__name__} cannot be exported: {reason(error)}") from error
    return flat


def _check_arguments(module: nn.Module, example: Arguments) -> None:
    names = parameters_of(module)
    unknown = sorted(set(example) - set(names))
    if unknown:
        raise ModelError(
            f"{type(module).__name__}.forward has no argument of the name {unknown[0]}; it takes {', '.join(names)}. "
            "What it gathers in *args or **kwargs has no name of its own: wrap it in a module that names it"
        )


def loaded(program: torch.export.ExportedProgram) -> Program:
    """A program that the user exported, with the axes free that were free then.

    Raises ModelError if it has no example of its arguments, was exported in training mode, or writes to its weights.
    """
    if program.example_inputs is None:
        raise ModelError("the exported program has no example of its inputs; export the module again (torch.export)")
    with quiet():
        flat = program.run_decompositions({})
    args, kwargs = program.example_inputs
    names = list(inspect.signature(program.module().forward).parameters) if args else []
    return _program(flat, None, {**dict(zip(names, args, strict=False)), **kwargs}, None)


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of what ``forward`` takes. Raises ModelError for ``*args`` or ``**kwargs`` alone."""
    module = unwrapped(module)
    named = [name for name, one in _signature(module).items() if one.kind in _NAMED]
    if not named:
        raise ModelError(f"{type(module).__name__}.forward has no named arguments; wrap it in a module that names them")
    return tuple(named)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def required_parameters(module: nn.Module) -> tuple[str, ...]:
    """Those of `parameters_of` that have no default."""
    parameters = _signature(unwrapped(module))
    return tuple(name for name in parameters_of(module) if parameters[name].default is inspect.Parameter.empty)


def _signature(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


_TALKING = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor", "torch.export")
"""What tells the same error in many lines, before it is raised."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about itself and the graphs that it prints when it fails, and without the fused encoder
    layer, which is one call to all tools."""
    fast = torch.backends.mha.get_fastpath_enabled()
    logs = [logging.getLogger(name) for name in _TALKING]
    levels = [log.level for log in logs]
    torch.backends.mha.set_fastpath_enabled(False)
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _axes(example: Arguments, dynamic: Dynamic | None) -> dict[str, object]:
    """What ``torch.export`` takes as dynamic shapes."""

    def of(name: str, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        free = frozenset({0}) if dynamic is None else dynamic.get(name, frozenset())
        return {axis: torch.export.Dim.AUTO for axis in sorted(free) if axis < value.ndim and value.shape[axis] > 1}

    return {name: pytree.tree_map(lambda leaf, name=name: of(name, leaf), value) for name, value in example.items()}


def _program(
    traced: torch.export.ExportedProgram, module: nn.Module | None, example: Arguments, form: object
) -> Program:
    check_program(traced)
    signature = traced.graph_signature
    tensors = {**traced.state_dict, **traced.constants}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    held: dict[str, torch.Tensor] = {}
    given = {spec.arg.name: spec for spec in signature.input_specs}
    places: list[int] = []
    fixed: dict[int, object] = {}
    flat_place = 0
    constants: dict[int, object] = {}
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
            given_back = [made[one] for one in found if isinstance(one, fx.Node) and _is_tensor(one)]
            constants = {place: one for place, one in enumerate(found) if not isinstance(one, fx.Node)}
            graph.output(tuple(given_back))
        elif str(node.target) not in _ONLY_CHECKS:
            made[node] = graph.node_copy(node, lambda old: made[old])
    graph.eliminate_dead_code()
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    root = holder({name: tensor for name, tensor in held.items() if name in used})
    flat = fx.GraphModule(root, graph)
    outputs = numbered(traced.call_spec.out_spec)
    call = CallForm(
        parameters=tuple(example) if module is None else parameters_of(module),
        defaults={} if module is None else _defaults(module),
        inputs=_numbered_arguments(example),
        tensors=tuple(places),
        fixed=fixed,
        outputs=outputs if form is None else closed_dataclasses(outputs, form),
        constants=constants,
    )
    return folded(without_copies(Program(flat, call)))


def _numbered_arguments(example: Arguments) -> Mapping[str, object]:
    values, structure = pytree.tree_flatten(dict(example))
    found: dict[str, object] = pytree.tree_unflatten(list(range(len(values))), structure)
    return found


def _is_tensor(node: fx.Node) -> bool:
    """True. Raises ModelError for a number that depends on what the model is given."""
    if not isinstance(node.meta.get("val"), torch.Tensor):
        raise ModelError(
            f"the model gives a number that depends on its inputs ({node.name}), as their size; return tensors, "
            "and constants beside them, alone"
        )
    return True


def _defaults(module: nn.Module) -> dict[str, object]:
    return {name: one.default for name, one in _signature(module).items() if one.default is not inspect.Parameter.empty}
