from math import ceil, log2

from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.search.bisection import Bisection
from fewbits.search.problem import Attempt, Finished, Trial
from fewbits.sensitivity.table import SensitivityTable


def run(table, loss_of, budget):
    """Play the strategy against `loss_of(reverted)`; gives its end and the trials."""
    strategy = Bisection()
    state = strategy.init(table)
    history = []
    while True:
        step = strategy.propose(state, history)
        if isinstance(step, Finished):
            return step, history
        assert isinstance(step, Attempt)
        assert step.reverted not in {trial.reverted for trial in history}, "a trial was repeated"
        loss = loss_of(step.reverted)
        history.append(Trial(step.reverted, loss, loss <= budget))


harms = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.floats(0.0, 10.0), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(harms, st.floats(0.0, 50.0), st.randoms(use_true_random=False))
def test_additive_losses(harm, budget, random):
    gain = {name: random.random() for name in harm}
    table = SensitivityTable(harm, gain)
    ranked = table.ranked()

    def loss_of(reverted):
        return sum(harm[name] for name in harm if name not in reverted)

    end, history = run(table, loss_of, budget)
    groups = len(harm)
    assert len(history) <= (ceil(log2(groups)) if groups > 1 else 0) + 3 <= Bisection().most(groups)
    assert end.best in history
    # The smallest prefix by brute force; the search may do better by taking members back, never worse.
    least = next(k for k in range(groups + 1) if k == groups or loss_of(frozenset(ranked[:k])) <= budget)
    assert end.found == (least < groups)
    if end.found:
        assert end.best.within
        kept_low = sum(gain[name] for name in harm if name not in end.best.reverted)
        prefix_low = sum(gain[name] for name in ranked[least:])
        assert kept_low >= prefix_low - 1e-12
    else:
        assert end.best.loss == min(trial.loss for trial in history)


def test_one_harmful_group_of_64_is_found_in_seven_trials():
    harm = {f"g{i:02}": 1.0 / (i + 1) for i in range(64)}
    table = SensitivityTable(harm, dict.fromkeys(harm, 1e-3))
    end, history = run(table, lambda reverted: 0.0 if "g00" in reverted else 1.0, 0.5)
    assert end.best.reverted == {"g00"}
    assert len(history) == 7


def test_members_that_gain_most_are_taken_back_first():
    # Every pair of g0..g3 in fp32 is enough, but the ranking needs all four for the prefix to hold g3.
    harm = {"g0": 4.0, "g1": 3.0, "g2": 2.0, "g3": 1.0, "g4": 0.1}
    table = SensitivityTable(harm, {"g0": 1.0, "g1": 50.0, "g2": 1.0, "g3": 1.0, "g4": 1.0})
    end, _ = run(table, lambda reverted: 0.0 if {"g0", "g3"} <= reverted else 1.0, 0.5)
    assert end.found
    assert "g1" not in end.best.reverted


def test_a_flat_failure_is_reported_with_the_least_loss():
    harm = {f"g{i}": float(i) for i in range(8)}
    table = SensitivityTable(harm, {})
    end, history = run(table, lambda reverted: 9.0 - len(reverted) / 10, 0.5)
    assert not end.found
    assert end.best.loss == min(trial.loss for trial in history)


def test_ranking_breaks_ties_by_name():
    assert SensitivityTable({"b": 1.0, "a": 1.0, "c": 2.0}, {}).ranked() == ("c", "a", "b")
