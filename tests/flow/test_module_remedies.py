"""Remedies in a run on a PyTorch module: found as for an ONNX model, and in the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.data.batches import Batch
from fewbits.flow.calibrate import calibrate, errors_of
from fewbits.flow.job import Job, Wish
from fewbits.flow.remedies.correcting import correct
from fewbits.flow.remedies.equalise import equalise
from fewbits.flow.remedies.smooth import smooth
from fewbits.formats.scheme import INT8_SMOOTHED, Scheme
from fewbits.models.protocol import Model
from fewbits.plan import Plan
from fewbits.smoothing import parse
from jobs import job, opened, site

FEATURES = 48


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES)).eval()


def samples() -> dict[str, np.ndarray]:
    """Rows with a mean, whose fourth channel is two hundred times as large as the others."""
    x = np.random.default_rng(1).standard_normal((160, FEATURES)).astype(np.float32) + 0.5
    x[..., 3] *= 200
    return {"input": x}


@pytest.fixture
def one(tmp_path: Path) -> Job:
    return smooth(job(opened(net(), samples(), target="torch:cpu"), tmp_path))


def planned(one: Job, scheme: Scheme | None = None) -> Plan:
    """The plainest static codes that each layer may have, but for the first in `scheme`."""
    chosen = {**site(one).space.coded, **({} if scheme is None else {"0": scheme})}
    asked = {name: Wish(choice, "test") for name, choice in chosen.items()}
    return one.plan(site(one), asked, calibrate(one)["minmax"], "minmax")


def test_a_large_channel_is_smoothed(one: Job) -> None:
    factors = parse(one.smoothing["input"])
    assert int(factors.argmax()) == 3 and factors[3] > 8 * np.median(factors)
    assert INT8_SMOOTHED in site(one).space.schemes["0"]
    errors = errors_of(
        one, ("plain", "smoothed"), lambda name: planned(one, INT8_SMOOTHED if name != "plain" else None)
    )
    assert errors["smoothed"] < 0.5 * errors["plain"]


def test_biases_are_corrected_where_that_lowers_the_error(one: Job) -> None:
    corrected = correct(one, lambda job: planned(job, INT8_SMOOTHED))
    tried = [remedy for told in corrected.remedies.values() for remedy in told if "bias" in remedy.name]
    assert tried and all(remedy.taken == (remedy.share < 1) for remedy in tried)
    # Tried in earnest: what is measured with the means differs from what is measured without.
    assert all(remedy.share != 1 for remedy in tried)
    assert bool(planned(corrected, INT8_SMOOTHED).means) == tried[0].taken


def test_channels_are_evened_out_behind_a_clip(tmp_path: Path) -> None:
    """ReLU6 of a module clips by numbers, that of an ONNX model by tensors."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU6(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        module[0].weight[:16] /= 64
        module[0].bias[:16] /= 64
        module[2].weight[:, :16] *= 64
    x = {"input": np.random.default_rng(1).standard_normal((160, FEATURES)).astype(np.float32)}
    found = equalise(job(opened(module, x, target="torch:cpu"), tmp_path))
    (factors,) = map(parse, found.equalised.values())
    assert factors[:16].max() < factors[16:].min()
    batch = Batch({"input": x["input"]})
    (expected,), (got,) = job_outputs(found.model, batch), job_outputs(found.model.equalised({}), batch)
    np.testing.assert_allclose(expected, got, rtol=1e-3, atol=1e-3)


def job_outputs(model: Model, batch: Batch) -> list[np.ndarray]:
    (seen,) = model.observe([batch], [tensor.name for tensor in model.outputs])
    return list(seen.values())
