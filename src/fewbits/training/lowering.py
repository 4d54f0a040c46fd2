"""A model beside the user's that shares its parameters and computes low.

The model is copied as a tree of modules around the same parameters and buffers, and the layers with products in the
copy are replaced. The other ways were looked at: ``torch.func.functional_call`` and a mode around the user's own
modules leave nowhere to keep what belongs to a layer (its name, histories, scales), and hooks or parametrisations would
change the user's model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from fewbits.errors import ModelError, RecipeError, TargetError
from fewbits.formats.floating import BF16, FP16, FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import ScaledFormat, element_of
from fewbits.training import direct, hardware, layers
from fewbits.training.cast import Cast
from fewbits.training.cell import Cell
from fewbits.training.functions import Functions
from fewbits.training.policy import Policy
from fewbits.training.products import Product
from fewbits.training.scalers import LayerAdaptive
from fewbits.training.schedule import Boost, Moq
from fewbits.training.table import Place, Reach, Recipe
from fewbits.training.watch import Watch

M = TypeVar("M", bound=nn.Module)

LOCAL = frozenset(
    (
        Place.ACTIVATION_FORWARD,
        Place.ACTIVATION_BACKWARD,
        Place.ACTIVATION_OUTPUT,
        Place.ERROR_BACKWARD,
        Place.ERROR_WEIGHT,
        Place.ERROR_OUTPUT,
        Place.GRADIENT,
    )
)
"""Tensors that differ between processes, so that their random numbers must too."""

_RANK_SHIFT = 40
_HISTORY_STEPS = 1 << 16
_DTYPES = {BF16: torch.bfloat16, FP16: torch.float16}
_LOW_LAYERS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: layers.LowLinear,
    nn.Conv1d: layers.LowConv1d,
    nn.Conv2d: layers.LowConv2d,
    nn.Conv3d: layers.LowConv3d,
    nn.ConvTranspose1d: layers.LowConvTranspose1d,
    nn.ConvTranspose2d: layers.LowConvTranspose2d,
    nn.ConvTranspose3d: layers.LowConvTranspose3d,
}
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True, slots=True)
class Layer:
    """What became of one layer with parameters: `low`, and the reason if it is not."""

    name: str
    kind: str
    low: bool
    reason: str = ""


@dataclass(slots=True, eq=False)
class Pass:
    """One forward pass, as far as it is needed to look for what was not finite: inputs, state of the random numbers,
    and the gradients that the outputs received."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    random: torch.Tensor
    outputs: int = 0
    gradients: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Lowering:
    """What a lowered model knows of itself: recipe, products by name, what is measured, and what became of its layers.

    `curvature` has the curvatures of layers for a schedule that asks for them; `planned` how many steps there will be.
    """

    recipe: Recipe
    watch: Watch
    seed: int
    rank: int = 0
    products: dict[str, Product] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    """Product → name of the parameter that is its weight."""
    histories: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    curvature: Mapping[str, float] = field(default_factory=dict)
    planned: int = 0
    mode: Policy | Functions | None = None
    out_type: torch.dtype | None = None
    last: Pass | None = None
    now: dict[str, Recipe] = field(default_factory=dict)
    """Product → the recipe as it is for it at step number `at`."""
    at: int = 0
    emulated: str = ""
    """Why products are emulated; empty where the hardware has them."""

    def remember(self, out: torch.Tensor) -> torch.Tensor:
        """Keep the gradient that an output of the last forward pass receives; returns `out`."""
        known = self.last
        if known is not None and out.requires_grad:
            place = known.outputs
            known.outputs += 1
            gradients = known.gradients
            # The tensor itself would keep its graph alive.
            out.register_hook(lambda gradient: gradients.__setitem__(place, gradient))  # type: ignore[no-untyped-call]
        return out

    def cast(self, name: str, place: Place, cell: Cell) -> Cast:
        """How the tensor at `place` of the layer `name` is cast; its history is kept here."""
        tensor = f"{name} {place}"
        seed = self.seed ^ (self.rank << _RANK_SHIFT) if place in LOCAL else self.seed
        if not cell.history:
            return Cast(cell, tensor, seed, self.watch.clock)
        if tensor not in self.histories:
            self.histories[tensor] = torch.zeros(cell.history)
        return Cast(cell, tensor, seed, self.watch.clock, self.histories[tensor])

    def product(self, name: str, weight: str = "") -> Product:
        """The product `name`, made when it is first asked for; `weight` is the parameter that is its weight."""
        if name not in self.products:
            self.now[name] = self._scheduled(name)
            self.products[name] = Product(name, self._casts(name), self.recipe.sums_of(name), self.watch)
            self.weights[name] = weight
        return self.products[name]

    def reschedule(self, step: int) -> None:
        """Give every product the formats of step number `step`, if they change with time."""
        self.at = step
        if self.recipe.schedule is None:
            return
        for name, product in self.products.items():
            following = self._scheduled(name)
            if following != self.now[name]:
                self.now[name] = following
                product.casts = self._casts(name)

    def renew(self, step: int) -> None:
        """Make the casts of every product anew, as they are at `step`."""
        self.at = step
        for name, product in self.products.items():
            self.now[name] = self._scheduled(name)
            product.casts = self._casts(name)

    def _scheduled(self, name: str) -> Recipe:
        return scheduled(self.recipe, self.at, self.planned, self.curvature.get(name, 0.0))

    def _casts(self, name: str) -> dict[Place, Cast]:
        return {place: self.cast(name, place, self.now[name].cell(place)) for place in Place}


