"""Loss scaling as arithmetic."""

from __future__ import annotations

from math import erf, sqrt

import pytest
import torch

from fewbits.errors import DivergenceError
from fewbits.training.adaptive import Moments, join_scale, layer_scale
from fewbits.training.scalers import (
    Dynamic,
    LayerAdaptive,
    NoScale,
    RisingFloor,
    ScaleState,
    Seen,
    Static,
    floor_for,
    lost_share,
)

CLEAN, BAD = Seen(overflow=False), Seen(overflow=True)


def histogram(values: torch.Tensor) -> tuple[int, ...]:
    fields = (values.float().view(torch.int32) >> 23) & 0xFF
    counts = torch.bincount(fields[values != 0], minlength=256)
    return tuple(int(count) for count in counts)


def test_dynamic_is_torch_s() -> None:
    """The same overflows give the scales of torch.amp.GradScaler."""
    overflows = [True, True, *[False] * 7, True, *[False] * 12]
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=5)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 0.0)
    state, kind = Dynamic(interval=5).begin(), Dynamic(interval=5)
    for overflow in overflows:
        scaler.scale(torch.ones(()))
        weight.grad = torch.full((2,), float("inf") if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
        state = kind.advance(state, Seen(overflow))
        assert state.scale == scaler.get_scale()


def test_dynamic_stays_between_floor_and_ceiling() -> None:
    kind = Dynamic(initial=4.0, interval=1, floor=2.0, ceiling=16.0)
    state = kind.begin()
    for _ in range(10):
        state = kind.advance(state, CLEAN)
    assert state.scale == 16
    for _ in range(5):
        state = kind.advance(state, BAD)
    assert state.scale == 2


def test_hysteresis_bears_overflows_first() -> None:
    kind = Dynamic(initial=64.0, hysteresis=3, interval=100)
    state, scales = kind.begin(), []
    for _ in range(4):
        state = kind.advance(state, BAD)
        scales.append(state.scale)
    assert scales == [64, 64, 32, 16]


def test_at_the_floor_it_stops_with_a_diagnosis() -> None:
    kind = Dynamic(initial=4.0, floor=2.0, patience=4)
    state = kind.begin()
    for _ in range(3):
        state = kind.advance(state, BAD)
    with pytest.raises(DivergenceError, match=r"no scale helps.*culprit"):
        kind.advance(state, BAD)


def test_a_clean_step_begins_the_count_anew() -> None:
    kind = Dynamic(initial=2.0, floor=2.0, patience=3)
    state = kind.begin()
    for _ in range(10):
        state = kind.advance(kind.advance(state, BAD), CLEAN)
    assert state.scale == 2


@pytest.mark.parametrize("kind", [NoScale(), Static(8.0)])
def test_a_fixed_scale_stays(kind: NoScale | Static) -> None:
    state = kind.begin()
    assert kind.advance(kind.advance(state, BAD), CLEAN).scale == state.scale


class TestRisingFloor:
    LEAST, LARGEST = 2.0**-16, 57344.0  # E5M2

    def test_the_floor_is_the_least_that_brings_the_share_down(self) -> None:
        torch.manual_seed(0)
        errors = torch.randn(20_000) * 2.0**-18
        found = floor_for(histogram(errors), 1.0, self.LEAST, self.LARGEST, 1e-2, 1)
        assert found > 1
        assert lost_share(histogram(errors * found), self.LEAST) <= 1e-2
        assert lost_share(histogram(errors * found / 2), self.LEAST) > 1e-2

    def test_the_share_is_what_nearest_rounding_loses(self) -> None:
        torch.manual_seed(1)
        errors = torch.randn(5000) * 2.0**-15
        # Half of the smallest number itself is a tie, which goes to zero.
        lost = (errors.abs() < self.LEAST / 2).float().mean().item()
        assert lost_share(histogram(errors), self.LEAST) == pytest.approx(lost, abs=1e-3)

    def test_large_errors_keep_it_down(self) -> None:
        errors = torch.cat([torch.full((900,), 2.0**-20), torch.full((100,), 1024.0)])
        # 1024 is below 2**11; one power of headroom below 57344 < 2**16 leaves 2**4.
        assert floor_for(histogram(errors), 1.0, self.LEAST, self.LARGEST, 1e-3, 1) == 2.0**3

    def test_it_only_rises_and_holds_the_scale_up(self) -> None:
        kind = RisingFloor(initial=1.0, period=1, share=1e-3, interval=1000)
        tiny = histogram(torch.full((1000,), 2.0**-20))
        state = kind.advance(kind.begin(), Seen(False, tiny, self.LEAST, self.LARGEST))
        assert state.floor == state.scale == 2.0**3
        large = histogram(torch.ones(1000))
        for _ in range(5):
            state = kind.advance(state, BAD)
            assert state.scale == 2.0**3
        assert kind.advance(state, Seen(False, large, self.LEAST, self.LARGEST)).floor == 2.0**3

    def test_without_it_the_same_overflows_drive_the_scale_down(self) -> None:
        state = Dynamic(initial=8.0).begin()
        for _ in range(5):
            state = Dynamic(initial=8.0).advance(state, BAD)
        assert state.scale == 0.25


FP16 = {"least": 2.0**-24, "largest": 65504.0}


class TestLayerAdaptive:
    """Zhao et al. 2020, equations 2 to 6."""

    def test_the_share_that_underflows_is_the_tolerance(self) -> None:
        # One layer whose bounds do not bind: normal errors times a normal weight.
        error, weight, depth, tolerance = Moments(0, 1e-8, 4e-8), Moments(0, 0.05, 0.2), 64, 1e-3
        beta = layer_scale(error, weight, depth, 1.0, **FP16, tolerance=tolerance, layer_bound=1e9, total_bound=1e9)
        spread = 1e-8 * 0.05 * sqrt(depth / 2)
        lost = erf(FP16["least"] / (beta * spread * sqrt(2)))
        # A power of two is rounded down: at most twice the tolerance.
        assert tolerance <= lost < 2.1 * tolerance

    def test_bounds(self) -> None:
        error, weight = Moments(0, 1e-9, 4e-9), Moments(0, 0.05, 0.2)
        assert layer_scale(error, weight, 64, 1.0, **FP16) == 16
        assert layer_scale(error, weight, 64, 512.0, **FP16) == 2
        assert layer_scale(error, weight, 64, 1024.0, **FP16) == 1

    def test_it_cannot_overflow(self) -> None:
        error, weight = Moments(0, 1e-6, 30_000.0), Moments(0, 1e-6, 10.0)
        beta = layer_scale(error, weight, 1, 1.0, **FP16)
        assert beta * 30_000 * 10 <= 65504
        assert beta == 2.0**-3

    @pytest.mark.parametrize("zero", [Moments(0, 0, 0), Moments(1.0, 0.0, 1.0), Moments(0, float("nan"), 1.0)])
    def test_degenerate_moments_leave_it_at_one(self, zero: Moments) -> None:
        one = Moments(0, 1.0, 3.0)
        assert layer_scale(zero, one, 8, 1.0, **FP16) == 1
        assert layer_scale(one, zero, 8, 1.0, **FP16) == 1

    def test_branches_join_at_the_largest_scale_that_none_overflows_at(self) -> None:
        assert join_scale([4.0, 64.0], [1.0, 2.0], 65504.0) == 64
        assert join_scale([4.0, 64.0], [1.0, 2000.0], 65504.0) == 4
        # None fits: the smallest is halved, at most to an eighth.
        assert join_scale([4.0, 64.0], [1.0, 30_000.0], 65504.0) == 2
        assert join_scale([4.0, 64.0], [1.0, 1e9], 65504.0) == 0.5

    def test_an_overflow_halves_the_scale_of_the_loss(self) -> None:
        kind = LayerAdaptive()
        assert kind.advance(ScaleState(1.0), BAD).scale == 0.5
