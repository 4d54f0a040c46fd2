from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import builders
from fewbits.costs.table import CostTable
from fewbits.demo import demo_data, demo_model
from fewbits.errors import MetricError
from fewbits.flow import ranking
from fewbits.flow.calibrate import calibrate, under
from fewbits.flow.job import Job
from fewbits.flow.ranking import rank, see
from fewbits.flow.tuning import tune
from fewbits.formats.scheme import INT8_DYNAMIC, INT8_STATIC, INT8_SYMMETRIC, INT8_TENSOR, Scheme
from fewbits.plan import Choice, Plan
from fewbits.sensitivity.table import SensitivityTable
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site, wishes
from timing import Timing

GROUPS = ("stem/conv", "block1/dw/conv", "block1/pw/conv", "block2/dw/conv", "block2/pw/conv", "pool", "classifier")


def half(predict: object) -> float:
    return 0.5


def ranked(one: Job) -> tuple[Plan, SensitivityTable]:
    at = site(one)
    start = one.plan(at, wishes(one), calibrate(one)["minmax"], "minmax")
    return start, rank(one, at, start)


def test_harm_is_the_error_of_one_group_alone(timed: Timing, tmp_path: Path) -> None:
    """A depthwise convolution rounds at both ends and in its weights, the pool at its ends alone."""
    _, table = ranked(priced(opened(demo_model(), demo_data()), tmp_path))
    harm = {name: next(iter(schemes.values())) for name, schemes in table.harm.items()}
    assert set(harm) == set(GROUPS)
    assert all(0 < one.value < 1 for one in harm.values())
    assert harm["block1/dw/conv"].value > harm["pool"].value


def test_measured_harm_has_a_standard_error(timed: Timing, tmp_path: Path) -> None:
    """From the spread over batches of the search split: far below the harm itself, and not nothing."""
    _, table = ranked(priced(opened(demo_model(), demo_data()), tmp_path))
    for schemes in table.harm.values():
        for one in schemes.values():
            assert 0 < one.error < one.value


def test_only_what_may_pay_is_ranked(timed: Timing, tmp_path: Path) -> None:
    """Codes in any case, as neighbours spare them the conversions; the rest if it computes faster than fp32."""
    timed.costs = {"codes": 3.0, "dynamic": 0.9, "stored": 1.1}
    _, table = ranked(priced(opened(builders.mlp_gelu(), builders.features(120)), tmp_path))
    assert {scheme for schemes in table.harm.values() for scheme in schemes} == {
        "w:int8r/channel a:uint8/tensor",
        "w:int8r/tensor a:uint8/tensor",
        str(INT8_DYNAMIC),
    }


@pytest.mark.parametrize("cost", [1.0, 0.5])
def test_symmetric_codes_are_ranked_where_they_are_cheaper(timed: Timing, tmp_path: Path, cost: float) -> None:
    """With a zero point the same bits fit the range more closely."""
    one = priced(opened(builders.mlp_gelu(), builders.features(120), target="openvino"), tmp_path)
    costs = {
        name: {
            scheme: replace(known, compute=known.compute * cost)
            if Scheme.parse(scheme).activation == INT8_TENSOR
            else known
            for scheme, known in schemes.items()
        }
        for name, schemes in site(one).costs.costs.items()
    }
    at = replace(site(one), costs=CostTable(site(one).name, costs))
    table = rank(one, at, one.plan(at, wishes(one), calibrate(one)["minmax"], "minmax"))
    ranked_schemes = {scheme for schemes in table.harm.values() for scheme in schemes}
    assert str(INT8_STATIC) in ranked_schemes
    assert (str(INT8_SYMMETRIC) in ranked_schemes) == (cost < 1)


