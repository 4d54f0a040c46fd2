"""Facts about the machine, from texts that real systems gave, and probes of the real runtime."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from fewbits.doctor import RuntimeState, doctor, run_probe, runtimes
from fewbits.errors import UsageError, WorkerError
from fewbits.formats.scheme import FP32, INT8_STATIC
from fewbits.targets.onnxruntime_probe import (
    OPERATIONS,
    SCHEMES,
    dot_product,
    executed_kernels,
    precision_of,
    probe_model,
)
from fewbits.targets.probe import (
    FEATURES,
    available_cores,
    checked_threads,
    features_among,
    quota_cores,
    read_cpuinfo,
    read_sysctl,
    this_machine,
)
from fewbits.targets.runtime_probe import DotProduct, RuntimeProbe

XEON = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse2 avx2 f16c avx512f avx_vnni avx512_bf16 avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8

processor\t: 1
model name\t: something else
flags\t\t: fpu
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes fphp asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
"""
APPLE = """\
machdep.cpu.brand_string: Apple M2
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 0
"""
MAC_INTEL = """\
machdep.cpu.brand_string: Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz
machdep.cpu.features: FPU SSE4.2 AVX1.0 F16C
machdep.cpu.leaf7_features: BMI1 AVX2
"""


def test_cpuinfo_of_x86() -> None:
    model, features = read_cpuinfo(XEON)
    assert model == "Intel(R) Xeon(R) Platinum 8480+"
    expected = "avx2 f16c avx512f avx_vnni avx512_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16"
    assert features == tuple(expected.split())


def test_cpuinfo_of_arm_has_no_model() -> None:
    assert read_cpuinfo(GRAVITON) == ("", ("dotprod", "i8mm", "bf16", "asimdhp", "sve"))


def test_sysctl_of_macos() -> None:
    assert read_sysctl(APPLE) == ("Apple M2", ("dotprod", "i8mm"))
    assert read_sysctl(MAC_INTEL)[1] == ("avx2", "f16c")


def test_nothing_to_read_is_no_feature() -> None:
    assert read_cpuinfo("") == ("", ())
    assert features_among(["avx", "sse"]) == ()


def test_quota_of_a_container() -> None:
    assert quota_cores("150000 100000\n") == 1.5
    assert quota_cores("max 100000\n") == math.inf
    assert quota_cores("") == math.inf


@pytest.mark.parametrize(("asked", "given"), [(0, 4), (1, 1), (4, 4)])
def test_allowed_threads(asked: int, given: int) -> None:
    assert checked_threads(asked, cores=4) == given


@pytest.mark.parametrize("asked", [-1, 5, 64])
def test_refused_threads_name_the_cores(asked: int) -> None:
    with pytest.raises(UsageError, match=f"{asked} threads asked for, but 4 cores are available; give 1 to 4"):
        checked_threads(asked, cores=4)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_limits_the_cores() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_this_machine_has_versions_of_what_is_installed() -> None:
    machine = this_machine(["numpy", "no-such-package"])
    assert machine.versions["numpy"] == version("numpy")
    assert "no-such-package" not in machine.versions
    assert machine.versions["python"].startswith(f"{sys.version_info.major}.")
    assert machine.cpu
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert set(machine.features) <= set(FEATURES)


# ---- ONNX Runtime


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_probe_models_run_in_the_precision_that_they_ask_for(operation, scheme, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    kernels = executed_kernels(probe_model(operation, scheme, repeats=2).SerializeToString(), tmp_path)
    assert len(kernels) == 2
    assert precision_of(kernels) == ("fp32" if scheme == FP32 else "int8")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_int8_probe_models_compute_what_the_float_ones_do(operation, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import onnxruntime as ort

    x = np.random.default_rng(1).uniform(-1, 1, operation.shape).astype(np.float32)
    exact, rounded = (
        ort.InferenceSession(probe_model(operation, scheme, repeats=1).SerializeToString()).run(None, {"x": x})[0]
        for scheme in (FP32, INT8_STATIC)
    )
    inside = np.abs(exact) < 3.9
    assert np.corrcoef(exact[inside], rounded[inside])[0, 1] > 0.999


def test_precision_is_mixed_where_kernels_differ() -> None:
    assert precision_of(["QLinearConv", "MatMul"]) == "mixed"
    assert precision_of([]) == "unknown"


def test_dot_products_are_exact_or_the_published_saturation() -> None:
    # oneDNN, "Int8 inference": 255·127·2 is 64770, saturated 32767; with s8 shifted by 128, 32258 becomes 255.
    a, b = np.array([255, 255, 0, 0]), np.array([127, 127, 0, 0])
    unsigned = dot_product("u8 x s8", a.astype(np.uint8), b.astype(np.int8))
    assert unsigned.expected == 64770
    assert unsigned.got in {64770, 32767}
    signed = dot_product("s8 x s8", b.astype(np.int8), b.astype(np.int8))
    assert signed.expected == 32258
    assert signed.got in {32258, 255}
    if "avx512_vnni" in this_machine().features:
        assert not unsigned.saturates
        assert not signed.saturates
    assert DotProduct("u8 x s8", 64770, 32767).saturates


def test_runtimes_are_all_reported() -> None:
    by_name = {report.name: report for report in runtimes()}
    assert set(by_name) == {"onnxruntime", "openvino", "torch"}
    ready = by_name["onnxruntime"]
    assert ready.state is RuntimeState.READY
    assert ready.version == version("onnxruntime")
    assert "CPUExecutionProvider" in ready.providers
    assert len(ready.abilities) == len(OPERATIONS) * len(SCHEMES)
    assert {ability.speedup for ability in ready.abilities} == {None}


def test_doctor_measures_int8_against_float(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_the_products(folder: Path) -> RuntimeProbe:
        found = run_probe(folder)
        return replace(found, models=tuple(m for m in found.models if m.operation == OPERATIONS[0].name))

    monkeypatch.setattr("fewbits.doctor.run_probe", only_the_products)
    report = doctor(block_seconds=0.005)
    (ready,) = (runtime for runtime in report.runtimes if runtime.name == "onnxruntime")
    assert ready.state is RuntimeState.READY
    assert ready.problem == ""
    assert len(ready.abilities) == len(SCHEMES)
    for ability in ready.abilities:
        assert ability.seconds > 0
        assert (ability.speedup is None) == (ability.scheme == "fp32")
        assert ability.verdict in {"", "faster", "slower", "no clear difference"}
    assert "one process per candidate" in report.how


def test_a_probe_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="exit code 1: illegal instruction"):
        run_probe(tmp_path, [sys.executable, "-c", "import sys; sys.exit('illegal instruction')"])
    with pytest.raises(WorkerError, match="no readable findings"):
        run_probe(tmp_path, [sys.executable, "-c", ""])
    with pytest.raises(WorkerError, match=r"within 0 s"):
        run_probe(tmp_path, [sys.executable, "-c", "import time; time.sleep(9)"], seconds=0.1)
