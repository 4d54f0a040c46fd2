"""Laws of PyTorch models over random modules and random plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from fewbits.data.batches import Arrays, Batch
from fewbits.eligibility import module_obstacle
from fewbits.formats.scheme import BF16, FP16, FP32
from fewbits.grouping import Group, group
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from random_modules import WIDTH, Wired, modules

X = torch.randn(3, WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))
_STEP = 2.0**-8
"""The most that rounding to bf16 changes a number by, relative to it."""
_TRIALS = 4


class Rounded(fx.Interpreter):
    """Runs a program with every float in it, weights included, off by as much as bf16 may be, up or down at random."""

    def __init__(self, module: fx.GraphModule, seed: int) -> None:
        super().__init__(module)
        self._random = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> object:
        """The value of one call, moved."""
        value = super().run_node(n)
        if n.op == "output" or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        signs = torch.randint(0, 2, value.shape, generator=self._random) * 2 - 1
        return value * (1 + _STEP * signs)


def exact(module: nn.Module) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        found: tuple[torch.Tensor, ...] = module(X)
    return found


def moved(model: TorchModel, expected: tuple[torch.Tensor, ...]) -> list[float]:
    """By how much each output moves, at most, when everything before it is rounded at random."""
    with torch.no_grad():
        trials = [Rounded(model.program.module, seed).run(X) for seed in range(_TRIALS)]
    return [
        max(float((one - found[place]).norm()) for found in trials) for place, one in enumerate(expected)
    ]  # fmt: skip


def allowed(model: TorchModel, made: Group) -> list[str]:
    every = (FP32, BF16, FP16)
    return [str(one) for one in every if not module_obstacle(model.graph, made, one)]


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(modules(), st.data())
def test_laws_of_any_module(module: Wired, data: st.DataObject) -> None:
    """One module, exported once, for all laws: exporting takes most of the time."""
    model = TorchModel.of(module, {"x": X})
    groups = group(model.graph)
    chosen = {
        made.name: Choice(data.draw(st.sampled_from(allowed(model, made)), label=made.name), "drawn") for made in groups
    }
    a_plan_loses_no_more_than_rounding_everything(module, model, Plan(model.sha256, chosen, {}))
    a_plan_of_nothing_changes_no_bit(module, model)
    observed_values_are_those_that_hooks_see(module, model)
    if groups:
        regions_give_what_the_groups_give_in_the_whole(model, groups)


def a_plan_loses_no_more_than_rounding_everything(module: Wired, model: TorchModel, plan: Plan) -> None:
    expected = exact(module)
    found = model.module(plan)(X)
    assert isinstance(found, tuple)
    for one, other, most in zip(expected, found, moved(model, expected), strict=True):
        assert other.dtype == torch.float32 and other.shape == one.shape
        # Rounding errors share signs sometimes, those of the trials do not.
        assert float((one - other).norm()) <= 4 * most + 1e-5 * float(one.norm())


def a_plan_of_nothing_changes_no_bit(module: Wired, model: TorchModel) -> None:
    found = model.module(Plan(model.sha256, {}, {}))(X)
    assert isinstance(found, tuple)
    assert all(torch.equal(one, other) for one, other in zip(exact(module), found, strict=True))


def observed_values_are_those_that_hooks_see(module: Wired, model: TorchModel) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, args, found, name=name: seen.update({f"layers.{name}": found.clone()}))
        for name, layer in module.layers.items()
    ]
    exact(module)
    for hook in hooks:
        hook.remove()
    tensors = {name: model.graph.node[name].outputs[0] for name in seen if name in model.graph.node}
    values = observed(model, list(tensors.values()))
    for name, tensor in tensors.items():
        assert np.array_equal(values[tensor], seen[name].numpy()), name


def regions_give_what_the_groups_give_in_the_whole(model: TorchModel, groups: Sequence[Group]) -> None:
    regions = model.regions(groups, {})
    assert isinstance(regions.model, TorchModel)
    whole = observed(model, [*regions.inputs.values(), *(made.output for made in groups)])
    given_values = {name: torch.from_numpy(whole[tensor]) for name, tensor in regions.inputs.items()}
    found = regions.model.module(Plan(regions.model.sha256, {}, {}))(**given_values)
    assert isinstance(found, tuple)
    for made, value in zip(groups, found, strict=True):
        np.testing.assert_allclose(value.numpy(), whole[made.output], rtol=1e-5, atol=1e-6, err_msg=made.name)
    assert [made.kind for made in group(regions.model.graph)] == [made.kind for made in groups]


def observed(model: TorchModel, tensors: list[str]) -> Arrays:
    batches: Iterator[Batch] = iter([Batch({"x": X.numpy()})])
    return next(iter(model.observe(batches, tensors)))