def test_where_bytes_count_every_scheme_is_ranked(timed: Timing, tmp_path: Path) -> None:
    """A slow one may give the smallest file, and would pass for harmless."""
    timed.costs = {"codes": 3.0, "dynamic": 3.0, "stored": 3.0}
    one = priced(opened(builders.mlp_gelu(), builders.features(120), objective=Objective.SIZE), tmp_path)
    _, table = ranked(one)
    offered = {name: {str(scheme) for scheme in schemes[1:]} for name, schemes in site(one).space.schemes.items()}
    assert {name: set(schemes) for name, schemes in table.harm.items()} == offered
    assert table.harm["matmul_0"]["w:int4r/g32@0"].value > table.harm["matmul_0"]["w:int8r/g32@0"].value


def test_casts_are_measured_together_and_shared_out(timed: Timing, tmp_path: Path) -> None:
    """One group's cast alone is lost in the runtime's own rounding. The shares come to the whole."""
    timed.costs = {"codes": 0.5, "bf16": 0.6}
    one = priced(opened(builders.gemm(), builders.features(120), target="openvino"), tmp_path)
    start, table = ranked(one)
    cast = {name: schemes["bf16"] for name, schemes in table.harm.items()}
    assert len(cast) == 2
    together = Plan(
        start.model_sha256, {name: Choice("bf16", "") for name in cast}, {}, target=start.target, calibration=""
    )
    whole = one.measure.harm(see(one, one.original), under(one, together, partial(see, one)))
    assert whole.value > 0
    assert sum(harm.value for harm in cast.values()) == pytest.approx(whole.value)
    # As their codes harm, where there are several sorts of them the worst.
    coded = {
        name: max(harm.value for scheme, harm in schemes.items() if scheme != "bf16")
        for name, schemes in table.harm.items()
    }
    for name, harm in cast.items():
        assert harm.value / whole.value == pytest.approx(coded[name] / sum(coded.values()))
        assert harm.error == 0


def test_without_codes_casts_are_shared_out_evenly(timed: Timing, tmp_path: Path) -> None:
    timed.costs = {"bf16": 0.6}
    one = priced(opened(builders.gemm(), builders.features(120), target="openvino"), tmp_path)
    at = site(one)
    table = rank(one, at, Plan(one.model.sha256, {}, {}, target=at.name))
    first, second = (schemes["bf16"].value for schemes in table.harm.values())
    assert first == second > 0


def test_what_was_ranked_is_not_measured_again(timed: Timing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = priced(opened(builders.gemm(), builders.features(120)), tmp_path)
    start, first = ranked(one)
    monkeypatch.setattr(ranking, "under", lambda *_: pytest.fail("measured twice"))
    assert rank(one, site(one), start) == first


@pytest.mark.parametrize(("name", "evaluate"), [("kl", "cosine"), ("loss", "cosine"), ("loss", "function")])
def test_another_measure_ranks_the_same_groups(timed: Timing, tmp_path: Path, name: str, evaluate: str) -> None:
    """By the divergence of the digits' probabilities, or by what a metric or a function loses per sample."""
    images = dict(np.load(demo_data()))["image"][:64]
    expected = opened(demo_model(), demo_data()).original({"image": images})

    def likeness(predict: Callable[[object], Mapping[str, np.ndarray]]) -> np.ndarray:
        (theirs,), (ours,) = predict(images).values(), expected.values()
        return -np.square(theirs - ours).sum(axis=1)

    scorer = likeness if evaluate == "function" else evaluate
    one = priced(opened(demo_model(), demo_data(), evaluate=scorer, max_loss=0.1, sensitivity=name), tmp_path)
    _, table = ranked(one)
    assert set(table.harm) == set(GROUPS)
    for schemes in table.harm.values():
        for harm in schemes.values():
            assert 0 <= harm.value < 1
            assert harm.error > 0
    assert table.harm["block1/dw/conv"]["w:int8r/channel a:uint8/tensor"].value > 0
    assert all(f"{name} {group}" in {key.partition(" w:")[0] for _, key in one.journal._values} for group in GROUPS)


def test_a_function_that_gives_one_number_cannot_rank_by_loss(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="one score per sample, and half gives one for all"):
        tune(demo_model(), demo_data(), evaluate=half, sensitivity="loss", threads=1, target="onnxruntime")