def scheduled(recipe: Recipe, step: int, planned: int, curvature: float = 0.0) -> Recipe:
    """`recipe` as it is at `step` of `planned`, for a layer of that `curvature`."""
    schedule = recipe.schedule
    if isinstance(schedule, Moq):
        bits = IntFormat(schedule.bits(step, curvature), signed=True, restricted=True)
        return recipe.with_cells({Place.WEIGHT_FORWARD: _with_element(recipe.cell(Place.WEIGHT_FORWARD), bits)})
    if isinstance(schedule, Boost) and step >= schedule.starts(planned):
        element = element_of(schedule.format)
        operands = (Place.WEIGHT_FORWARD, Place.WEIGHT_BACKWARD, Place.ACTIVATION_FORWARD, Place.ACTIVATION_BACKWARD)
        errors = (Place.ERROR_BACKWARD, Place.ERROR_WEIGHT)
        assert isinstance(element, IntFormat | FloatFormat)
        return recipe.with_cells(
            {
                place: _with_element(cell, element)
                for place, cell in recipe.cells.items()
                if place in (*operands, *errors)
            }
        )
    return recipe


class Lowered(nn.Module):
    """What a lowered model is besides the user's class: its forward pass runs under the recipe."""

    lowering: Lowering

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The user's forward pass, low."""
        own = self.lowering
        compiling = torch.compiler.is_compiling()
        watched = torch.is_grad_enabled() and not compiling
        if self.training:
            own.watch.clock.add_(1)
        if watched:
            own.last = Pass(args, kwargs, torch.get_rng_state())
        # What a pass for inference sees is not for the scales of training.
        kept = [] if self.training else [(history, history.clone()) for history in own.histories.values()]
        with nullcontext() if own.mode is None else own.mode:
            out = super().forward(*args, **kwargs)
        for history, before in kept:
            history.copy_(before)
        if own.out_type is not None:
            out = tree_map_only(torch.Tensor, lambda x: x.float() if x.dtype is own.out_type else x, out)
        if watched and own.last is not None:
            tree_map_only(torch.Tensor, own.remember, out)
        return out


def lowering_of(model: nn.Module) -> Lowering:
    """What `model`, or a module that it wraps, was lowered to. Raises ModelError."""
    for module in model.modules():
        if isinstance(module, Lowered):
            return module.lowering
    raise ModelError("the model was not lowered: give what training.lower or training.prepare returned")


def lower(
    model: M,
    recipe: Recipe,
    *,
    seed: int = 0,
    rank: int = 0,
    planned: int = 0,
    curvature: Mapping[str, float] | None = None,
    on_missing: str = "emulate",
) -> M:
    """A model of the same class that shares the parameters and buffers of `model` and computes by `recipe`.

    `planned` is how many steps the training will have, for schedules that end with it; `curvature` (layer → share of
    the largest) for MoQ; `rank` of this process among several. `on_missing`: ``emulate`` or ``error`` where the device
    has no such products.

    Raises:
        ModelError: no parameter wants gradients, parameters lie on several devices, or the model cannot be copied.
        RecipeError: the recipe needs something that was not given.
        TargetError: the device lacks the products, and `on_missing` is ``error``.
    """
    _check(model, recipe, planned, on_missing)
    device = next(model.parameters()).device
    own = Lowering(recipe, _watch(recipe), seed, rank, curvature=curvature or {}, planned=planned)
    own.emulated = hardware.missing(device)
    if on_missing == "error" and own.emulated and recipe.cells and recipe.reach is not Reach.AMP:
        raise TargetError(
            f"the recipe {recipe.name} cannot run on {device}: {own.emulated}. Pass on_missing='emulate', "
            "or take amp_bf16"
        )
    copied = _copied(model)
    low = _DTYPES.get(_rest(recipe))
    own.out_type = low
    if recipe.reach in (Reach.AMP, Reach.PURE):
        assert low is not None
        own.mode = Policy(low, pure=recipe.reach is Reach.PURE)
    copied = _replaced(copied, own)
    # Layers that have a fast way for inference of their own would not ask the layers inside them.
    fast = any(isinstance(module, nn.TransformerEncoder | nn.TransformerEncoderLayer) for module in model.modules())
    if own.mode is None and (low is not None or fast or recipe.reach is Reach.PRODUCTS):
        own.mode = Functions(own.product, recipe.reach is Reach.PRODUCTS, None if low is None else Policy(low))
    own.reschedule(0)
    _warn_of_the_end(own)
    kind = type(copied)
    copied.__class__ = type(f"Lowered{kind.__name__}", (Lowered, kind), {"__module__": kind.__module__})
    assert isinstance(copied, Lowered)
    copied.lowering = own
    return copied


