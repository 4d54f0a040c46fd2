"""SmoothQuant and AWQ in a program: factors move from the channels of an activation into the weights that read them.

X W = (X / s) (s W), with one factor s for each input channel (Xiao et al. 2023, equation 3; for the weight alone in
codes Lin et al. 2023, section 3.2). The division is folded into the layer norm that gives the activation where nobody
else reads it; otherwise it is a multiplication. `models/onnx_smooth.py` is the same for ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from fewbits.errors import PlanError
from fewbits.formats.scheme import Scheme
from fewbits.grouping import Group
from fewbits.models.pytorch.folding import Folded
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.kinds import operator
from fewbits.models.pytorch.program import holder, tensors_in
from fewbits.plan import Plan, scaled, smoothed
from fewbits.smoothing import parse

_GAIN, _SHIFT = 2, 3
"""The places of what a layer norm multiplies by and adds."""


@dataclass(frozen=True)
class Smoothed:
    """A program whose products are smoothed, as one that batch norms were folded in; `divisions` are its
    multiplications by inverse factors, each with the name of what it leaves."""

    folded: Folded
    divisions: Mapping[fx.Node, str]


def smooth(
    folded: Folded, described: Described, groups: Sequence[Group], schemes: Mapping[str, Scheme], plan: Plan
) -> Smoothed:
    """`folded` with those of `groups`, in graph order, smoothed that `schemes` says so of, by the factors of `plan`.

    Raises:
        PlanError: factors are missing, or not as many as the tensor has channels.
    """
    wanted = [made for made in groups if schemes[made.name].smoothed]
    if not wanted:
        return Smoothed(folded, {})
    program = folded.program
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, made))
    writer = _Writer(graph, dict(tensors_in(program.module)))
    readers: dict[tuple[fx.Node, bool], list[tuple[fx.Node, Group]]] = {}
    for group in wanted:
        call = made[folded.made[described.calls[group.name]]]
        source = call.args[_place(call)]
        assert isinstance(source, fx.Node)
        readers.setdefault((source, schemes[group.name].is_weight_only), []).append((call, group))
    divisions: dict[fx.Node, str] = {}
    for (source, stored), reading in readers.items():
        calls, tensor = [call for call, _ in reading], reading[0][1].operands[0]
        given = plan.scaling if stored else plan.smoothing
        if tensor not in given:
            raise PlanError(f"the plan has no factors to smooth the tensor {tensor} with; tune again")
        factors = torch.from_numpy(parse(given[tensor]))
        for call in calls:
            writer.multiply(call, factors, tensor)
        if not writer.fold(source, calls, factors):
            divisions[writer.divide(source, calls, factors)] = (scaled if stored else smoothed)(tensor)
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    root = holder({name: tensor for name, tensor in writer.tensors.items() if name in used})
    mapped = {one: made[node] for one, node in folded.made.items() if node in made}
    return Smoothed(Folded(replace(program, module=fx.GraphModule(root, graph)), mapped), divisions)


def _place(call: fx.Node) -> int:
    """The place of the activation among the arguments of a product by a matrix; the weight is behind it."""
    return 1 if operator(call.target) == "addmm" else 0


class _Writer:
    """Changes a copy of a program's graph, and the weights that it holds."""

    def __init__(self, graph: fx.Graph, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self._graph = graph

    def multiply(self, call: fx.Node, factors: torch.Tensor, tensor: str) -> None:
        """Multiply what the weight of `call` has for each channel of `tensor`."""
        place = _place(call) + 1
        node = call.args[place]
        assert isinstance(node, fx.Node)
        weight = self.tensors[str(node.target)].detach()
        rows = operator(call.target) != "linear"
        channels = weight.shape[0 if rows else -1]
        if channels != len(factors):
            raise PlanError(
                f"the plan has {len(factors)} factors to smooth the tensor {tensor} with, which has {channels} "
                "channels; it was made for another model"
            )
        by = factors.to(weight.device)
        self._put(call, place, weight.float() * (by[:, None] if rows else by))

    def fold(self, source: fx.Node, readers: Sequence[fx.Node], factors: torch.Tensor) -> bool:
        """Divide the gain and the shift of the layer norm that gives `source`; whether there is one that can be, which
        nobody but `readers` reads."""
        if operator(source.target) != "layer_norm" or set(source.users) != set(readers):
            return False
        places = [place for place in (_GAIN, _SHIFT) if len(source.args) > place and source.args[place] is not None]
        parts = [source.args[place] for place in places]
        held = [one for one in parts if isinstance(one, fx.Node) and one.op == "get_attr"]
        is_gained = _GAIN in places and len(held) == len(parts)
        if not is_gained or any(self.tensors[str(one.target)].shape != factors.shape for one in held):
            return False
        for place, one in zip(places, held, strict=True):
            tensor = self.tensors[str(one.target)].detach()
            self._put(source, place, tensor.float() / factors.to(tensor.device))
        return True

    def divide(self, source: fx.Node, readers: Sequence[fx.Node], factors: torch.Tensor) -> fx.Node:
        """`source` times the inverse of `factors`, which `readers`, in graph order, read instead."""
        device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        name = self._free(f"{source.name}_inverse_factors")
        self.tensors[name] = (1 / factors).to(device)
        with self._graph.inserting_before(readers[0]):
            inverse = self._graph.get_attr(name)
            inverse.meta = {"val": self.tensors[name]}
            division = self._graph.call_function(torch.ops.aten.mul.Tensor, (source, inverse))
            division.meta = dict(source.meta)
        for call in readers:
            call.update_arg(_place(call), division)
        return division

    def _put(self, call: fx.Node, place: int, values: torch.Tensor) -> None:
        node = call.args[place]
        assert isinstance(node, fx.Node)
        name = self._free(f"{node.target}_smoothed")
        self.tensors[name] = nn.Parameter(values, requires_grad=False)
        with self._graph.inserting_before(call):
            own = self._graph.get_attr(name)
        own.meta = dict(node.meta)
        call.update_arg(place, own)
        if not node.users:
            self._graph.erase_node(node)

    def _free(self, name: str) -> str:
        """`name`, or one like it that no tensor has."""
        while name in self.tensors:
            name += "_"
        return name
