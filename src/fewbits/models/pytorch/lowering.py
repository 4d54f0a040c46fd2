"""Groups whose operands are codes: each becomes one module that computes them so (`fewbits.models.torch_ops`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from fewbits.codes import Codes
from fewbits.errors import PlanError, SchemeError
from fewbits.formats.scheme import Scheme
from fewbits.graph import Kind
from fewbits.grouping import RECURRENT, Group
from fewbits.models.pytorch import recurrent
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.kinds import operator
from fewbits.models.pytorch.program import Program, holder, tensors_in, weight_of
from fewbits.models.torch_ops.module import GivenCodes, Layer, LowPrecision
from fewbits.models.torch_ops.operation import Activation, Call, Convolution, Range, Sort
from fewbits.models.torch_ops.writing import choose, write
from fewbits.plan import Plan

_FUSED = {"relu": Activation.RELU}


@dataclass(frozen=True)
class Lowered:
    """A program with modules; `made` maps calls of the program before to its own, `modules` are by call."""

    program: Program
    made: Mapping[fx.Node, fx.Node]
    modules: Mapping[fx.Node, Layer]


def lower(
    program: Program,
    described: Described,
    before: Mapping[fx.Node, fx.Node],
    groups: Sequence[Group],
    plan: Plan,
    codes: Codes,
    small: Mapping[str, torch.dtype],
) -> Lowered:
    """`program` with `groups` as modules in the schemes of `plan`. `before` maps the calls that `described` knows to
    those of `program`; `codes` has those of weights that the plan names. Groups that `small` names read and give that
    type, as far as there is a kernel that does.

    Raises:
        PlanError: a group cannot compute in its scheme, a range or codes are missing.
    """
    anchors = {before[described.calls[made.name]]: made for made in groups}
    held = [node for node in program.graph.nodes if node.op == "get_attr"]
    staying = {str(node.target) for node in held if any(user not in anchors for user in node.users)}
    swallowed: dict[fx.Node, fx.Node] = {}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    modules: dict[str, nn.Module] = {}
    found: dict[fx.Node, Layer] = {}
    for node in program.graph.nodes:
        if node in swallowed:
            made[node] = made[swallowed[node]]
        elif node in anchors:
            group = anchors[node]
            fused = _fused(described, before, group, node)
            result = small.get(group.name, torch.float32)
            if group.kind in RECURRENT:
                module: Layer = recurrent.module(program, node, group.name, plan.scheme(group.name), result)
            else:
                module = _module(program, node, group, plan, codes, fused, result)
            path = _path(group.name, staying, modules)
            modules[path] = module
            operands = recurrent.activations(node) if group.kind in RECURRENT else _activations(node, group)
            made[node] = graph.create_node("call_module", path, tuple(made[one] for one in operands))
            made[node].meta = dict(node.meta)
            found[made[node]] = module
            if fused is not None and module.call.activation is not Activation.NONE:
                swallowed[fused] = node
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
            if node.target is torch.ops.aten.view.default:
                # Kernels of codes give channels last, which no view goes over.
                made[node].target = torch.ops.aten.reshape.default
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in tensors_in(program.module).items() if name in used}
    flat = fx.GraphModule(holder(tensors, modules), graph)
    alive = set(graph.nodes)
    return Lowered(replace(program, module=flat), {a: b for a, b in made.items() if b in alive}, found)


def _module(
    program: Program,
    node: fx.Node,
    group: Group,
    plan: Plan,
    codes: Codes,
    fused: fx.Node | None,
    result: torch.dtype,
) -> LowPrecision:
    scheme = plan.scheme(group.name)
    activation = Activation.NONE if fused is None else _FUSED[operator(fused.target)]
    weight, bias = _weight(program, node, group)
    device = next((tensor.device.type for tensor in (weight, bias) if tensor is not None), _device(program))
    sort = _sort(group, weight)
    shape = () if weight is None else tuple(weight.shape)
    conv = _convolution(node, shape) if sort is Sort.CONVOLUTION else None
    # What no kernel fuses or gives is left to calls behind it.
    wishes = (
        Call(sort, scheme, shape, device, conv, kind, behind)
        for kind in dict.fromkeys([result, torch.float32])
        for behind in dict.fromkeys([activation, Activation.NONE])
    )
    plain = Call(sort, scheme, shape, device, conv)
    call = next((one for one in wishes if not isinstance(choose(one), str)), plain)
    ranges = [_range(plan, name) for name in group.operands] if scheme.is_static else []
    try:
        return write(call, weight, bias, ranges, _codes(plan, group, scheme, codes))
    except SchemeError as error:
        raise PlanError(f"the plan has {group.name} in {scheme}, but {error}") from error


def _sort(group: Group, weight: torch.Tensor | None) -> Sort:
    match group.kind:
        case Kind.CONV:
            return Sort.CONVOLUTION
        case Kind.GATHER:
            return Sort.EMBEDDING
        case Kind.MATMUL | Kind.GEMM:
            return Sort.MATMUL if weight is None else Sort.LINEAR
        case _:
            raise PlanError(f"{group.name} is a {group.kind}, which computes in floats only in PyTorch; set it to fp32")


def _weight(program: Program, node: fx.Node, group: Group) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The weight with output channels first, and the bias."""
    name = operator(node.target)
    args = list(node.args)
    if name == "addmm":
        args = [args[1], args[2], args[0]]
    if group.kind is Kind.GATHER:
        return _held(program, args[0]), None
    weight = _held(program, args[1]) if len(args) > 1 else None
    bias = _held(program, args[2]) if len(args) > 2 and name in ("linear", "addmm", *_CONVOLUTIONS) else None
    if weight is not None and name in ("addmm", "matmul", "mm"):
        if weight.ndim != 2:
            raise PlanError(f"the weight of {group.name} is not a matrix; set it to fp32")
        weight = weight.T.contiguous()
    return weight, bias


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