def report(model: nn.Module) -> str:
    """The recipe of a lowered model and what became of each layer, as text."""
    own = lowering_of(model)
    lines = [str(own.recipe), ""]
    if own.emulated and own.products:
        lines.append(own.emulated)
    width = max((len(layer.name) for layer in own.layers), default=0)
    lines += [
        f"{layer.name:<{width}}  {'low' if layer.low else 'kept: ' + layer.reason}  ({layer.kind})"
        for layer in own.layers
    ]
    return "\n".join(lines)


def _check(model: nn.Module, recipe: Recipe, planned: int, on_missing: str) -> None:
    if on_missing not in ("emulate", "error"):
        raise RecipeError(f"on_missing is emulate or error, not {on_missing!r}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a TorchScript module cannot be lowered: give the module that it was made from")
    if any(isinstance(module, Lowered) for module in model.modules()):
        raise ModelError("the model is lowered already: give the one that it was made from")
    parameters = dict(model.named_parameters())
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ModelError(
            "no parameter of the model wants gradients, so that there is nothing to train: unfreeze some with "
            "requires_grad_(True)"
        )
    devices = {name: parameter.device for name, parameter in parameters.items()}
    if len(set(devices.values())) > 1:
        first: dict[torch.device, str] = {}
        for name, device in devices.items():
            first.setdefault(device, name)
        where = ", ".join(f"{name} on {device}" for device, name in first.items())
        raise ModelError(
            f"the parameters of the model lie on several devices ({where}): move it to one with model.to(...)"
        )
    if isinstance(recipe.schedule, Boost) and planned < 1:
        raise RecipeError(
            f"the recipe {recipe.name} changes formats near the end: say how many steps there will be, planned=..."
        )


def _warn_of_the_end(own: Lowering) -> None:
    """Warn if a schedule of bits cannot finish in the planned steps."""
    schedule = own.recipe.schedule
    if not isinstance(schedule, Moq) or not own.planned:
        return
    ends = {name: schedule.finished(own.curvature.get(name, 0.0)) for name in own.products}
    late = {name: end for name, end in ends.items() if end > own.planned}
    if late:
        name, end = max(late.items(), key=lambda item: item[1])
        warnings.warn(
            f"{len(late)} of {len(ends)} layers do not reach {schedule.target} bits in {own.planned} steps ({name}: in "
            f"{end}): shorten the period or the offset, or raise the target",
            UserWarning,
            stacklevel=3,
        )


def _watch(recipe: Recipe) -> Watch:
    adaptive = recipe.scaler if isinstance(recipe.scaler, LayerAdaptive) else None
    element = element_of(recipe.cell(Place.ERROR_BACKWARD).format)
    assert isinstance(element, IntFormat | FloatFormat)
    least = element.min_positive if isinstance(element, FloatFormat) else 1.0
    return Watch(torch.zeros((), dtype=torch.int64), adaptive, least, element.max)


def _rest(recipe: Recipe) -> FloatFormat:
    if recipe.reach in (Reach.AMP, Reach.PURE):
        format = recipe.cell(Place.WEIGHT_FORWARD).format
        if not isinstance(format, FloatFormat) or format not in _DTYPES:
            raise RecipeError(
                f"the recipe {recipe.name} reaches every operation: its low format is bf16 or fp16, not {format}"
            )
        return format
    return recipe.rest


