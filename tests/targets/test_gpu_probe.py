"""CUDA devices, from texts that the driver's tool gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewbits.machine import Gpu
from fewbits.targets.gpu_probe import gpus, read_query


def test_devices_are_read() -> None:
    assert read_query("NVIDIA H200, 9.0\nNVIDIA GeForce RTX 5090, 12.0\n") == (
        Gpu("NVIDIA H200", (9, 0)),
        Gpu("NVIDIA GeForce RTX 5090", (12, 0)),
    )


@pytest.mark.parametrize("text", ["", "No devices were found\n", "Tesla K80, [N/A]\n", "ERROR: field is not valid\n"])
def test_what_names_no_capability_is_left_out(text: str) -> None:
    assert read_query(text) == ()


def test_architecture_is_written_as_compilers_do() -> None:
    assert [Gpu("", (9, 0)).architecture, Gpu("", (12, 0)).architecture] == ["sm_90", "sm_120"]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA H200, 9.0'", (Gpu("NVIDIA H200", (9, 0)),)),
        ("echo 'NVIDIA-SMI has failed, 1.0'; exit 9", ()),
    ],
)
def test_the_driver_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: tuple[Gpu, ...]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus() == found


def test_without_a_driver_there_is_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()
