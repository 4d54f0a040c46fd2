"""What the README shows works as it stands there."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewbits import Outcome, open_model, open_target
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.formats.scheme import BF16
from fewbits.models.pytorch.model import TorchModel
from timing import Timing
from torch_nets import Residual, plan_of

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for source, name in ((demo_model(), "model.onnx"), (demo_data(), "eval.npz"), (demo_calibration(), "calib.npz")):
        shutil.copy(source, name)
    tuning, own_function, formats = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(tuning, names)
    assert "accuracy" in capsys.readouterr().out
    assert Path("small.onnx").exists() == (names["result"].outcome is Outcome.MET)

    exec(own_function, names)
    with open_target("auto").open(open_model("model.onnx").original()) as session:
        assert names["evaluate"](session) >= 0.98

    exec(formats, names)
    weight, restored = names["weight"], names["restored"]
    assert restored.shape == names["rounded"].shape == weight.shape
    assert names["codes"].nbytes < weight.nbytes / 7
    assert not np.array_equal(names["noisy"], names["rounded"])


def test_the_python_in_the_page_on_formats_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        assert names["restored"].shape == names["weight"].shape


def test_the_python_in_the_page_on_pytorch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: Timing) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "pytorch.md").read_text(encoding="utf-8")
    tuning, carrying, emulating = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module = Residual().eval()
    x = torch.randn(64, 3, 8, 8)
    names: dict[str, Any] = {"model": module, "loader": [x[:32], x[32:]]}
    exec(tuning, names)
    assert names["result"].target
    one = TorchModel.of_items(module, [x])
    names["plan"] = plan_of(one, BF16)
    exec(carrying, names)
    assert names["back"].plan.low == names["plan"].low
    assert torch.allclose(names["converted"](x), module(x), atol=0.1)
    exec(emulating, names)
    plain = module(x).detach()
    assert 0 < float((names["emulated"](x) - plain).norm() / plain.norm()) < 0.5


def test_the_python_in_the_page_on_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    loop, saving, serving = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    data = [(torch.randn(32, 64), torch.randint(0, 10, (32,))) for _ in range(3)]
    names: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "data": data,
        "loss_function": torch.nn.functional.cross_entropy,
        "schedule": torch.optim.lr_scheduler.LinearLR(optimizer),
    }
    exec(loop, names)
    assert names["step"].steps == len(data)
    assert names["status"].stepped

    exec(saving, names)
    (recipe,) = re.findall(r"```\n(recipe:.*?)```", page, re.DOTALL)
    assert names["training"].recipe(recipe).name == "mine"

    exec(serving, names)
    with torch.no_grad():
        assert torch.allclose(names["served"](names["x"]), names["low"](names["x"]), atol=1e-5)
        assert not torch.allclose(model(names["x"]), names["low"](names["x"]), atol=1e-5)


def test_every_command_in_the_table_exists() -> None:
    from fewbits.cli import app

    shown = set(re.findall(r"^\| `fewbits (\w+)", README, re.MULTILINE))
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert shown == commands | {str(group.name) for group in app.registered_groups}


def test_every_file_in_the_table_is_one_of_a_run() -> None:
    from fewbits.store import RunFile

    rows = "".join(re.findall(r"^\| `\w+[.\w]+`.*$", README, re.MULTILINE))
    assert set(re.findall(r"`(\w+\.[.\w]+)`", rows)) == {str(file) for file in RunFile}


def test_every_local_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert not [link for link in links if not (Path(__file__).parents[1] / link).exists()]
