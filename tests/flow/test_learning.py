"""AdaRound in a run: with a high effort, for the groups that lose most, where a plan misses its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders import FEATURES, Array, mlp_gelu
from fewbits.flow.calibrate import calibrate
from fewbits.flow.goals.effort import Effort, Level
from fewbits.flow.job import Job
from fewbits.flow.pricing import price
from fewbits.flow.ranking import rank
from fewbits.flow.remedies import learning
from fewbits.flow.remedies.learning import learn_rounding
from fewbits.flow.remedies.refining import refine
from fewbits.flow.remedies.smooth import smooth
from fewbits.flow.setup import Opened
from fewbits.plan import Plan
from fewbits.progress import Silent
from fewbits.store import Run
from fewbits.verify.acceptance import Objective
from jobs import opened, site


def data() -> dict[str, Array]:
    """Inputs of which each is near a few of the others, as activations are."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((8, FEATURES))
    x = rng.standard_normal((160, 8)) @ mix + 0.1 * rng.standard_normal((160, FEATURES))
    return {"x": x.astype(np.float32)}


def asked(level: Level = Level.HIGH) -> Opened:
    return opened(mlp_gelu(), data(), objective=Objective.SIZE, effort=Effort(level=level))


def begun(one: Opened, run: Run, folder: Path) -> tuple[Job, Plan]:
    """A job whose codes are searched for, and a plan with ranges."""
    whole = smooth(one.job(run, folder, Silent()))
    whole = refine(replace(whole, sites=price(whole)))
    return whole, whole.plan(site(whole), {}, calibrate(whole)["minmax"], "minmax")


def ready(folder: Path, level: Level = Level.HIGH) -> tuple[Job, Plan]:
    return begun(asked(level), Run.in_memory(), folder)


def test_a_medium_effort_learns_nothing(tmp_path: Path) -> None:
    one, start = ready(tmp_path, Level.MEDIUM)
    same, known = learn_rounding(one, site(one), start)
    assert same is one
    assert not known.harm


@pytest.fixture
def learnt(tmp_path: Path) -> tuple[Job, Job, Plan]:
    """A job before and after, and the plan it began with."""
    one, start = ready(tmp_path)
    return one, learn_rounding(one, site(one), start)[0], start


def changed(before: Job, after: Job) -> set[tuple[str, str]]:
    return {
        (group, scheme)
        for group, codes in after.codes.items()
        for scheme, name in codes.items()
        if before.codes.get(group, {}).get(scheme) != name
    }


def test_codes_that_are_learnt_lower_the_error_and_are_told(learnt: tuple[Job, Job, Plan]) -> None:
    before, after, _ = learnt
    found = changed(before, after)
    assert found
    told = {
        (group, remedy.scheme): remedy
        for group, remedies in after.remedies.items()
        for remedy in remedies
        if remedy.name.startswith("AdaRound")
    }
    assert {key for key, remedy in told.items() if remedy.taken} == found
    assert all(told[key].share < 1 for key in found)
    assert all(remedy.share == 1 for remedy in told.values() if not remedy.taken)


def test_only_what_loses_more_than_its_share_is_tried(learnt: tuple[Job, Job, Plan]) -> None:
    before, after, start = learnt
    harms = rank(before, site(before), start).values
    for group, scheme in changed(before, after):
        others = [known[scheme] for known in harms.values() if scheme in known]
        assert harms[group][scheme] > sum(others) / len(others)


def test_their_harm_is_measured_anew(tmp_path: Path) -> None:
    one, start = ready(tmp_path)
    after, known = learn_rounding(one, site(one), start)
    table = rank(after, site(after), start, known)
    before = rank(one, site(one), start)
    for group, harms in before.values.items():
        for scheme in harms:
            if (group, scheme) in changed(one, after):
                assert scheme not in known.harm[group]
                assert table.values[group][scheme] != harms[scheme]
            else:
                assert table.values[group][scheme] == harms[scheme]


def test_a_resumed_run_does_not_learn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def codes(*, resume: bool) -> dict[str, dict[str, str]]:
        one = asked()
        run = Run.create(tmp_path / "run", one.settings, resume=resume)
        try:
            whole, start = begun(one, run, tmp_path)
            return {group: dict(found) for group, found in learn_rounding(whole, site(whole), start)[0].codes.items()}
        finally:
            run.close()

    first = codes(resume=False)
    monkeypatch.setattr(learning, "learnt_codes", None)
    assert codes(resume=True) == first
