"""Codes of weights in few bits: for which groups they are looked for, what they gain, and what a resumed run does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fewbits
from builders import FEATURES, mlp_gelu
from conversion import error, run
from fewbits.codes import FILE, beside
from fewbits.errors import PlanError
from fewbits.flow.conversions import plan_key
from fewbits.flow.job import Job, Wish
from fewbits.flow.pricing import price
from fewbits.flow.remedies import refining
from fewbits.flow.remedies.refining import refine
from fewbits.formats.scheme import INT4_BLOCKS, INT4_SHIFTED_BLOCKS, INT8_BLOCKS, Scheme
from fewbits.models import open_model
from fewbits.progress import Silent
from fewbits.store import Run
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site
from timing import Timing

STORED = {"stored": 0.5, "codes": 2.0, "dynamic": 2.0}


def correlated(samples: int) -> dict[str, np.ndarray]:
    """Inputs of which each is near a few of the others, as activations are."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((8, FEATURES))
    x = rng.standard_normal((samples, 8)) @ mix + 0.1 * rng.standard_normal((samples, FEATURES))
    return {"x": x.astype(np.float32)}


def ready(tmp_path: Path, timed: Timing, objective: Objective = Objective.LATENCY) -> Job:
    return priced(opened(mlp_gelu(), correlated(120), objective=objective), tmp_path)


def names(one: Job) -> list[str]:
    return [group.name for group in one.groups if group.weight]


def test_where_it_cannot_pay_nothing_is_looked_for(timed: Timing, tmp_path: Path) -> None:
    timed.costs = STORED | {"stored": 2.0}
    one = ready(tmp_path, timed)
    assert refine(one) is one
    assert refine(ready(tmp_path, timed, Objective.SIZE)).codes


def test_four_bits_get_codes_and_eight_do_not(timed: Timing, tmp_path: Path) -> None:
    timed.costs = STORED
    one = refine(ready(tmp_path, timed))
    found = {scheme for schemes in one.codes.values() for scheme in schemes}
    assert found >= {str(INT4_BLOCKS), str(INT4_SHIFTED_BLOCKS)}
    assert str(INT8_BLOCKS) not in found


@pytest.mark.parametrize("scheme", [INT4_BLOCKS, INT4_SHIFTED_BLOCKS])
def test_the_model_with_them_is_closer_to_the_original(scheme: Scheme, timed: Timing, tmp_path: Path) -> None:
    timed.costs = STORED
    one = refine(ready(tmp_path, timed))
    plan = one.plan(site(one), {name: Wish(scheme, "") for name in names(one)}, {}, "")
    assert plan.codes
    inputs = correlated(300)
    exact = run(mlp_gelu(), inputs)
    plain = open_model(mlp_gelu()).converted(replace(plan, codes={}))
    assert error(run(one.conversions.of(plan), inputs), exact) < 0.8 * error(run(plain, inputs), exact)


def test_plans_with_other_codes_are_other_plans(timed: Timing, tmp_path: Path) -> None:
    timed.costs = STORED
    one = refine(ready(tmp_path, timed))
    plan = one.plan(site(one), {name: Wish(INT4_BLOCKS, "") for name in names(one)}, {}, "")
    without = replace(plan, codes={})
    assert plan_key(plan) != plan_key(without)
    assert one.conversions.of(plan).content != one.conversions.of(without).content


def in_folder(tmp_path: Path, timed: Timing, *, resume: bool = False) -> Job:
    one = opened(mlp_gelu(), correlated(120))
    run = Run.create(tmp_path / "run", one.settings, resume=resume)
    try:
        whole = one.job(run, tmp_path, Silent())
        return refine(replace(whole, sites=price(whole)))
    finally:
        run.close()


def test_a_resumed_run_finds_them_where_they_were(
    timed: Timing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.costs = STORED
    first = in_folder(tmp_path, timed)
    with monkeypatch.context() as patched:
        patched.setattr(refining, "best_codes", None)
        assert in_folder(tmp_path, timed, resume=True).codes == first.codes
    # Without the file they are found once more, and are the same.
    (tmp_path / "run" / FILE).unlink()
    again = in_folder(tmp_path, timed, resume=True)
    assert again.codes == first.codes
    assert set(beside(tmp_path / "run" / "plan.json")) == {
        name for schemes in first.codes.values() for name in schemes.values()
    }


def test_a_run_leaves_the_codes_of_its_plan_beside_it(timed: Timing, tmp_path: Path) -> None:
    timed.costs = STORED
    result = fewbits.tune(
        mlp_gelu(),
        correlated(400),
        evaluate="cosine",
        max_loss=0.9,
        objective="size",
        target="onnxruntime",
        threads=1,
        out=tmp_path / "run",
    )
    assert result.plan.codes
    assert set(result.codes) == set(result.plan.codes.values()) == set(beside(tmp_path / "run" / "plan.json"))
    model = result.artifact.content
    assert fewbits.convert(mlp_gelu(), tmp_path / "run" / "plan.json").content == model
    assert fewbits.convert(mlp_gelu(), result.plan, codes=result.codes).content == model
    with pytest.raises(PlanError, match=FILE):
        fewbits.convert(mlp_gelu(), result.plan)
    # Other weights round to nearest: the codes are not theirs.
    other = fewbits.convert(mlp_gelu(1), tmp_path / "run" / "plan.json", force=True)
    assert other.content == fewbits.convert(mlp_gelu(1), replace(result.plan, codes={}), force=True).content


def test_a_run_whose_plan_needs_none_leaves_none(timed: Timing, tmp_path: Path) -> None:
    timed.costs = STORED | {"codes": 0.2}
    result = fewbits.tune(
        mlp_gelu(),
        correlated(400),
        evaluate="cosine",
        max_loss=0.9,
        target="onnxruntime",
        threads=1,
        out=tmp_path / "run",
    )
    assert not result.plan.codes
    assert not (tmp_path / "run" / FILE).exists()
