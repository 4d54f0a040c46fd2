from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fewbits.attribution import Share
from fewbits.demo import demo_data, demo_model
from fewbits.flow import screening
from fewbits.flow.calibrate import calibrate
from fewbits.flow.job import Job
from fewbits.flow.screening import Screened, not_executed, screen
from fewbits.flow.site import Site
from fewbits.plan import Choice, Plan
from fewbits.verify.acceptance import Objective
from jobs import job, opened, site, wishes
from timing import Timing

GROUPS = ("stem/conv", "block1/dw/conv", "block1/pw/conv", "block2/dw/conv", "block2/pw/conv", "pool", "classifier")
INT8 = "w:int8r/channel a:uint8/tensor"


@pytest.fixture
def screened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: Timing
) -> Callable[[Mapping[str, Share], Objective], Screened]:
    """Screen the digits model with all groups low, where each float group takes 10 us."""

    def run(low: Mapping[str, Share], objective: Objective = Objective.LATENCY) -> Screened:
        one = job(opened(demo_model(), demo_data(), objective=objective), tmp_path)
        original = {name: Share("Conv", "fp32", 10e-6) for name in GROUPS}

        def profile(job: Job, at: Site, name: str, artifact: object) -> Mapping[str, Share]:
            assert at is site(job)
            return original if name == "original" else low

        monkeypatch.setattr(screening, "profile", profile)
        return screen(one, site(one), one.plan(site(one), wishes(one, GROUPS), calibrate(one)["minmax"], "minmax"))

    return run


def shares(**microseconds: float) -> dict[str, Share]:
    """All groups in int8 in 5 us, but for some (first part of the name → time)."""
    return {name: Share("QLinearConv", "int8", microseconds.get(name.partition("/")[0], 5.0) * 1e-6) for name in GROUPS}


Screen = Callable[..., Screened]


def test_nothing_slower_is_nothing_to_revert_and_nothing_to_time(screened: Screen, timed: Timing) -> None:
    assert screened(shares()).reverted == {}
    assert not timed.asked


def test_a_slower_group_goes_back_if_the_model_is_faster_without_it(screened: Screen, timed: Timing) -> None:
    timed.speeds = {"screened": 1.3}
    assert screened(shares(stem=30)).reverted == {"stem/conv": "slower in low precision: 30 us against 10 us"}
    assert timed.asked == [("placed", "screened")]


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.04])
def test_it_stays_if_the_whole_model_does_not_gain_beyond_the_noise(
    screened: Screen, timed: Timing, speed: float
) -> None:
    """Times of single nodes do not add up; only the end-to-end measurement decides."""
    timed.speeds = {"screened": speed}
    assert screened(shares(stem=30)).reverted == {}


def test_a_little_slower_is_noise(screened: Screen, timed: Timing) -> None:
    timed.speeds = {"screened": 9.0}
    assert screened(shares(stem=11)).reverted == {}


def test_all_of_them_slower_does_not_outvote_the_measured_placement(screened: Screen, timed: Timing) -> None:
    """Without all groups it would be the original, and that the placement was timed against end to end."""
    slow = {name: Share("QLinearConv", "int8", 40e-6) for name in GROUPS}
    assert screened(slow).reverted == {}
    assert not timed.asked


def test_for_the_smallest_file_slower_does_not_matter(screened: Screen, timed: Timing) -> None:
    timed.speeds = {"screened": 2.0}
    assert screened(shares(stem=30), Objective.SIZE).reverted == {}
    assert not timed.asked


def test_a_group_that_ran_in_float_all_the_same_goes_back(screened: Screen, timed: Timing) -> None:
    """A plan that says int8 where the runtime computes in fp32 would be untrue."""
    ran = {**shares(), "classifier": Share("Gemm", "fp32", 5e-6)}
    assert screened(ran).reverted == {"classifier": "the runtime ran it in fp32 (Gemm), against the plan"}


def test_only_low_groups_can_run_against_the_plan() -> None:
    plan = Plan("ab", {"low": Choice(INT8, ""), "float": Choice("fp32", ""), "unseen": Choice(INT8, "")}, {})
    float_everywhere = {"low": Share("Conv", "fp32", 1.0), "float": Share("Conv", "fp32", 1.0)}
    assert set(not_executed(plan, float_everywhere)) == {"low"}
    assert not_executed(plan, {"low": Share("QLinearConv", "int8", 1.0)}) == {}


@pytest.mark.parametrize(
    ("scheme", "precision", "against"),
    [
        (INT8, "int8", False),
        (INT8, "fp32", True),
        (INT8, "fp16", True),
        ("bf16", "bf16", False),
        ("bf16", "fp32", True),
        ("fp16", "fp32", True),
        ("w:int8r/channel a:uint8/token dynamic", "int8", False),
        ("w:int8r/channel a:uint8/token dynamic", "fp32", True),
        ("w:int8r/channel a:int8r/token dynamic", "bf16", True),
        ("w:fp8_e4m3/channel a:fp8_e4m3/token dynamic", "fp8", False),
        ("w:fp8_e4m3/channel a:fp8_e4m3/token dynamic", "fp32", True),
        ("w:fp8_e4m3/channel a:fp8_e4m3/token dynamic", "bf16", True),
        ("tf32", "tf32", False),
        ("tf32", "fp32", True),
        ("bf16", "tf32", True),
        (INT8, "tf32", True),
        ("w:int4r/g32@0", "fp32", False),
        ("w:int4r/g32@0", "int4", False),
    ],
)
def test_what_counts_as_against_the_plan(scheme: str, precision: str, against: bool) -> None:
    """A weight that is merely stored in codes is multiplied in fp32; a cast is in its own format or it is none."""
    plan = Plan("ab", {"one": Choice(scheme, "")}, {})
    assert bool(not_executed(plan, {"one": Share("Kernel", precision, 1.0)})) == against


def test_the_profile_is_taken_once_and_covers_every_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(opened(demo_model(), demo_data()), tmp_path)
    at = site(one)
    first = screening.profile(one, at, "original", one.model.original())
    assert set(first) == set(GROUPS)
    assert all(share.seconds > 0 and share.precision == "fp32" for share in first.values())
    monkeypatch.setattr(type(at.target), "executed", lambda *_: pytest.fail("profiled twice"))
    assert screening.profile(one, at, "original", one.model.original()) == first
