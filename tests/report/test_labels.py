"""Short names of schemes in reports."""

from __future__ import annotations

import pytest

from fewbits.formats.scheme import INT8_STATIC
from fewbits.report.labels import scheme_labels
from fewbits.targets import pytorch


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        ("fp32", "fp32"),
        ("tf32", "tf32"),
        (str(INT8_STATIC), "int8"),
        ("w:int8r/channel", "w8"),
        ("w:uint4/g128@0 smoothed", "w4~"),
        ("w:int4r/channel a:uint8/tensor", "w4a8"),
        ("w:int8r/channel a:uint8/token dynamic smoothed", "int8d~"),
        ("w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic", "fp8d"),
        ("w:fp8_e4m3/tensor", "wfp8"),
        ("w:ternary/g16@0 a:uint8/tensor", "wternary/g16@0a8"),
    ],
)
def test_a_label_says_what_is_narrow(scheme: str, label: str) -> None:
    assert scheme_labels([scheme]) == {scheme: label}


@pytest.mark.parametrize("device", pytorch._SCHEMES)
def test_whatever_a_device_is_offered_has_a_label_of_its_own(device: str) -> None:
    offered = [str(one) for one in (*pytorch._SCHEMES[device], *pytorch._SMOOTHED[device])]
    labels = scheme_labels(offered)
    assert len(set(labels.values())) == len(offered)
    assert max(map(len, labels.values())) <= 8
