"""Models on disk: one file, or two where weights are not in one piece with the model; both whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

import builders
import fewbits.flow
from conversion import planned, run
from fewbits.cli import main
from fewbits.errors import StorageError, UsageError
from fewbits.flow.saving import save
from fewbits.models import open_model
from fewbits.models.protocol import Artifact

posix = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")


def outside(folder: Path) -> Path:
    path = folder / "model.onnx"
    net = builders.Net()
    y = net.add("MatMul", "x", net.weight(builders.FEATURES, 96))
    y = net.add("MatMul", net.add("Relu", y), net.weight(96, 96))
    proto = net.model({"x": (1, ("batch", builders.FEATURES))}, {"y": (y, ("batch", 96))})
    onnx.save(proto, path, save_as_external_data=True, location="model.bin", size_threshold=0)
    return path


def tuned(path: Path) -> Artifact:
    model = open_model(path)
    plan = planned(model, builders.features(8))
    (path.parent / "plan.json").write_text(plan.to_json())
    return model.converted(plan)


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_in_one_piece_there_is_one_file(tmp_path: Path) -> None:
    assert save(Artifact(b"whole"), tmp_path / "a.onnx") == (tmp_path / "a.onnx",)
    assert names(tmp_path) == {"a.onnx"} and (tmp_path / "a.onnx").read_bytes() == b"whole"


def test_weights_lie_beside_the_model_under_its_name(tmp_path: Path) -> None:
    made = tuned(outside(tmp_path))
    files = save(made, tmp_path / "small.onnx")
    assert files == (tmp_path / "small.onnx.data", tmp_path / "small.onnx")
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in files:
        file.rename(moved / file.name)
    given = builders.features(4)
    assert np.array_equal(run(open_model(moved / "small.onnx").original(), given)["y"], run(made, given)["y"])


def test_the_original_s_own_files_are_not_written_over(tmp_path: Path) -> None:
    path = outside(tmp_path)
    made = tuned(path)
    (tmp_path / "model.bin").rename(tmp_path / "small.onnx.data")
    moved = onnx.load(path, load_external_data=False)
    for tensor in moved.graph.initializer:
        tensor.external_data[0].value = "small.onnx.data"
    onnx.save(moved, path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    for artifact in (tuned(path), open_model(path).original()):
        with pytest.raises(UsageError, match=r"small\.onnx\.data is a file of the original model"):
            save(artifact, tmp_path / "small.onnx")
        with pytest.raises(UsageError, match=r"model\.onnx is a file of the original model"):
            save(artifact, path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert made.size > 0


@pytest.mark.parametrize("fails", [1, 2])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    made = tuned(outside(tmp_path))
    for name in ("small.onnx", "small.onnx.data"):
        (tmp_path / name).write_bytes(b"before")
    before, calls = names(tmp_path), []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fails:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save(made, tmp_path / "small.onnx")
    assert names(tmp_path) == before
    assert all((tmp_path / name).read_bytes() == b"before" for name in ("small.onnx", "small.onnx.data"))


@posix
def test_no_room_for_temporary_weights_is_said(tmp_path: Path) -> None:
    path = outside(tmp_path)
    tuned(path)
    script = """
        import resource, sys
        from pathlib import Path
        import fewbits.flow
        from fewbits.errors import StorageError
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        try:
            fewbits.flow.convert(Path(sys.argv[1]), Path(sys.argv[2]))
        except StorageError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path), str(tmp_path / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "write a weight of" in done.stdout and "TMPDIR" in done.stdout


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_convert_writes_both_and_asks_before_it_overwrites_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, plan, out = outside(tmp_path), tmp_path / "plan.json", tmp_path / "out.onnx"
    tuned(path)
    (tmp_path / "out.onnx.data").write_bytes(b"somebody's")
    words = ("convert", str(path), "--plan", str(plan), "--out", str(out))
    assert command(*words) == 2
    assert "out.onnx.data" in capsys.readouterr().err
    assert not out.exists() and (tmp_path / "out.onnx.data").read_bytes() == b"somebody's"
    assert command(*words, "--force") == 0
    assert "out.onnx and" in capsys.readouterr().out.replace("\n", " ")
    given = builders.features(4)
    expected = run(fewbits.flow.convert(path, plan), given)["y"]
    assert np.array_equal(run(open_model(out).original(), given)["y"], expected)
