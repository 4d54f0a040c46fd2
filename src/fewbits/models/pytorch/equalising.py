"""Cross-layer equalisation of a program: channels between two products are scaled, the function stays.

Source: Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx

from fewbits.errors import PlanError
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.kinds import operator
from fewbits.models.pytorch.program import Program, holder, tensors_in
from fewbits.rescaling import Junction, junctions
from fewbits.smoothing import parse


def equalised(program: Program, described: Described, factors: Mapping[str, str]) -> Program:
    """`program` with the channels of the tensors that `factors` names, as text, divided by them.

    Raises:
        PlanError: a tensor is not between products, or has another number of channels.
    """
    known = {one.tensor: one for one in junctions(described.graph, group(described.graph))}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    given = graph.graph_copy(program.graph, made)
    graph.output(given)
    scaling = _Scaling(graph, made, dict(tensors_in(program.module)))
    for tensor, text in factors.items():
        if tensor not in known:
            raise PlanError(
                f"the plan equalises the channels of {tensor}, which is not between products in this model; it was "
                "made for another one"
            )
        scaling.scale(described, known[tensor], torch.from_numpy(parse(text)))
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    root = holder({name: tensor for name, tensor in scaling.tensors.items() if name in used})
    return replace(program, module=fx.GraphModule(root, graph))


class _Scaling:
    """Weights that change, in a copy of the graph; `made` maps the calls before to its own."""

    def __init__(
        self,
        graph: fx.Graph,
        made: Mapping[fx.Node, fx.Node],
        tensors: dict[str, torch.Tensor],
    ) -> None:
        self.tensors = tensors
        self._graph = graph
        self._made = made

    def scale(self, described: Described, junction: Junction, factors: torch.Tensor) -> None:
        """Divide the channels of one tensor, and multiply what reads them."""
        calls = [self._made[described.calls[name]] for name in junction.giver.nodes]
        anchor = calls[0]
        weight = self._weight(anchor)
        outputs_first = junction.giver.kind is Kind.CONV or operator(anchor.target) == "linear"
        channels = weight.shape[0 if outputs_first else -1]
        if channels != len(factors):
            raise PlanError(
                f"the plan has {len(factors)} factors for the channels of {junction.tensor}, which has {channels}; "
                "it was made for another model"
            )
        norm = next((call for call in calls if operator(call.target) == "_native_batch_norm_legit_no_training"), None)
        if norm is not None:
            for place in (1, 2):
                self._put(norm, place, self._tensor(norm, place) / factors)
        else:
            shaped = factors.reshape(-1, *[1] * (weight.ndim - 1)) if outputs_first else factors
            self._put(anchor, _WEIGHT.get(operator(anchor.target), 1), weight / shaped)
            bias = _BIAS.get(operator(anchor.target), 2)
            if len(anchor.args) > bias and isinstance(anchor.args[bias], fx.Node):
                self._put(anchor, bias, self._tensor(anchor, bias) / factors)
        for reader in junction.readers:
            call = self._made[described.calls[reader.name]]
            groups = described.graph.node[reader.name].attributes.get("group", 1)
            assert isinstance(groups, int)
            self._put(call, _WEIGHT.get(operator(call.target), 1), _columns(call, self._weight(call), factors, groups))

    def _weight(self, call: fx.Node) -> torch.Tensor:
        return self._tensor(call, _WEIGHT.get(operator(call.target), 1))

    def _tensor(self, call: fx.Node, place: int) -> torch.Tensor:
        node = call.args[place]
        assert isinstance(node, fx.Node) and node.op == "get_attr"
        return self.tensors[str(node.target)].detach()

    def _put(self, call: fx.Node, place: int, values: torch.Tensor) -> None:
        """`values` in the place of a weight; under its own name, if nobody else reads it."""
        node = call.args[place]
        assert isinstance(node, fx.Node)
        name = str(node.target)
        if len(node.users) > 1:
            name = f"{name}_of_{call.name}"
            with self._graph.inserting_before(call):
                own = self._graph.get_attr(name)
            own.meta = dict(node.meta)
            call.update_arg(place, own)
        self.tensors[name] = torch.nn.Parameter(values.float(), requires_grad=False)


_WEIGHT = {"addmm": 2}
_BIAS = {"addmm": 0}


def _columns(call: fx.Node, weight: torch.Tensor, factors: torch.Tensor, groups: int) -> torch.Tensor:
    """`weight` with what it reads of each channel multiplied."""
    if operator(call.target) == "linear":
        return weight * factors
    if operator(call.target) in ("addmm", "matmul", "mm"):
        return weight * factors[:, None]
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    return (parts * factors.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
