"""A module that is converted at its first call, when its arguments are seen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from fewbits.errors import ExportError
from fewbits.formats.scheme import Scheme
from fewbits.models.protocol import Model
from fewbits.models.pytorch.call_form import bound
from fewbits.models.pytorch.converted import Converted
from fewbits.models.pytorch.examples import example_of
from fewbits.models.pytorch.exporting import parameters_of
from fewbits.models.pytorch.given import in_evaluation
from fewbits.models.pytorch.inference import REPORT, Inference
from fewbits.models.pytorch.leaves import ConvertedLayers, convert_leaves
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Plan

Planner = Callable[[Model], Plan]

_LATER = "converted at the first call; give eval_dataloader or example_inputs to have it checked and measured"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.MultiheadAttention,
)
"""Layers whose weights become small whatever the arguments are."""


class Deferred(Inference):
    """`module`, which is left as it is, in the precision that `planner` gives its groups. The graph for that is made at
    the first call, from its arguments; until then the weights of layers that `narrows` names are held small already.
    Where the module cannot be exported, each layer computes as `decide` says of its path and the name of its class.

    It is for inference. ``state_dict``, ``torch.save`` and ``copy.deepcopy`` work before and after the first call.
    """

    def __init__(
        self,
        module: nn.Module,
        planner: Planner,
        precision: str,
        narrows: Callable[[str], bool],
        decide: Callable[[str, str], Scheme],
    ) -> None:
        super().__init__()
        self.planner = planner
        self.decide = decide
        self.dtype = _DTYPES[precision]
        self.inner: nn.Module = _narrowed(in_evaluation(module), self.dtype, narrows)
        self.notes = {REPORT: _LATER}
        self.train(False)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the original gives. Raises ModelError if it cannot be exported, DataError for other arguments later."""
        if not isinstance(self.inner, Converted | ConvertedLayers):
            self.inner = self._converted(args, kwargs)
        return self.inner(*args, **kwargs)

    def _converted(self, args: tuple[object, ...], kwargs: dict[str, object]) -> nn.Module:
        arguments = bound(parameters_of(self.inner), args, kwargs)
        # What the small float holds, float32 holds: nothing is lost on the way to the graph.
        wide = copy.deepcopy(self.inner)
        for tensor in _floats(wide):
            if tensor.dtype == self.dtype:
                tensor.data = tensor.data.float()
        try:
            model = TorchModel.of(wide, *example_of(wide, [arguments]))
        except ExportError:
            return convert_leaves(wide, lambda path, layer: self.decide(path, type(layer).__name__.lower()))
        return model.module(self.planner(model))

    def __repr__(self) -> str:
        if isinstance(self.inner, Converted | ConvertedLayers):
            return repr(self.inner)
        return f"Deferred({type(self.inner).__name__}, converted at the first call)"


def _narrowed(twin: nn.Module, dtype: torch.dtype, narrows: Callable[[str], bool]) -> nn.Module:
    """`twin`, whose tensors are shared with the original's, with tensors of its own where they become small."""
    done: dict[int, nn.Parameter] = {}
    for path, layer in twin.named_modules():
        if not isinstance(layer, _LAYERS) or not narrows(path):
            continue
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if parameter.dtype == torch.float32:
                done.setdefault(id(parameter), nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
                layer.register_parameter(name, done[id(parameter)])
    return twin


def _floats(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from (tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point())
