"""A model as a flat graph of ATen calls: tensors in, tensors out, weights as attributes under their own names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import fx, nn

from fewbits.models.pytorch.call_form import CallForm

_DEVICE: Final = re.compile(r"device\(type='\w+'(?:, index=\d+)?\)")


@dataclass(frozen=True)
class Program:
    """`module` is never changed: what converts it copies its graph. Weights are shared with whatever they came from."""

    module: fx.GraphModule
    call: CallForm

    @property
    def graph(self) -> fx.Graph:
        """The calls, in order."""
        return self.module.graph

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """What is read, in order."""
        return tuple(node for node in self.graph.nodes if node.op == "placeholder")

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """What is given, in order; a value may be given twice."""
        (found,) = self.graph.output_node().args
        assert isinstance(found, tuple | list)
        return tuple(node for node in found if isinstance(node, fx.Node))


def tensors_in(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """Parameters and buffers by name, dots for nesting."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def weight_of(module: nn.Module, name: str) -> torch.Tensor:
    """The parameter or buffer `name`. Raises AttributeError."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    found = {**owner._parameters, **owner._buffers}.get(last)
    if found is None:
        raise AttributeError(f"there is no weight {name}")
    return found


def holder(tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """A module that holds `tensors` as buffers, or parameters where they are some, and `modules`, under their names."""
    root = nn.Module()
    for name, module in (modules or {}).items():
        parent, last = _parent(root, name)
        parent.add_module(last, module)
    for name, tensor in tensors.items():
        parent, last = _parent(root, name)
        if isinstance(tensor, nn.Parameter):
            parent.register_parameter(last, nn.Parameter(tensor.detach(), requires_grad=False))
        else:
            parent.register_buffer(last, tensor.detach())
    return root


def _parent(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, last = name.split(".")
    parent = root
    for step in path:
        children = dict(parent.named_children())
        if step not in children:
            parent.add_module(step, nn.Module())
        parent = dict(parent.named_children())[step]
    return parent, last


def digest(module: fx.GraphModule) -> str:
    """SHA-256 of the calls and the weights, wherever they are: a plan is for a model on any device."""
    found = hashlib.sha256(_DEVICE.sub("device(type='cpu')", module.code).encode())
    tensors = tensors_in(module)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()
