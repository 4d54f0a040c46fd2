"""A converted module runs in a C++ program, by an AOTInductor package."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor import config

from fewbits import package
from fewbits.errors import ModelError, UsageError
from fewbits.formats.scheme import BF16, INT8_STATIC, INT8_TOKENS
from fewbits.grouping import group
from fewbits.models.pytorch.converted import Converted
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from torch_nets import plan_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "cpp" / "aoti_run.cpp"
COMPILER = shutil.which("g++")
QUICK = {
    "aot_inductor.precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "cpp.vec_isa_ok": True,
    "cpp.simdlen": 0,
}
"""What makes compiling fast instead of its result."""


def converted() -> Converted:
    """A layer each in bf16, int8 with a fixed range, and int8 with one for each token."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model = TorchModel.of(net, {"input": torch.randn(3, 8)})
    layers = {one.name: one for one in group(model.graph) if one.is_product}
    schemes = dict(zip(layers, (BF16, INT8_STATIC, INT8_TOKENS), strict=True))
    choices = {name: Choice(str(scheme), "test") for name, scheme in schemes.items()}
    ranges = {layers[name].operands[0]: (0.0, 4.0) for name, scheme in schemes.items() if scheme.is_static}
    return model.module(Plan(model.sha256, choices, ranges))


@pytest.mark.timeout(600)  # a minute, unless compilers wait for each other
@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler stack's own
def test_a_program_without_python_gives_what_the_module_does(tmp_path: Path) -> None:
    module = converted()
    with config.patch(QUICK):
        found = package(module, tmp_path / "model.pt2")
    program = build(tmp_path)
    # Another number of samples than the module was exported with.
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    x.tofile(tmp_path / "input.f32")
    command = [program, found, tmp_path / "input.f32", "5,8", tmp_path / "output.f32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "20 numbers\n"
    expected = module(torch.from_numpy(x))
    assert isinstance(expected, torch.Tensor)
    assert np.allclose(np.fromfile(tmp_path / "output.f32", np.float32).reshape(5, 4), expected, atol=0.02)
    wrong = subprocess.run([*command[:3], "6,8", command[4]], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "does not hold exactly 48" in wrong.stderr


def build(folder: Path) -> Path:
    """The example, built as its README says."""
    home = Path(torch.__file__).parent
    program = folder / "aoti_run"
    words = ["-std=c++20", "-O0", f"-I{home}/include", f"-I{home}/include/torch/csrc/api/include", str(EXAMPLE)]
    words += [f"-L{home}/lib", f"-Wl,-rpath,{home}/lib", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(program)]
    assert COMPILER is not None
    done = subprocess.run([COMPILER, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return program


def test_what_only_python_computes_is_refused(tmp_path: Path) -> None:
    model = TorchModel.of(nn.Conv2d(3, 4, 3), {"input": torch.randn(3, 3, 8, 8)})
    with pytest.raises(ModelError, match=r"computes by int8_conv, operators of fewbits .*save the model as ONNX"):
        package(
            model.module(replace(plan_of(model, INT8_STATIC), ranges={"input": (-3.0, 3.0)})), tmp_path / "model.pt2"
        )


def test_only_converted_modules_are_packaged(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no converted module"):
        package(nn.Linear(2, 2), tmp_path / "model.pt2")
    with pytest.raises(UsageError, match=r"model\.pt2"):
        package(converted(), tmp_path / "model.so")
