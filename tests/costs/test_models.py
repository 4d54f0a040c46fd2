"""Laws of every cost model, and what the choice of one does to the best policy."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.costs.counting import BitOperations, PeakMemory, Size
from fewbits.costs.energy import Energy
from fewbits.costs.ipu import InnerProductUnit
from fewbits.costs.model import CostModel, LayerSpec, Widths, total
from fewbits.costs.mpic import Mpic, MpicEnergy
from fewbits.costs.roofline import Roofline
from fewbits.formats.floating import FP32
from published_nets import convolution

MODELS: Mapping[str, CostModel] = {
    "size": Size(),
    "bops": BitOperations(),
    "ram": PeakMemory(),
    "roofline": Roofline(6.4e13, 2e10),
    "mpic": Mpic(),
    "mpic energy": MpicEnergy(),
    "ipu": InnerProductUnit(),
    "energy": Energy(),
}

sizes = st.integers(1, 64)


@st.composite
def layers(draw: st.DrawFn) -> LayerSpec:
    groups = draw(st.sampled_from([1, 1, 4]))
    cin, cout = groups * draw(sizes), groups * draw(sizes)
    return convolution(
        "conv", cin, cout, draw(st.sampled_from([1, 3, 5])), draw(sizes), draw(st.integers(1, 2)), groups
    )


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60, deadline=None)
@given(layer=layers(), bits=st.lists(st.integers(1, 16), min_size=3, max_size=3), fewer=st.integers(0, 2))
def test_fewer_bits_never_cost_more(name: str, layer: LayerSpec, bits: list[int], fewer: int) -> None:
    model = MODELS[name]
    if name.startswith("mpic"):
        bits = [2 if one < 4 else 4 if one < 8 else 8 for one in bits]
    less = list(bits)
    less[fewer] = max(bits[fewer] // 2, 2 if name.startswith("mpic") else 1)
    assert model.supports(layer.op, bits[0], bits[1])
    assert 0 <= model.cost(layer, *less) <= model.cost(layer, *bits)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_one(name: str) -> None:
    assert isinstance(MODELS[name], CostModel)
    assert MODELS[name].additive == (name != "ram")
    assert MODELS[name].unit in {"bytes", "bops", "s", "cycles", "J"}


@pytest.mark.parametrize("name", MODELS)
def test_a_joint_multiplies_nothing(name: str) -> None:
    add = LayerSpec("add", "add", 0, 0, in_elems=64, out_elems=32, cin=8, cout=8)
    moves = name in ("ram", "roofline", "energy")
    assert (MODELS[name].cost(add, 8, 8, 8) > 0) == moves


def test_fp32_costs_more_than_int8_wherever_it_runs() -> None:
    layer = convolution("conv", 16, 16, 3, 8)
    for model in MODELS.values():
        if model.supports("conv", FP32, FP32):
            assert model.cost(layer, FP32, FP32, FP32) > model.cost(layer, 8, 8, 8)


# --- one net, four budgets -------------------------------------------------------------------

NET = (
    convolution("stem", 3, 16, 3, 32),
    convolution("depthwise", 16, 16, 3, 32, groups=16),
    convolution("pointwise", 16, 64, 1, 32, 2),
    convolution("deep", 64, 64, 3, 8),
    convolution("head", 4096, 10, 1, 1),
)
CHOICES = tuple(product((2, 4, 8), repeat=2))
"""(bits of the weight, bits of the activation) that a layer may have."""
METRICS = ("size", "bops", "mpic", "roofline")
POLICIES = np.array(list(product(range(len(CHOICES)), repeat=len(NET))))
"""Every policy: the choice of each layer."""
# The power of rounding noise falls by 6 dB with every bit; weights matter as activations do, early layers most.
HARM = np.array([[(4.0**-w + 4.0**-a) / (1 + place) for w, a in CHOICES] for place in range(len(NET))])


def widths(policy: NDArray[np.int64]) -> list[Widths]:
    """The output of a layer has the bits of the activation that the next one reads."""
    bits = [CHOICES[choice] for choice in policy]
    outputs = [a for _, a in bits[1:]] + [8]
    return [Widths(w, a, o) for (w, a), o in zip(bits, outputs, strict=True)]


def costs(metric: str) -> NDArray[np.float64]:
    """The cost of every policy."""
    found = np.zeros(len(POLICIES))
    for place, layer in enumerate(NET):
        table = np.array(
            [[MODELS[metric].cost(layer, w, a, o) for _, o in CHOICES] for w, a in CHOICES],
        )
        last = place == len(NET) - 1
        following = np.full(len(POLICIES), CHOICES.index((8, 8))) if last else POLICIES[:, place + 1]
        found += table[POLICIES[:, place], following]
    return found


@pytest.fixture(scope="module")
def priced() -> Mapping[str, NDArray[np.float64]]:
    return {metric: costs(metric) for metric in METRICS}


HARMS = HARM[np.arange(len(NET)), POLICIES].sum(axis=1)


def uniform(bits: int) -> int:
    """The policy that has so many bits everywhere."""
    wanted = CHOICES.index((bits, bits))
    return next(number for number, policy in enumerate(POLICIES) if set(policy) == {wanted})


UNIFORM_8 = uniform(8)


def best(cost: NDArray[np.float64]) -> int:
    """The policy of least harm at half the cost of 8 bits; the cheaper one of equals."""
    within = np.flatnonzero(cost <= 0.5 * cost[UNIFORM_8])
    return int(within[np.lexsort((cost[within], HARMS[within]))[0]])


def test_the_table_of_policies_is_the_sum_over_layers(priced: Mapping[str, NDArray[np.float64]]) -> None:
    for metric in METRICS:
        for number in range(0, len(POLICIES), 9973):
            layers = list(zip(NET, widths(POLICIES[number]), strict=True))
            assert priced[metric][number] == pytest.approx(total(MODELS[metric], layers))


def test_half_of_it_is_another_policy_in_every_metric(priced: Mapping[str, NDArray[np.float64]]) -> None:
    chosen = {metric: best(priced[metric]) for metric in METRICS}
    assert len(set(chosen.values())) == len(METRICS)
    for metric, other in product(METRICS, repeat=2):
        if metric != other:
            # Whoever was chosen by another metric misses this budget, or does more harm within it.
            within = priced[metric][chosen[other]] <= 0.5 * priced[metric][UNIFORM_8]
            assert not within or HARMS[chosen[other]] > HARMS[chosen[metric]]


def test_for_the_same_harm_each_is_the_cheapest_in_its_own_metric(priced: Mapping[str, NDArray[np.float64]]) -> None:
    # At some other levels of harm two metrics agree: there are only nine choices for a layer.
    most = 0.5 * HARMS[uniform(4)]
    allowed = np.flatnonzero(most >= HARMS)
    chosen = {metric: int(allowed[np.argmin(priced[metric][allowed])]) for metric in METRICS}
    for metric, other in product(METRICS, repeat=2):
        if metric != other:
            assert priced[metric][chosen[metric]] < priced[metric][chosen[other]]


def test_size_leaves_activations_alone(priced: Mapping[str, NDArray[np.float64]]) -> None:
    assert {width.a for width in widths(POLICIES[best(priced["size"])])} == {8}


def test_mpic_takes_pairs_that_match(priced: Mapping[str, NDArray[np.float64]]) -> None:
    """Bits saved on one operand alone are worth little there, so they are not spent; elsewhere they are."""
    apart = {
        metric: sum(abs(np.log2(width.w / width.a)) for width in widths(POLICIES[best(priced[metric])]))
        for metric in METRICS
    }
    assert apart["mpic"] <= 1
    assert apart["mpic"] < min(apart["size"], apart["roofline"])


def test_a_table_of_a_whole_net_orders_policies(priced: Mapping[str, NDArray[np.float64]]) -> None:
    for metric in METRICS:
        assert all(priced[metric][uniform(low)] < priced[metric][uniform(high)] for low, high in pairwise((2, 4, 8)))
