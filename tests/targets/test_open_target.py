"""The door to runtimes: names, short names, what is installed, and what to do about what is not."""

from __future__ import annotations

from collections.abc import Collection
from importlib.machinery import ModuleSpec

import pytest

from fewbits import targets
from fewbits.errors import TargetError, UsageError
from fewbits.targets import TARGETS, installed, open_target, open_targets
from fewbits.targets.onnxruntime import OnnxRuntime
from fewbits.targets.openvino import OpenVino


def only(monkeypatch: pytest.MonkeyPatch, packages: Collection[str]) -> None:
    """Let only `packages` be installed."""

    def find(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in packages else None

    monkeypatch.setattr(targets, "find_spec", find)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_the_name_it_was_opened_by(name: str) -> None:
    assert open_target(name, 1).name == name
    assert open_target(name.partition(":")[0], 1) == open_target(name, 1)
    assert open_target(name, 1).threads == 1
    assert name.partition(":")[0] in open_target(name, 1).machine.versions


def test_auto_is_every_installed_runtime_or_the_first() -> None:
    assert installed() == TARGETS
    assert open_targets("auto", 1) == (OnnxRuntime(1), OpenVino(1))
    assert open_target("auto", 1) == OnnxRuntime(1)
    assert open_targets("openvino", 1) == (OpenVino(1),)


def test_auto_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ["openvino"])
    assert installed() == ("openvino:cpu",)
    assert open_target("auto", 1) == OpenVino(1)
    assert open_targets("auto", 1) == (OpenVino(1),)


@pytest.mark.parametrize("text", ["openvino", "openvino:cpu"])
def test_a_runtime_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    only(monkeypatch, ["onnxruntime"])
    with pytest.raises(
        TargetError, match=r"openvino:cpu needs the package openvino: pip install 'fewbits\[openvino\]'"
    ):
        open_target(text)
    assert open_targets("auto", 1) == (OnnxRuntime(1),)


def test_no_runtime_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, [])
    for text in ("auto", "onnxruntime"):
        with pytest.raises(TargetError, match="needs the package onnxruntime: pip install onnxruntime"):
            open_target(text)
    with pytest.raises(TargetError, match="pip install"):
        open_targets("auto")


@pytest.mark.parametrize("text", ["", "cpu", "tensorrt", "onnxruntime:cuda", "OpenVINO:CPU"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(TargetError, match=r"unknown target .*; choose auto or onnxruntime:cpu, openvino:cpu"):
        open_target(text)
    with pytest.raises(TargetError, match="unknown target"):
        open_targets(text)


def test_a_near_miss_is_guessed() -> None:
    with pytest.raises(TargetError, match=r"did you mean openvino:cpu\?"):
        open_target("openvno:cpu")
    with pytest.raises(TargetError, match=r"did you mean onnxruntime:cpu\?"):
        open_target("onnxrt:cpu")


@pytest.mark.parametrize("name", TARGETS)
def test_more_threads_than_cores(name: str) -> None:
    with pytest.raises(UsageError):
        open_target(name, 100_000)
