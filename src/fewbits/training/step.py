"""One step of training: scale, backward, unscale, check, clip, update; and everything that a checkpoint needs of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypedDict

import torch
from torch import nn
from torch.optim import Optimizer

from fewbits.errors import DataError, ModelError, RecipeError
from fewbits.training import culprit, gradients
from fewbits.training.culprit import Culprit
from fewbits.training.lowering import Lowered, lowering_of, report
from fewbits.training.masters import Masters
from fewbits.training.scalers import ScaleState, Seen
from fewbits.training.table import Recipe, differences
from fewbits.training.watch import LayerScale, consumers_of

_VERSION = 1


class Outcome(StrEnum):
    """What a step did."""

    STEPPED = "stepped"
    """The weights were updated."""
    SKIPPED = "skipped"
    """A gradient was not finite: the weights are what they were, and the loss scale falls."""
    ACCUMULATED = "accumulated"
    """Gradients were added; a later call updates."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a step did, with the loss scale that it used.

    `culprit` names what was not finite in a skipped step, where that could be found; `norm` is that of the gradients
    before clipping (0 unless a step that clips was made). A schedule of learning rates advances if `stepped`.
    """

    outcome: Outcome
    scale: float
    culprit: Culprit | None = None
    norm: float = 0.0

    @property
    def stepped(self) -> bool:
        """Whether the weights were updated."""
        return self.outcome is Outcome.STEPPED

    def __str__(self) -> str:
        return f"{self.outcome} at scale {self.scale:g}" + (f": {self.culprit}" if self.culprit else "")


class StepState(TypedDict):
    """What `Step.state_dict` gives: numbers, texts and tensors, which ``torch.load(weights_only=True)`` reads."""

    version: int
    recipe: str
    seed: int
    clock: int
    steps: int
    scaler: dict[str, float]
    histories: dict[str, torch.Tensor]
    scales: dict[str, list[float]]
    masters: dict[str, torch.Tensor]
    residuals: dict[str, torch.Tensor]
    optimizer_states: dict[str, dict[str, torch.Tensor]]


class Step:
    """Call it with the loss in place of ``loss.backward(); optimizer.step(); optimizer.zero_grad()``.

    It works on a lowered `model` (`fewbits.training.lower`) and the optimizers of its parameters.

    Raises:
        ModelError: an optimizer updates what is not the model's, or the model was not lowered.
        RecipeError: an optimizer wants a closure, which would compute gradients behind the scaler's back.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], *, clip_norm: float = 0.0) -> None:
        self._own = lowering_of(model)
        self._model = next(module for module in model.modules() if isinstance(module, Lowered))
        self.optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        self.recipe: Recipe = self._own.recipe
        self.clip_norm = clip_norm
        self.scale_state: ScaleState = self.recipe.scaler.begin()
        self.steps = 0
        self._accumulating = False
        self._names = dict(self._model.named_parameters())
        known: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._names.items()}
        for one in self.optimizers:
            _check_optimizer(one, known)
        weights = frozenset(self._own.weights.values())
        self.masters = Masters(self.recipe, known, weights, self._own.seed, self._own.watch.clock)

    @property
    def scale(self) -> float:
        """The scale of the loss in the next step."""
        return self.scale_state.scale

    @property
    def layer_scales(self) -> Mapping[str, float]:
        """The loss scale that each layer computes with, where layers have their own."""
        scales = self._own.watch.scales
        return {name: scale.computing * self.scale for name, scale in scales.items()}

    def __call__(self, loss: torch.Tensor, *, update: bool = True) -> Status:
        """One step with `loss`; without `update` its gradients are added to those of later calls.

        Raises:
            DataError: `loss` is not one number, has no graph, or is not finite at the first step.
            DivergenceError: gradients stayed non-finite whatever the loss scale.
        """
        self._check_loss(loss)
        used = self.scale_state.scale
        looks = not self._accumulating and self.recipe.scaler.looks(self.steps)
        self._backward(loss, used, looks)
        if not update:
            self._accumulating = True
            return Status(Outcome.ACCUMULATED, used)
        self._accumulating = False
        parameters = [x for one in self.optimizers for group in one.param_groups for x in group["params"]]
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        gradients.coalesce(parameters)
        finite = gradients.are_finite(parameters)
        watch = self._own.watch
        exponents = watch.take_exponents() if looks and watch.adaptive is None else ()
        seen = Seen(not finite, exponents, watch.least, watch.largest)
        if not finite:
            found = self._culprit()
            self._zero()
            self.scale_state = self.recipe.scaler.advance(self.scale_state, seen)
            # Scales of layers that overflowed are found anew at once.
            watch.scales.clear()
            self._count()
            return Status(Outcome.SKIPPED, used, found)
        norm = self._update(parameters, used)
        self._zero()
        self.scale_state = self.recipe.scaler.advance(self.scale_state, seen)
        self._count()
        return Status(Outcome.STEPPED, used, norm=norm)

    def state_dict(self) -> StepState:
        """Everything besides weights and optimizers that the next step depends on."""
        own = self._own
        return StepState(
            version=_VERSION,
            recipe=str(self.recipe),
            seed=own.seed,
            clock=int(own.watch.clock),
            steps=self.steps,
            scaler=asdict(self.scale_state),
            histories={name: history.clone() for name, history in own.histories.items()},
            scales={name: [one.arriving, one.computing, one.leaving] for name, one in own.watch.scales.items()},
            masters={name: master.clone() for name, master in self.masters.wide.items()},
            residuals={name: rest.clone() for name, rest in self.masters.residuals.items()},
            optimizer_states=self._optimizer_states(),
        )

    def load_state_dict(self, state: StepState) -> None:
        """Go on where `state` was taken; weights and optimizers are loaded first, as usual.

        Raises RecipeError for the state of another recipe, with what differs.
        """
        before = Recipe.parse(state["recipe"])
        if before != self.recipe:
            lines = "\n".join(f"  {line}" for line in differences(before, self.recipe))
            raise RecipeError(
                f"the checkpoint was made with another recipe (checkpoint | now):\n{lines}\nPrepare the model "
                "with the checkpoint's recipe, Recipe.parse(state['recipe']), or begin without its state"
            )
        if state["version"] != _VERSION:
            raise RecipeError(f"the checkpoint has version {state['version']}; this fewbits reads version {_VERSION}")
        own = self._own
        own.seed = self.masters.seed = state["seed"]
        own.watch.clock.fill_(state["clock"])
        self.steps = state["steps"]
        scaler = state["scaler"]
        self.scale_state = ScaleState(
            scaler["scale"], int(scaler["clean"]), int(scaler["left"]), int(scaler["overflows"]), scaler["floor"]
        )
        own.histories.clear()
        own.histories.update({name: history.clone() for name, history in state["histories"].items()})
        own.watch.scales = {name: LayerScale(*numbers) for name, numbers in state["scales"].items()}
        self.masters.wide.update({name: master.clone() for name, master in state["masters"].items()})
        self.masters.residuals = {name: rest.clone() for name, rest in state["residuals"].items()}
        own.renew(self.steps)
        for one in self.optimizers:
            for parameter, values in one.state.items():
                name = self.masters.names[parameter]
                if name in state["optimizer_states"]:
                    values.update({key: x.clone() for key, x in state["optimizer_states"][name].items()})

    def __str__(self) -> str:
        return report(self._model)

    def _check_loss(self, loss: torch.Tensor) -> None:
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            shape = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise DataError(f"the loss is one floating-point number, not {shape}: take its mean or sum first")
        if not loss.requires_grad:
            raise DataError("the loss has no graph: compute it from what the model gave, outside of torch.no_grad()")
        if self.steps == 0 and not self._accumulating and not bool(torch.isfinite(loss.detach())):
            found = self._culprit()
            where = f"; the first that was not finite is the {found}" if found else ""
            raise DataError(
                f"the loss of the first step is {float(loss.detach())}{where}. Look at the data and at how the "
                "weights are initialised; in fp16 the layer named may need to be kept: keep: name:..."
            )

    def _backward(self, loss: torch.Tensor, scale: float, looks: bool) -> None:
        watch = self._own.watch
        watch.loss_scale, watch.measuring = scale, looks
        if looks and watch.adaptive is not None:
            watch.consumers = consumers_of(loss, self._own.products)
        try:
            (loss if scale == 1 else loss.float() * scale).backward()  # type: ignore[no-untyped-call]
        finally:
            watch.measuring = False

    def _update(self, parameters: list[nn.Parameter], scale: float) -> float:
        short = self.masters.short(parameters)
        others = (
            [parameter for parameter in parameters if not any(parameter is one for one in short)]
            if short
            else parameters
        )
        gradients.unscaled(others, scale)
        with self.masters.updating(scale):
            norm = gradients.clipped(parameters, self.clip_norm) if self.clip_norm else 0.0
            for one in self.optimizers:
                one.step()
            self.masters.keep(parameters, self.optimizers)
        return norm

    def _culprit(self) -> Culprit | None:
        return culprit.find(self._model, self._own) or culprit.from_gradients(self._names)

    def _zero(self) -> None:
        for one in self.optimizers:
            one.zero_grad(set_to_none=True)

    def _count(self) -> None:
        self.steps += 1
        self._own.reschedule(self.steps)

    def _optimizer_states(self) -> dict[str, dict[str, torch.Tensor]]:
        """States of 16-bit parameters, which an optimizer rounds to 16 bits when it loads them."""
        return {
            self.masters.names[parameter]: {
                key: value.clone() for key, value in values.items() if isinstance(value, torch.Tensor)
            }
            for one in self.optimizers
            for parameter, values in one.state.items()
            if self.masters.names[parameter] in self.masters.wide
        }


def _check_optimizer(optimizer: Optimizer, names: Mapping[torch.Tensor, str]) -> None:
    kind = type(optimizer).__name__
    strange = [x for group in optimizer.param_groups for x in group["params"] if x not in names]
    if strange:
        raise ModelError(
            f"{kind} updates {len(strange)} parameters that the model does not have: make it from the parameters "
            "of the model that is trained"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise RecipeError(
            f"{kind} computes the loss several times in one step, through a closure; gradients would be seen at "
            "other scales than they were made. Take an optimizer without, or the recipe fp32 by hand"
        )
