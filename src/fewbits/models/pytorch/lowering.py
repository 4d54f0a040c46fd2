"""Groups whose operands are codes: each becomes one module that computes them so (`fewbits.models.torch_ops`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import fx, nn

from fewbits.codes import Codes
from fewbits.errors import PlanError, SchemeError
from fewbits.formats.integer import UINT8, IntFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.grouping import LAYERS, RECURRENT, Group
from fewbits.models.pytorch import recurrent
from fewbits.models.pytorch.anchors import activations, convolution, sort_of, weight_and_bias
from fewbits.models.pytorch.biases import corrected
from fewbits.models.pytorch.casting import Types
from fewbits.models.pytorch.fusing import Joints, Product, fuse
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.program import Program, holder, tensors_in
from fewbits.models.torch_ops.emulated_layers import Emulated
from fewbits.models.torch_ops.encoding import DECODES, ENCODES, Decode, Encode
from fewbits.models.torch_ops.module import GivenCodes, Layer, LowPrecision
from fewbits.models.torch_ops.onednn_layers import Int8Conv, Int8Linear
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.torch_ops.writing import choose, write
from fewbits.plan import Plan, smoothed

_ON_CODES = (Int8Linear, Int8Conv)
_OF_IMAGES: Final = 4


@dataclass(frozen=True)
class Lowered:
    """A program with modules; `made` maps calls of the program before to its own, `modules` are by call. `names` says
    what calls that are new stand for: groups, and tensors that become codes or floats again."""

    program: Program
    made: Mapping[fx.Node, fx.Node]
    modules: Mapping[fx.Node, Layer]
    names: Mapping[fx.Node, str]
    encoded: Mapping[fx.Node, torch.dtype]
    """What makes codes of a tensor → the type of what it reads."""
    along: Mapping[fx.Node, str]
    """Calls that add codes → the group whose sum that is."""


@dataclass(frozen=True)
class Wanted:
    """What is to be lowered: `groups` become modules in the schemes of `plan`, with those of `codes` that it names;
    sums in `joints` read codes where they can. Groups that `small` names read and give that type, as far as there is a
    kernel that does; `types` are those of all calls of the program in a small float. `emulates`: operands are rounded,
    and multiplied in float32."""

    groups: Sequence[Group]
    joints: Sequence[Group]
    plan: Plan
    codes: Codes
    small: Mapping[str, torch.dtype]
    types: Types
    emulates: bool = False


def lower(program: Program, described: Described, before: Mapping[fx.Node, fx.Node], wanted: Wanted) -> Lowered:
    """`program` with what is `wanted`. `before` maps the calls that `described` knows to those of `program`.

    Raises:
        PlanError: a group cannot compute in its scheme, a range or codes are missing.
    """
    return _Lowering(program, described, before, wanted).run()


class _Lowering:
    """The state of one pass over a program."""

    def __init__(
        self, program: Program, described: Described, before: Mapping[fx.Node, fx.Node], wanted: Wanted
    ) -> None:
        self.program, self.wanted = program, wanted
        anchors = {before[described.calls[one.name]]: one for one in wanted.groups}
        order = {node: place for place, node in enumerate(program.graph.nodes)}
        self.recurrent = {node: one for node, one in anchors.items() if one.kind in RECURRENT}
        products = sorted(set(anchors) - set(self.recurrent), key=order.__getitem__)
        self.anchors = {node: anchors[node] for node in products}
        summands = _summands(described, before, wanted.joints)
        self.sums = {before[described.calls[one.name]]: one.name for one in wanted.joints}
        self.joints: Joints = {
            node: {one: _range(wanted.plan, name) for one, name in names.items()} for node, names in summands.items()
        }
        self.tensors = {one: name for names in summands.values() for one, name in names.items()}
        alone = {node: self._product(node, one) for node, one in self.anchors.items()}
        self.fusing = fuse(alone, self.joints, wanted.types)
        held = [node for node in program.graph.nodes if node.op == "get_attr"]
        self.staying = {str(node.target) for node in held if any(user not in anchors for user in node.users)}
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.modules: dict[str, nn.Module] = {}
        self.found: dict[fx.Node, Layer] = {}
        self.names: dict[fx.Node, str] = {}
        self.encoded: dict[fx.Node, torch.dtype] = {}
        self.along: dict[fx.Node, str] = {}
        self.converted: dict[tuple[fx.Node, object], fx.Node] = {}

    def run(self) -> Lowered:
        """The new program."""
        fused = self.fusing.products
        ends = {(one.tail.nodes or (node,))[-1]: node for node, one in fused.items()}
        inside = {node for anchor, one in fused.items() for node in (anchor, *one.tail.nodes)} - set(ends)
        for node in self.program.graph.nodes:
            if node in ends:
                call = self._call(ends[node])
                self.made.update(dict.fromkeys((ends[node], *fused[ends[node]].tail.nodes), call))
            elif node in self.recurrent:
                self.made[node] = self._recurrent(node, self.recurrent[node])
            elif node not in inside:
                self.made[node] = self._copy(node)
        for node in reversed(self.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        tensors = {name: tensor for name, tensor in tensors_in(self.program.module).items() if name in used}
        flat = fx.GraphModule(holder(tensors, self.modules), self.graph)
        alive = set(self.graph.nodes)
        made = {a: b for a, b in self.made.items() if b in alive}
        program = replace(self.program, module=flat)
        return Lowered(program, made, self.found, self.names, self.encoded, self.along)

    def _product(self, node: fx.Node, group: Group) -> Product:
        """How `group` computes with nothing fused."""
        plan = self.wanted.plan
        scheme, result = plan.scheme(group.name), self.wanted.small.get(group.name, torch.float32)
        weight, bias = weight_and_bias(self.program, node, group)
        device = next((tensor.device.type for tensor in (weight, bias) if tensor is not None), _device(self.program))
        sort = sort_of(group, weight)
        shape = () if weight is None else tuple(weight.shape)
        conv = convolution(node, shape) if sort is Sort.CONVOLUTION else None
        # Not every kernel gives small floats: those are cast behind it.
        calls = [Call(sort, scheme, shape, device, conv, kind) for kind in dict.fromkeys([result, torch.float32])]
        found = [(call, self._way(call)) for call in calls]
        ways = [(call, way) for call, way in found if not isinstance(way, str)]
        if not ways:
            raise _refused(group, scheme, f"a {sort} cannot compute so on {device} ({found[-1][1]})")
        call, way = ways[0]
        values = _range(plan, _read(group.operands[0], scheme)) if scheme.is_static and way in _ON_CODES else None
        return Product(call, way, activations(node, group)[0], values)

    def _way(self, call: Call) -> type[LowPrecision] | str:
        """What computes `call`, or why nothing does."""
        if self.wanted.emulates:
            return Emulated.supported(call) or Emulated
        return choose(call)

    def _call(self, anchor: fx.Node) -> fx.Node:
        """The module of the product `anchor`, called."""
        group, fused, plan = self.anchors[anchor], self.fusing.products[anchor], self.wanted.plan
        scheme, tail = plan.scheme(group.name), fused.tail
        read = [_read(name, scheme) for name in group.operands]
        ranges = [_range(plan, name) for name in read] if scheme.is_static else []
        ranges += [one for one in (fused.other, fused.result) if one is not None]
        weight, bias = weight_and_bias(self.program, anchor, group)
        given = _codes(plan, group, scheme, self.wanted.codes)
        if scheme.is_static and weight is not None and group.kind in LAYERS and read[0] in plan.means:
            conv = fused.call.convolution
            parts = 1 if conv is None else conv.groups
            bias = corrected(weight, bias, scheme, given, means=plan.means[read[0]], tensor=read[0], groups=parts)
        try:
            module = write(fused.call, weight, bias, ranges, given, emulate=self.wanted.emulates)
        except SchemeError as error:
            raise _refused(group, scheme, str(error)) from error
        operands = activations(anchor, group)
        if scheme.is_static and type(module) in _ON_CODES:
            images = fused.call.convolution is not None
            reads = [self._codes_of(operands[0], read[0], ranges[0], integer(scheme.activation), images=images)]
        else:
            reads = [self.made[one] for one in operands]
        if tail.other is not None and fused.other is not None:
            reads.append(self._codes_of(tail.other, self.tensors[tail.other], fused.other, UINT8, images=True))
        elif tail.other is not None:
            reads.append(self._floats(tail.other))
        path = self._add(group.name, module)
        call = self.graph.create_node("call_module", path, tuple(reads))
        call.meta = dict((tail.nodes or (anchor,))[-1].meta)
        if fused.call.gives_codes:
            call.meta["val"] = call.meta["val"].to(torch.uint8)
        self.found[call], self.names[call] = module, group.name
        if fused.other is not None:
            self.along[call] = self.sums[tail.nodes[0]]
        return call

    def _recurrent(self, node: fx.Node, group: Group) -> fx.Node:
        """The module of the recurrent layer `node`, called."""
        result = self.wanted.small.get(group.name, torch.float32)
        module = recurrent.module(self.program, node, group.name, self.wanted.plan.scheme(group.name), result)
        operands = tuple(self.made[one] for one in recurrent.activations(node))
        call = self.graph.create_node("call_module", self._add(group.name, module), operands)
        call.meta = dict(node.meta)
        self.found[call], self.names[call] = module, group.name
        return call

    def _codes_of(self, operand: fx.Node, name: str, values: Range, element: IntFormat, *, images: bool) -> fx.Node:
        """`operand`, the tensor `name`, as codes of `element`: made once for all that read the same. `images`: a
        convolution reads them."""
        if operand in self.fusing.coded:
            return self.made[operand]
        images = images and operand.meta["val"].dim() == _OF_IMAGES
        key = (operand, (element, values, images))
        if key not in self.converted:
            self.converted[key] = self._insert(operand, name, ENCODES, Encode(values, element, images=images))
            self.converted[key].meta["val"] = operand.meta["val"].to(torch.uint8)
            self.encoded[self.converted[key]] = self.wanted.types.get(operand, torch.float32)
        return self.converted[key]

    def _floats(self, operand: fx.Node) -> fx.Node:
        """`operand` as floats."""
        if operand not in self.fusing.coded:
            return self.made[operand]
        key = (operand, DECODES)
        if key not in self.converted:
            decode = Decode(self.fusing.coded[operand])
            self.converted[key] = self._insert(operand, self.tensors[operand], DECODES, decode)
        return self.converted[key]

    def _insert(self, operand: fx.Node, tensor: str, what: str, module: nn.Module) -> fx.Node:
        # A dot would make it part of the module that gives the tensor.
        path = self._add(f"{tensor}_{what.replace('.', '_')}", module)
        call = self.graph.create_node("call_module", path, (self.made[operand],))
        call.meta = dict(operand.meta)
        self.names[call] = f"{tensor}.{what}"
        return call

    def _add(self, name: str, module: nn.Module) -> str:
        path = _path(name, self.staying, self.modules)
        self.modules[path] = module
        return path

    def _copy(self, node: fx.Node) -> fx.Node:
        """The call `node` as it is; sums read floats, what moves numbers moves codes."""
        made = self.graph.node_copy(node, self._floats if node in self.joints else self.made.__getitem__)
        if node.target is torch.ops.aten.view.default:
            # Kernels of codes give channels last, which no view goes over.
            made.target = torch.ops.aten.reshape.default
        if node in self.fusing.coded:
            made.meta["val"] = made.meta["val"].to(torch.uint8)
        return made


def _refused(group: Group, scheme: Scheme, reason: str) -> PlanError:
    return PlanError(f"the plan has {group.name} in {scheme}, but {reason}; set it to fp32, or choose another scheme")


def _summands(
    described: Described, before: Mapping[fx.Node, fx.Node], joints: Sequence[Group]
) -> Mapping[fx.Node, Mapping[fx.Node, str]]:
    """The sums `joints`, each with the names of the tensors that it adds."""
    found = {}
    for group in joints:
        node = before[described.calls[group.name]]
        operands = [one for one in node.args if isinstance(one, fx.Node)]
        found[node] = dict(zip(operands, described.graph.node[group.name].inputs, strict=True))
    return found


def _read(tensor: str, scheme: Scheme) -> str:
    """What a group in `scheme` reads of `tensor`: that, or what smoothing leaves of it."""
    return smoothed(tensor) if scheme.smoothed else tensor


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
