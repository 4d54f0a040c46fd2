"""Sequential judgements: the promise and the price by simulation, and agreement with budget and acceptance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from f1_scores import classified, true_loss
from fewbits.budget import Budget
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Scores
from fewbits.metrics import CATALOG
from fewbits.verify.acceptance import compare_accuracy
from fewbits.verify.betting import exceeding as bet
from fewbits.verify.evaluators import FunctionEvaluator, MetricEvaluator
from fewbits.verify.resampling import first_samples
from fewbits.verify.sequential import UNBOUNDED, Bounds, Judgement, Standing, judge, looks, loss_bounds

HIGHER, LOWER = Direction.HIGHER, Direction.LOWER
LOOKS = looks(2000)
NOISE = 2.5
Judged = Callable[[int, int, int], Standing]


def scores(values: np.ndarray) -> Scores:
    return Scores(float(values.mean()), len(values), tuple(values.tolist()))


def pair(lost: int, gained: int, samples: int) -> tuple[Scores, Scores]:
    """0/1 scores of both models with so many losses and gains, and the rest right in both."""
    original, candidate = np.ones(samples), np.ones(samples)
    candidate[:lost] = 0
    original[lost : lost + gained] = 0
    return scores(original), scores(candidate)


@cache
def standing(lost: int, gained: int, samples: int, allowed: float, planned: tuple[int, ...]) -> Standing:
    original, candidate = pair(lost, gained, samples)
    return judge(original, candidate, Budget(allowed, relative=False), HIGHER, planned).standing


def runs(
    loss: float, gain: float, allowed: float, planned: tuple[int, ...], repetitions: int = 2000
) -> tuple[float, float, float]:
    """How often such a plan is called hopeless and sure at the first look that decides, and the mean share read."""
    random = np.random.default_rng(7)
    chances = [loss, gain, 1 - loss - gain]
    steps = np.diff((0, *planned))
    told = {Standing.HOPELESS: 0, Standing.SURE: 0, Standing.UNDECIDED: 0}
    read = 0
    for _ in range(repetitions):
        counts = np.cumsum([random.multinomial(step, chances) for step in steps], axis=0)
        found, after = Standing.UNDECIDED, planned[-1]
        for (lost, gained, _), samples in zip(counts.tolist(), planned, strict=True):
            found = standing(lost, gained, samples, allowed, planned)
            if found is not Standing.UNDECIDED:
                after = samples
                break
        told[found] += 1
        read += after
    return (
        told[Standing.HOPELESS] / repetitions,
        told[Standing.SURE] / repetitions,
        read / repetitions / planned[-1],
    )


def promised(error: float, repetitions: int) -> float:
    return error + NOISE * float(np.sqrt(error * (1 - error) / repetitions))


class TestLooks:
    def test_the_parts_of_the_samples(self) -> None:
        assert looks(2000) == (125, 250, 500, 1000, 2000)
        assert looks(512) == (32, 64, 128, 256, 512)
        assert looks(511) == (32, 64, 128, 256, 511)
        assert looks(64) == (32, 64)
        assert looks(63) == (32, 63)
        assert looks(62) == (62,)
        assert looks(1) == (1,)
        with pytest.raises(ValueError, match="at least one"):
            looks(0)

    @given(st.integers(1, 10**7))
    def test_they_grow_to_all(self, samples: int) -> None:
        planned = looks(samples)
        assert planned[-1] == samples
        assert list(planned) == sorted(set(planned))
        assert len(planned) <= 5
        assert all(look >= 32 for look in planned[:-1])


class TestThePromise:
    """At the limit, where it is hardest to keep."""

    @pytest.mark.parametrize("allowed", [0.005, 0.01, 0.05])
    @pytest.mark.parametrize("gain", [0.0, 0.01])
    def test_a_loss_of_just_the_budget_is_seldom_misjudged(self, allowed: float, gain: float) -> None:
        hopeless, sure, _ = runs(allowed + gain, gain, allowed, LOOKS)
        assert hopeless <= promised(0.05, 2000)
        assert sure <= promised(0.05, 2000)

    def test_of_few_samples_too(self) -> None:
        hopeless, sure, _ = runs(0.07, 0.02, 0.05, looks(200))
        assert hopeless <= promised(0.05, 2000)
        assert sure <= promised(0.05, 2000)

    def test_students_t_would_break_it(self) -> None:
        """Why the test is exact: where few pairs differ, a normal approximation calls a plan at the limit sure."""
        random = np.random.default_rng(3)
        wrong = 0
        for _ in range(500):
            lost = (random.random(2000) < 0.01).astype(np.float64)
            tests = [stats.ttest_1samp(lost[:n], 0.01, alternative="less").pvalue for n in LOOKS if lost[:n].any()]
            wrong += any(p <= 0.05 / len(LOOKS) for p in tests) or not lost[: LOOKS[0]].any()
        assert wrong / 500 > 0.25

    @pytest.mark.parametrize("bounds", [Bounds(0.0, 2.0), Bounds(-2.0, 2.0)])
    def test_cosines_with_rare_disasters(self, bounds: Bounds) -> None:
        """One sample in 250 turns around and makes the whole loss of 0.01; most looks have seen few or none."""
        random = np.random.default_rng(5)
        told = dict.fromkeys(Standing, 0)
        original, planned, repetitions = scores(np.ones(2000)), LOOKS, 400
        for _ in range(repetitions):
            lost = random.uniform(0, 0.004, 2000) + np.where(random.random(2000) < 0.004, 2.0, 0.0)
            candidate = 1 - np.minimum(lost, 2)
            for samples in planned:
                part = scores(candidate[:samples])
                found = judge(original, part, Budget(0.01, relative=False), HIGHER, planned, bounds=bounds).standing
                if found is not Standing.UNDECIDED:
                    told[found] += 1
                    break
        assert told[Standing.SURE] / repetitions <= promised(0.05, repetitions)
        assert told[Standing.HOPELESS] / repetitions <= promised(0.05, repetitions)

    def test_squared_errors_come_close_to_it(self) -> None:
        random = np.random.default_rng(6)
        told = dict.fromkeys(Standing, 0)
        planned, repetitions = LOOKS, 500
        for _ in range(repetitions):
            error = random.standard_t(6, 2000)
            before, after = error**2, (error + 0.3 * random.standard_normal(2000)) ** 2
            for samples in planned:
                found = judge(
                    scores(before), scores(after[:samples]), Budget(0.09, relative=False), LOWER, planned
                ).standing
                if found is not Standing.UNDECIDED:
                    told[found] += 1
                    break
        assert told[Standing.SURE] / repetitions <= promised(0.06, repetitions)
        assert told[Standing.HOPELESS] / repetitions <= promised(0.06, repetitions)


class TestThePrice:
    @pytest.mark.parametrize(("loss", "gain", "allowed"), [(0.05, 0.0, 0.01), (0.07, 0.02, 0.01), (0.3, 0.05, 0.05)])
    def test_five_times_the_budget_is_dropped_within_a_quarter(self, loss: float, gain: float, allowed: float) -> None:
        hopeless, sure, share = runs(loss, gain, allowed, LOOKS, 300)
        assert hopeless >= 0.99
        assert sure == 0
        assert share <= 0.25

    def test_no_change_is_sure_after_a_quarter_of_2000(self) -> None:
        assert standing(0, 0, 250, 0.01, LOOKS) is Standing.UNDECIDED
        assert standing(0, 0, 500, 0.01, LOOKS) is Standing.SURE

    def test_betting_would_read_more(self) -> None:
        """Why scores of 0 and 1 have a test of their own."""
        random = np.random.default_rng(7)
        read = 0
        for _ in range(100):
            draws = random.random(2000)
            lost = (draws < 0.07).astype(np.float64) - (draws > 0.98)
            read += next((n for n in LOOKS if bet(lost[:n], 0.01, -1.0) <= 0.05), LOOKS[-1])
        share = runs(0.07, 0.02, 0.01, LOOKS, 300)[2]
        assert share <= 0.8 * read / 100 / LOOKS[-1]

    def test_a_large_even_loss_of_cosine_is_dropped_at_once(self) -> None:
        original, candidate = scores(np.ones(64)), scores(np.full(32, 0.9))
        found = judge(original, candidate, Budget(0.01, relative=False), HIGHER, (32, 64), bounds=Bounds(0.0, 2.0))
        assert found.standing is Standing.HOPELESS


class TestJudge:
    def test_the_loss_is_the_acceptance_s(self) -> None:
        original, candidate = pair(30, 10, 400)
        for budget in (Budget.parse("1%"), Budget.parse(0.01)):
            found = judge(original, candidate, budget, HIGHER, looks(400))
            expected = compare_accuracy("accuracy", HIGHER, original, candidate, budget).loss.value
            assert found.loss == pytest.approx(expected)

    def test_a_relative_budget_refers_to_the_whole_original(self) -> None:
        whole = scores(np.array([1.0] * 32 + [0.0] * 32))
        candidate = scores(np.array([0.0] * 8 + [1.0] * 24))
        found = judge(whole, candidate, Budget.parse("5%"), HIGHER, (32, 64))
        assert found.loss == pytest.approx((8 / 32) / 0.5)
        assert found == Judgement(Standing.HOPELESS, found.loss, 32, 1, 2, 0.95)

    @given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 0.01, 0.05, 0.2]))
    def test_what_is_told_agrees_with_what_is_measured(self, lost: int, gained: int, allowed: float) -> None:
        original, candidate = pair(lost, gained, 128)
        budget = Budget(allowed, relative=False)
        found = judge(original, candidate, budget, HIGHER, (128,))
        assert found.loss == pytest.approx((lost - gained) / 128)
        if found.standing is not Standing.UNDECIDED:
            assert budget.holds(found.loss) is (found.standing is Standing.SURE)

    @given(st.integers(0, 60), st.integers(0, 60))
    def test_lower_is_better_turns_it_round(self, lost: int, gained: int) -> None:
        original, candidate = pair(lost, gained, 128)
        budget = Budget(0.02, relative=False)
        assert judge(original, candidate, budget, HIGHER, (128,)) == judge(candidate, original, budget, LOWER, (128,))

    def test_more_confidence_tells_less(self) -> None:
        original, candidate = pair(9, 0, 128)
        told = [
            judge(original, candidate, Budget(0.01, relative=False), HIGHER, (128,), confidence=level).standing
            for level in (0.95, 0.999999)
        ]
        assert told == [Standing.HOPELESS, Standing.UNDECIDED]

    def test_identical_models_are_sure_of_any_budget_that_the_data_can_show(self) -> None:
        same = scores(np.random.default_rng(0).standard_normal(64) ** 2)
        assert judge(same, same, Budget(0.0, relative=False), LOWER, (64,)).standing is Standing.UNDECIDED
        assert judge(same, same, Budget(0.01, relative=False), LOWER, (64,)).standing is Standing.SURE

    def test_rounding_is_no_loss(self) -> None:
        values = np.linspace(1, 2, 64)
        found = judge(scores(values), scores(values + 1e-13), Budget(0.0, relative=False), LOWER, (64,))
        assert found.standing is not Standing.HOPELESS

    def test_a_nan_in_the_output_is_hopeless_at_once(self) -> None:
        candidate = np.ones(32)
        candidate[3] = np.inf
        found = judge(scores(np.ones(64)), scores(candidate), Budget.parse("50%"), LOWER, (32, 64))
        assert (found.standing, found.loss) == (Standing.HOPELESS, np.inf)

    def test_f1_at_the_limit_is_seldom_called_hopeless(self) -> None:
        """At most one in twenty, all looks together, but for the noise of 40 repetitions."""
        random, planned, hopeless = np.random.default_rng(3), looks(300), 0
        budget = Budget(true_loss(0.05), relative=False)
        for _ in range(40):
            original, candidate = classified(random, 300, 0.05)
            standings = {
                judge(original, first_samples(candidate, look), budget, HIGHER, planned).standing for look in planned
            }
            assert Standing.SURE not in standings
            hopeless += Standing.HOPELESS in standings
        assert hopeless <= 5

    def test_what_cannot_be_judged(self) -> None:
        original, candidate = pair(3, 1, 64)
        budget = Budget(0.01, relative=False)
        with pytest.raises(MetricError, match="no score per sample"):
            judge(Scores(0.8, 64), Scores(0.8, 64), budget, HIGHER, (64,))
        with pytest.raises(MetricError, match="64 per-sample scores and the original 32"):
            judge(pair(0, 0, 32)[0], candidate, budget, HIGHER, (64,))
        with pytest.raises(MetricError, match="undefined"):
            judge(scores(np.zeros(64)), candidate, Budget.parse("1%"), HIGHER, (64,))
        with pytest.raises(ValueError, match="none of the planned looks"):
            judge(original, candidate, budget, HIGHER, (32, 128))
        with pytest.raises(ValueError, match="between 0 and 1"):
            judge(original, candidate, budget, HIGHER, (64,), confidence=1.0)
        with pytest.raises(ValueError, match="not between"):
            judge(scores(np.ones(32)), scores(np.full(32, -2.0)), budget, HIGHER, (32,), bounds=Bounds(-1.0, 1.0))


def nothing(_inputs: object) -> dict[str, np.ndarray]:
    return {}


class TestBounds:
    @pytest.mark.parametrize("name", [name for name, each in CATALOG.items() if each.per_sample])
    def test_every_metric_with_scores_per_sample_but_errors_is_known(self, name: str) -> None:
        bounds = loss_bounds(MetricEvaluator(CATALOG[name], original=nothing))
        assert (bounds == UNBOUNDED) is (name == "mse")

    def test_a_function_may_give_anything(self) -> None:
        assert loss_bounds(FunctionEvaluator(lambda _: 1.0, (), "accuracy")) == UNBOUNDED

    @given(st.integers(0, 10**6), st.floats(-2, 2))
    def test_no_loss_by_cosine_is_outside(self, seed: int, noise: float) -> None:
        """Of the original beside itself, of another, and of the opposite."""
        random = np.random.default_rng(seed)
        outputs = random.standard_normal((8, 5)).astype(np.float32)
        cosine = CATALOG["cosine"]
        bounds = loss_bounds(MetricEvaluator(cosine, original=nothing))
        own = cosine.rows(outputs, cosine.keep(outputs, None), None)
        for other in (outputs, outputs + np.float32(noise) * random.standard_normal((8, 5)), -outputs):
            lost = own - cosine.rows(other, cosine.keep(outputs, None), None)
            assert lost.min() >= bounds.low and lost.max() <= bounds.high + 1e-6