def _held(program: Program, value: object) -> torch.Tensor | None:
    is_held = isinstance(value, fx.Node) and value.op == "get_attr"
    return weight_of(program.module, str(value.target)).detach() if is_held and isinstance(value, fx.Node) else None


def _activations(node: fx.Node, group: Group) -> list[fx.Node]:
    """What the module reads."""
    args = [node.args[1]] if operator(node.target) in ("addmm",) or group.kind is Kind.GATHER else list(node.args[:2])
    return [one for one in args if isinstance(one, fx.Node) and one.op != "get_attr"]


def _fused(described: Described, before: Mapping[fx.Node, fx.Node], group: Group, anchor: fx.Node) -> fx.Node | None:
    """The activation of `group` that the module can take along."""
    last = before[described.calls[group.nodes[-1]]]
    reads_anchor = last is not anchor and last.args and last.args[0] is anchor
    return last if reads_anchor and operator(last.target) in _FUSED and group.kind is not Kind.GATHER else None


def _convolution(node: fx.Node, weight: tuple[int, ...]) -> Convolution:
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    groups = given.get("groups", 1)
    assert isinstance(groups, int)
    return Convolution.of(
        weight[2:],
        _numbers(given.get("stride", 1)),
        _padding(given.get("padding", 0)),
        _numbers(given.get("dilation", 1)),
        groups,
    )


def _padding(value: object) -> int | str | tuple[int, ...]:
    return value if isinstance(value, str) else _numbers(value)


def _numbers(value: object) -> int | tuple[int, ...]:
    """One number, or one for each axis."""
    if isinstance(value, int):
        return value
    assert isinstance(value, list | tuple)
    return tuple(one for one in value if isinstance(one, int))


def _range(plan: Plan, tensor: str) -> Range:
    if tensor not in plan.ranges:
        raise PlanError(f"the plan has no range for the tensor {tensor}; calibrate again")
    return plan.ranges[tensor]


def _codes(plan: Plan, group: Group, scheme: Scheme, codes: Codes) -> GivenCodes | None:
    name = plan.codes.get(group.name)
    if name is None:
        return None
    if name not in codes:
        raise PlanError(
            f"the plan's codes {name} for the weight of {group.name} are not there; pass codes=result.codes"
        )
    if codes[name].format != scheme.weight:
        raise PlanError(f"the plan has {group.name} in {scheme}, but its codes are of another format; tune again")
    return codes[name]


def _path(name: str, staying: Collection[str], taken: Collection[str]) -> str:
    """A name for the module of the group `name` that no tensor that stays, no other module, and nothing in one has."""
    others = (*staying, *taken)
    clash = any(one == name or one.startswith(f"{name}.") or name.startswith(f"{one}.") for one in others)
    return f"{name}_low" if clash else name


def _device(program: Program) -> str:
    return next((tensor.device.type for tensor in tensors_in(program.module).values()), "cpu")
