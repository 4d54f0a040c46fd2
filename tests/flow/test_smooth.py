"""Which tensors are smoothed, and by what: found on calibration data, by the error of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from builders import Array, Net
from fewbits.flow.calibrate import calibrate
from fewbits.flow.job import Job, Wish
from fewbits.flow.remedies.smooth import smooth, with_smoothed
from fewbits.formats.scheme import INT8_SMOOTHED
from fewbits.smoothing import parse
from jobs import job, opened
from odd_models import finish

FEATURES = 48


def samples(spread: float) -> dict[str, Array]:
    """Rows whose fourth channel is `spread` times as large as the others."""
    x = np.random.default_rng(1).standard_normal((120, 4, FEATURES)).astype(np.float32)
    x[..., 3] *= spread
    return {"x": x}


def model() -> onnx.ModelProto:
    net = Net()
    hidden = net.add("Relu", net.linear("x", FEATURES, FEATURES))
    return finish(net, net.linear(hidden, FEATURES, FEATURES), x=("batch", 4, FEATURES))


def smoothed(spread: float, folder: Path) -> Job:
    return smooth(job(opened(model(), samples(spread), target="auto"), folder))


def test_a_large_channel_is_made_smaller(tmp_path: Path) -> None:
    one = smoothed(200.0, tmp_path)
    factors = parse(one.smoothing["x"])
    assert int(factors.argmax()) == 3
    assert factors[3] > 8 * np.median(factors)


def test_even_channels_are_left_alone(tmp_path: Path) -> None:
    one = smoothed(1.0, tmp_path)
    assert one.smoothing == {}
    for site in one.sites:
        assert not [scheme for schemes in site.space.schemes.values() for scheme in schemes if scheme.smoothed]
        assert any(
            "lower the error" in refusal.reason for refused in site.space.refusals.values() for refusal in refused
        )


def test_only_groups_that_read_smoothed_tensors_keep_the_scheme(tmp_path: Path) -> None:
    one = smoothed(200.0, tmp_path)
    first, second = (group.name for group in one.groups)
    for site in one.sites:
        assert INT8_SMOOTHED in site.space.schemes[first]
        assert (INT8_SMOOTHED in site.space.schemes[second]) == (len(one.smoothing) == 2)


def test_what_is_left_has_a_range_of_its_own(tmp_path: Path) -> None:
    one = smoothed(200.0, tmp_path)
    ranges = calibrate(one)["minmax"]
    low, high = ranges["x.smoothed"]
    assert high - low < (ranges["x"][1] - ranges["x"][0]) / 4
    left = samples(200.0)["x"] / parse(one.smoothing["x"])
    assert left.min() <= low < high <= left.max()


def test_observations_have_both() -> None:
    (seen,) = with_smoothed([{"x": np.array([[2.0, 8.0]], np.float32)}], {"x": "4 8"})
    assert seen["x"].tolist() == [[2.0, 8.0]]
    assert seen["x.smoothed"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("target", ["onnxruntime:cpu", "openvino:cpu"])
def test_a_plan_has_the_factors_that_it_needs(tmp_path: Path, target: str) -> None:
    one = smoothed(200.0, tmp_path)
    first = one.groups[0].name
    with_it = one.plan(one.site(target), {first: Wish(INT8_SMOOTHED, "")}, {}, "")
    assert with_it.smoothing == {"x": one.smoothing["x"]}
    assert one.plan(one.site(target), {}, {}, "").smoothing == {}


def test_one_row_in_ten_thousand_counts(tmp_path: Path) -> None:
    """It alone makes the range, and so the error of all others; a sample of a few hundred rows misses it."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((64, 160, FEATURES)).astype(np.float32)
    x[41, 97, 3] = 400.0
    net = Net()
    wide = finish(net, net.linear("x", FEATURES, FEATURES), x=("batch", 160, FEATURES))
    one = smooth(job(opened(wide, {"x": x[:40]}, calibration={"x": x}), tmp_path))
    factors = parse(one.smoothing["x"])
    assert int(factors.argmax()) == 3 and factors[3] > 8 * np.median(factors)
