"""Modules that cannot be exported: each layer by itself in bf16 or fp16, with casts around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import nn
from torch.nn.utils import parametrize

from fewbits.errors import ModelError, PlanError
from fewbits.formats.floating import BF16, FP16, FloatFormat
from fewbits.formats.scheme import Scheme
from fewbits.models.pytorch.casting import narrowed
from fewbits.models.pytorch.given import check, in_evaluation, unwrapped
from fewbits.models.pytorch.inference import Inference

Decide = Callable[[str, nn.Module], Scheme]
"""Path and layer → how it computes."""

_LAYERS: Final = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)
_WHOLE: Final = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read the weights of those inside them, and pass their ``forward`` by."""
_DTYPES: Final = {BF16: torch.bfloat16, FP16: torch.float16}


class LowLayer(nn.Module):
    """`layer` with its weights in the type of `scheme`: what it reads is cast to that type, what it gives to float32.

    Its other attributes are those of the layer, and the weights that others read through it are float32: a model may
    multiply by the weight of its embedding.
    """

    def __init__(self, layer: nn.Module, scheme: Scheme, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.scheme = str(scheme)
        self.dtype = dtype

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the layer gives."""
        low = [_cast(value, self.dtype) for value in args]
        named = {name: _cast(value, self.dtype) for name, value in kwargs.items()}
        return _cast(self.layer(*low, **named), torch.float32)

    def __getattr__(self, name: str) -> torch.Tensor | nn.Module:
        """An attribute of the layer."""
        layer = self._modules.get("layer")
        if layer is None or name == "layer":
            return super().__getattr__(name)
        stored = {**layer._parameters, **layer._buffers}.get(name)
        if stored is not None:
            return stored.detach().float()
        if name in vars(layer):
            found: torch.Tensor | nn.Module = vars(layer)[name]
            return found
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """The scheme."""
        return self.scheme


class ConvertedLayers(Inference):
    """A module that was converted layer by layer. It takes and gives what the original does; `schemes` says how its
    layers compute, `kept` why some that could be asked for stay in float32.

    ``state_dict``, ``torch.save`` and ``copy.deepcopy`` work as with any module. It is for inference.
    """

    def __init__(self, module: nn.Module, schemes: Mapping[str, str], kept: Mapping[str, str]) -> None:
        super().__init__()
        self.module = module
        self.schemes = dict(schemes)
        self.kept = dict(kept)
        self.train(False)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the original gives."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def __repr__(self) -> str:
        """A line per layer that left fp32, and per layer that could not."""
        low = [f"  ({name}): {scheme}" for name, scheme in self.schemes.items() if scheme != "fp32"]
        rest = len(self.schemes) - len(low)
        reasons = [f"  ({name}): fp32, as {reason}" for name, reason in self.kept.items()]
        return "\n".join([
            "ConvertedLayers(", *low, *reasons, *([f"  {rest} more layers: fp32"] if rest else []), ")"
        ])  # fmt: skip


def convert_leaves(module: nn.Module, decide: Decide) -> ConvertedLayers:
    """A copy of `module` whose layers compute as `decide` says: the way for what ``torch.export`` cannot trace.

    Only layers with weights are asked about (products and embeddings in float32). Everything between them, and what
    is inside of modules that reach into their layers (attention of torch's own), stays in float32. Weights that stay
    are shared with `module`, which is never changed; tied weights stay tied.

    Raises:
        ModelError: nothing can be converted (see `given.check`), or there is no such layer.
        PlanError: `decide` gives another scheme than fp32, bf16 and fp16.
    """
    own = unwrapped(module)
    check(own)
    given = dict(own.named_modules())
    twin = in_evaluation(own)
    layers = _layers(twin)
    kept = {path: reason for path, layer in layers.items() if (reason := _obstacle(layer))}
    free = {path: layer for path, layer in layers.items() if path not in kept}
    if not layers:
        raise ModelError(
            f"{type(own).__name__} has no layer that could compute in fewer bits (Linear, convolutions, Embedding); "
            "what its code multiplies is seen only where it can be exported (torch.export)"
        )
    decided = {path: decide(path, given[path]) for path in free}
    _detach(twin)
    low: dict[int, nn.Module] = {}
    tied: dict[tuple[int, torch.dtype], nn.Parameter] = {}
    for path, scheme in decided.items():
        if not scheme.is_fp32:
            dtype = _dtype(path, scheme)
            low[id(free[path])] = LowLayer(_lowered(free[path], dtype, tied), scheme, dtype)
    if id(twin) in low:
        twin = low[id(twin)]
    else:
        _replace(twin, low)
    return ConvertedLayers(twin, {path: str(decided.get(path, Scheme())) for path in layers if path not in kept}, kept)


def _layers(module: nn.Module, path: str = "") -> dict[str, nn.Module]:
    """The layers by path, a shared one under its first."""
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    whole = [name for name, inner in module.named_modules() if isinstance(inner, _WHOLE)]
    for name, inner in module.named_modules():
        is_inside = any(name == one or name.startswith(f"{one}.") or not one for one in whole)
        if isinstance(inner, _LAYERS) and not is_inside and id(inner) not in seen:
            seen.add(id(inner))
            found[name] = inner
    return found


def _obstacle(layer: nn.Module) -> str:
    """Why `layer` stays as it is; "" if it need not."""
    if parametrize.is_parametrized(layer) or not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return "its weight is computed at every call"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks, which would see what it computes in fewer bits"
    dtypes = {parameter.dtype for parameter in layer.parameters()} - {torch.float32}
    return f"its weights are {str(dtypes.pop()).removeprefix('torch.')} already" if dtypes else ""


def _dtype(path: str, scheme: Scheme) -> torch.dtype:
    dtype = _DTYPES.get(scheme.weight) if scheme.is_cast and isinstance(scheme.weight, FloatFormat) else None
    if dtype is None:
        raise PlanError(
            f"{path or 'the model'} is to be {scheme}, but a module that cannot be exported is converted layer by "
            "layer, to bf16 and fp16 only"
        )
    return dtype


def _detach(module: nn.Module) -> None:
    """Parameters of their own on the same memory, so that nothing that is set on them is set on the original's."""
    made: dict[int, nn.Parameter] = {}
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                made.setdefault(id(parameter), nn.Parameter(parameter.detach(), requires_grad=False))
                inner._parameters[name] = made[id(parameter)]


def _lowered(layer: nn.Module, dtype: torch.dtype, tied: dict[tuple[int, torch.dtype], nn.Parameter]) -> nn.Module:
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            key = (id(parameter), dtype)
            if key not in tied:
                tied[key] = nn.Parameter(narrowed(parameter, dtype), requires_grad=False)
            layer._parameters[name] = tied[key]
    return layer


def _replace(module: nn.Module, low: Mapping[int, nn.Module]) -> None:
    for parent in list(module.modules()):
        if isinstance(parent, LowLayer):
            continue
        for name, child in parent._modules.items():
            if id(child) in low:
                parent._modules[name] = low[id(child)]


def _cast(value: object, dtype: torch.dtype) -> object:
    """`value` with its floats in `dtype`."""
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
