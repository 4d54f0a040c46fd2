"""What a run tries at which effort, and that factors of inputs are offered only where they pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders import Array, Net
from conversion import error, run
from fewbits.flow.goals.effort import Effort, Level
from fewbits.flow.job import Job, Wish
from fewbits.flow.remedies.refining import is_as_safe, refine
from fewbits.formats.granularity import Group as Block
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT4_OTHER_BLOCKS, INT4_SMOOTHED, INT8_CHANNEL, Scheme
from fewbits.refine.best_codes import Way
from fewbits.space import Rule
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site
from odd_models import finish
from refined_layers import problem

DEPTH = 256


def net() -> Net:
    return Net(3)


def ready(folder: Path, level: Level, rules: tuple[Rule, ...] = (), gain: float = 30.0) -> Job:
    made = net()
    proto = finish(made, made.linear("x", DEPTH, 64), x=("batch", DEPTH))
    data: dict[str, Array] = {"x": problem(0, size=DEPTH, gain=gain).inputs[:400]}
    one = opened(proto, data, objective=Objective.SIZE, effort=Effort(level=level), rules=rules)
    return priced(one, folder)


def offered(one: Job) -> set[Scheme]:
    (schemes,) = site(one).space.schemes.values()
    return set(schemes)


def ways(one: Job) -> set[str]:
    (remedies,) = one.remedies.values()
    return {remedy.name.partition(", w:")[0] for remedy in remedies if remedy.scheme.startswith("w:")}


def test_a_low_effort_clips(tmp_path: Path) -> None:
    one = refine(ready(tmp_path, Level.LOW))
    assert ways(one) <= {str(Way.CLIPPED)}


@pytest.mark.parametrize("level", [Level.LOW, Level.MEDIUM])
def test_less_than_a_high_effort_tries_three_forms_of_four_bits(level: Level, tmp_path: Path) -> None:
    found = offered(ready(tmp_path, level))
    assert not found & {*INT4_OTHER_BLOCKS, *INT4_SMOOTHED}
    assert len([scheme for scheme in found if scheme.is_weight_only and scheme.weight and scheme.weight.bits == 4]) == 3


def test_a_rule_may_ask_for_any_of_them(tmp_path: Path) -> None:
    wanted = INT4_OTHER_BLOCKS[1]
    assert wanted in offered(ready(tmp_path, Level.LOW, (Rule("*", wanted),)))


def test_a_high_effort_tries_all_sizes_with_and_without_zero_points(tmp_path: Path) -> None:
    found = set()
    for scheme in offered(ready(tmp_path, Level.HIGH)):
        format = scheme.weight
        if isinstance(format, ScaledFormat) and isinstance(format.granularity, Block) and format.bits == 4:
            found.add((format.granularity.size, format.asymmetric, scheme.smoothed))
    sizes = {(size, shifted) for size in (32, 64, 128) for shifted in (False, True)}
    assert found == {(*one, factors) for one in sizes for factors in (False, True)}


def test_factors_stay_where_large_inputs_make_them_pay(tmp_path: Path) -> None:
    one = refine(ready(tmp_path, Level.HIGH))
    kept = [scheme for scheme in offered(one) if scheme.is_weight_only and scheme.smoothed]
    assert kept
    (group,) = (made for made in one.groups if made.weight)
    assert set(one.scaling) == {group.operands[0]}
    scheme = kept[0]
    plan = one.plan(site(one), {group.name: Wish(scheme, "")}, {}, "")
    assert plan.scaling == one.scaling
    assert plan.codes
    inputs = {"x": problem(0, size=DEPTH).held}
    made = net()
    exact = run(finish(made, made.linear("x", DEPTH, 64), x=("batch", DEPTH)), inputs)
    plain = one.plan(site(one), {group.name: Wish(replace(scheme, smoothed=False), "")}, {}, "")
    assert not plain.scaling
    assert error(run(one.conversions.of(plan), inputs), exact) < error(run(one.conversions.of(plain), inputs), exact)


def test_factors_go_where_inputs_are_even(tmp_path: Path) -> None:
    one = refine(ready(tmp_path, Level.HIGH, gain=1.0))
    assert not [scheme for scheme in offered(one) if scheme.is_weight_only and scheme.smoothed]
    (refused,) = site(one).space.refusals.values()
    reasons = {refusal.reason for refusal in refused if refusal.scheme in INT4_SMOOTHED}
    assert reasons
    assert all("factors of its inputs" in reason for reason in reasons)


def test_codes_of_eight_bits_are_no_more_dangerous_than_nearest_ones() -> None:
    """Two products of 255 and 64 fit into 16 bits, of 255 and 65 do not; clipped ranges make codes larger."""
    weight = np.full((4, 32), 0.5, np.float32)
    weight[:, 0], weight[:, 1] = 1.0, 0.0
    nearest = quantize(weight, INT8_CHANNEL)
    assert is_as_safe(weight, nearest)
    clipped = quantize(weight, INT8_CHANNEL, scale=nearest.scale * np.float32(0.8))
    assert not is_as_safe(weight, clipped)
    # What could be cut before may be cut after.
    weight[:, 1] = 1.0
    nearest = quantize(weight, INT8_CHANNEL)
    assert is_as_safe(weight, quantize(weight, INT8_CHANNEL, scale=nearest.scale * np.float32(0.8)))