def _copied(model: M) -> M:
    """A tree of modules like `model`, around its own parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        return deepcopy(model, shared)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"the modules of the model cannot be copied ({str(error).splitlines()[0]}); where it is sharded or "
            "wrapped, lower it first: training.lower(model, ...), then fully_shard or DistributedDataParallel"
        ) from error


def _replaced(model: M, own: Lowering) -> M:
    """`model`, a copy, with its layers replaced."""
    found = list(model.named_modules())
    with_products = [name for name, module in found if type(module) in (*_LOW_LAYERS, nn.MultiheadAttention)]
    inner = {f"{name}.out_proj" for name, module in found if type(module) is nn.MultiheadAttention}
    with_products = [name for name in with_products if name not in inner]
    reaches_all = own.recipe.reach in (Reach.AMP, Reach.PURE)
    replaced: dict[str, nn.Module] = {}
    for name, module in found:
        if name in inner or not any(True for _ in module.parameters(recurse=False)):
            continue
        kind = type(module).__name__
        reason = _kept(name, module, with_products, own.recipe)
        if isinstance(module, nn.MultiheadAttention) and not reason:
            replaced[name] = _attention(name, module, own, low=not reaches_all)
        elif type(module) in _LOW_LAYERS and not reason and not reaches_all:
            replaced[name] = _layer(name, module, own)
        if reaches_all:
            reason = "" if type(module) in (*_LOW_LAYERS, nn.MultiheadAttention) else "by its operations (reach: amp)"
        own.layers.append(Layer(name or "(the model)", kind, not reason, reason))
    if isinstance(own.mode, Policy):
        known = [(name, module) for name, module in found if name not in replaced and name not in inner]
        replaced |= {name: direct.like(module, own.mode) for name, module in known if direct.takes(module)}
    if "" in replaced:
        whole = replaced[""]
        assert isinstance(whole, nn.Module)
        return whole  # type: ignore[return-value]
    modules = dict(found)
    standing = {id(modules[name]): module for name, module in replaced.items()}
    # A module may stand in several places.
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and id(child) in standing:
                parent._modules[key] = standing[id(child)]
    return model


def _kept(name: str, module: nn.Module, with_products: list[str], recipe: Recipe) -> str:
    """Why the layer stays as it is; empty if it does not."""
    if recipe.cells == {}:
        return "the recipe casts nothing"
    if isinstance(module, _RECURRENT):
        return "recurrent layers are one kernel"
    if type(module) not in (*_LOW_LAYERS, nn.MultiheadAttention):
        known = (*_LOW_LAYERS, nn.MultiheadAttention)
        subclass = next((kind.__name__ for kind in known if isinstance(module, kind)), "")
        return f"it is no plain {subclass}" if subclass else "no product"
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return "attention with bias_k or add_zero_attn"
    if recipe.reach in (Reach.AMP, Reach.PURE):
        return ""
    for rule in recipe.keep:
        if rule == "first" and name == with_products[0]:
            return "first"
        if rule == "last" and name == with_products[-1]:
            return "last"
        if rule.startswith("name:") and re.search(rule.removeprefix("name:"), name):
            return rule
    return ""


def _layer(name: str, module: nn.Module, own: Lowering) -> nn.Module:
    kind = _LOW_LAYERS[type(module)]
    low = _like(kind, module)
    low.__dict__["how"] = own.product(name, f"{name}.weight" if name else "weight")
    low.__dict__["out_type"] = own.out_type
    if isinstance(low, layers.LowLinear):
        low.__dict__["real"] = None if own.emulated else hardware.float8_linear(own.recipe)
    return low


def _attention(name: str, module: nn.MultiheadAttention, own: Lowering, *, low: bool) -> nn.Module:
    attention = _like(layers.LowAttention, module)
    same = module._qkv_same_embed_dim
    inputs = ("in_proj", "k_proj", "v_proj") if same else ("q_proj", "k_proj", "v_proj")
    weights = ["in_proj_weight"] * 3 if same else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    prefix = f"{name}." if name else ""
    parts = zip((*inputs, "out_proj"), (*weights, "out_proj.weight"), strict=True)
    attention.__dict__["projections"] = (
        tuple(own.product(f"{prefix}{part}", f"{prefix}{weight}") for part, weight in parts) if low else None
    )
    both = low and own.recipe.reach is Reach.PRODUCTS
    attention.__dict__["scores"] = (own.product(f"{prefix}scores"), own.product(f"{prefix}values")) if both else None
    return attention


def _like(kind: type[M], module: nn.Module) -> M:
    """A module of `kind` with everything that `module`, a copy, has."""
    made = kind.__new__(kind)
    made.__dict__.update(module.__dict__)
    return made


def _with_element(cell: Cell, element: IntFormat | FloatFormat) -> Cell:
    format = cell.format
    return replace(cell, format=replace(format, element=element) if isinstance(format, ScaledFormat) else element)
