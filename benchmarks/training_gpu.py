"""Low-precision training on one NVIDIA GPU with FP8 tensor cores: laws first, then tokens per second.

Needs torch, triton and numpy alone. Every row stands for itself: one that fails is stored with its error, one for
which no time is left as left out. The file is written after every row.

    python benchmarks/training_gpu.py --out training_gpu.json              # Hopper or newer, under 150 s
    python benchmarks/training_gpu.py --dry --device cpu --small           # anywhere, tiny sizes, stores nothing
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from torch import nn
from torch.nn import functional

from fewbits import training
from fewbits.__about__ import VERSION
from fewbits.formats.floating import E4M3
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.rounding import NoiseKey
from fewbits.training import hardware
from fewbits.training.accumulation import Accumulation
from fewbits.training.hardware import Operand
from fewbits.training.lowering import lowering_of
from fewbits.training.sums import product

Numbers = dict[str, float | int | str | bool]

HARDWARE_RECIPES = ("fp8_hybrid_current", "fp8_rowwise")
CASTS = ("fp8_e4m3", "fp8_e5m2", "fp8_e4m3/tensor", "mxfp8_e4m3-rceil", "nvfp4", "fp8_e4m3/g128/pow2-rceil")


@dataclass(frozen=True)
class Size:
    """A GPT: `layers` blocks of `width`, sequences of `length` in batches of `batch`."""

    name: str
    layers: int
    width: int
    heads: int
    batch: int
    length: int
    words: int


@dataclass(frozen=True)
class Setting:
    """Where and how much."""

    device: torch.device
    small: bool
    deadline: float
    calls: int

    @property
    def sizes(self) -> tuple[Size, ...]:
        """What is trained for speed."""
        if self.small:
            return (Size("tiny", 2, 64, 2, 2, 32, 64),)
        return (
            Size("gpt2", 12, 768, 12, 16, 1024, 50304),
            # Blocks of a model of about 1B parameters (20 of them would be 1.0B).
            Size("blocks_1b", 6, 2048, 16, 8, 2048, 0),
        )


class Block(nn.Module):
    """A block of a GPT: attention and a network of two layers, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) to the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.before(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x)), approximate="tanh"))


class Gpt(nn.Module):
    """Blocks, between an embedding and a head if there are words."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.words, size.width) if size.words else nn.Identity()
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.words, bias=False) if size.words else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Words, or (batch, length, width), to scores of words, or to the same."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


# ---- laws


def law_casts(setting: Setting) -> Iterator[Numbers]:
    """Casts on the device give the bits of casts on the CPU."""
    torch.manual_seed(0)
    x = torch.randn(256, 1024) * torch.logspace(-8, 6, 1024)
    x[0, :4] = torch.tensor([0.0, -0.0, 448.0, 465.0])
    for format in CASTS:
        for rounding, key in (("nearest_even", None), ("stochastic", NoiseKey(7, 3, 5))):
            here = fake_quantize(x, format, rounding=rounding, key=key)
            there = fake_quantize(x.to(setting.device), format, rounding=rounding, key=key).cpu()
            differ = int((here.view(torch.int32) != there.view(torch.int32)).sum())
            yield {"format": format, "rounding": rounding, "elements": x.numel(), "differ": differ, "holds": not differ}


def law_operands(setting: Setting) -> Iterator[Numbers]:
    """The casts of the hardware's path are those of the formats."""
    torch.manual_seed(1)
    x = (torch.randn(512, 512) * torch.logspace(-3, 3, 512)).to(setting.device)
    for rows, power, format in (
        (False, False, "fp8_e4m3/tensor"),
        (True, True, "fp8_e4m3/token/pow2-rceil"),
        (True, False, "fp8_e4m3/token"),
    ):
        operand = Operand(E4M3, rows, power)
        wanted = fake_quantize(x, format)
        for compiled in (False,) if setting.small else (False, True):
            call = torch.compile(operand.__call__) if compiled else operand
            codes, scale = call(x)
            found = codes.float() * scale
            differ = float((found != wanted).float().mean())
            worst = float(((found - wanted).abs() / wanted.abs().clamp_min(1e-30)).max())
            yield {"format": format, "compiled": compiled, "share_differing": differ, "worst": worst,
                   "holds": differ == 0 if not compiled else differ < 1e-2}  # fmt: skip


def law_products(setting: Setting) -> Iterator[Numbers]:
    """Products of the hardware agree with fp32 products of the same codes, within its accumulator and bfloat16."""
    for recipe in HARDWARE_RECIPES:
        how = hardware.float8_linear(training.recipe(recipe))
        assert how is not None
        for rows, columns, depth in ((32, 48, 256),) if setting.small else ((256, 512, 1024), (128, 256, 4096)):
            torch.manual_seed(2)
            x = torch.randn(rows, depth, device=setting.device)
            weight = torch.randn(columns, depth, device=setting.device) / depth**0.5
            left, right = how.operands[2](x), how.operands[0](weight)
            wanted = (left[0].float() * left[1]) @ (right[0].float() * right[1]).t()
            for fast in (True, False):
                out = hardware.scaled_product(left, right, fast).float()
                error = float((out - wanted).norm() / wanted.norm())
                yield {"recipe": recipe, "depth": depth, "fast": fast, "relative_error": error, "holds": error < 1e-2}


def law_accumulator(setting: Setting) -> Iterator[Numbers]:
    """Which of our models of the accumulator gives the hardware's bits: float32 out, one scale, all products positive
    and of either sign."""
    one = torch.ones((), device=setting.device)
    for positive in (False, True):
        for depth in (128,) if setting.small else (32, 128, 1024, 4096):
            torch.manual_seed(3)
            a = torch.randn(64, depth)
            b = torch.randn(64, depth)
            a, b = (x.abs() if positive else x for x in (a, b))
            left, right = (x.clamp(-448, 448).to(torch.float8_e4m3fn) for x in (a, b))
            exact = left.double() @ right.double().t()
            texts = ("fp32", "hopper", "hopper@32", "hopper@64", "hopper@128", "hopper@256", "fp32@128")
            models = {text: product(left.float(), right.float().t(), Accumulation.parse(text)) for text in texts}
            for fast in (True, False):
                out = torch._scaled_mm(
                    left.to(setting.device), right.to(setting.device).t(), scale_a=one, scale_b=one,
                    out_dtype=torch.float32, use_fast_accum=fast,
                ).cpu()  # fmt: skip
                row: Numbers = {"positive": positive, "depth": depth, "fast": fast,
                                "bias": float(((out - exact) / exact.abs().mean()).mean()),
                                "error": float((out - exact).norm() / exact.norm())}  # fmt: skip
                for text, model in models.items():
                    row[f"equal_{text}"] = float((model == out).float().mean())
                    row[f"error_{text}"] = float((model - exact).norm() / exact.norm())
                yield row


def law_trains(setting: Setting, recipe: str) -> Iterator[Numbers]:
    """A recipe trains: a few steps on the device lower the loss, and none is skipped for good."""
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, 16),
    ).to(setting.device)  # fmt: skip
    x, y = torch.randn(64, 4, 8, 8, device=setting.device), torch.randint(0, 16, (64,), device=setting.device)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    low, step = training.prepare(net, optimizer, recipe=recipe, planned=20)
    started, losses, skipped = time.perf_counter(), [], 0
    for _ in range(2 if setting.small else 12):
        loss = functional.cross_entropy(low(x), y)
        skipped += not step(loss).stepped
        losses.append(float(loss.detach()))
    real = not lowering_of(low).emulated and hardware.float8_linear(step.recipe) is not None
    yield {"recipe": recipe, "first": losses[0], "last": losses[-1], "skipped": skipped, "hardware": real,
           "seconds": time.perf_counter() - started, "holds": setting.small or losses[-1] < losses[0]}  # fmt: skip


# ---- speed


def speed(setting: Setting, size: Size, form: str, compiled: bool) -> Iterator[Numbers]:
    """Tokens per second of training in one form: bfloat16 parameters, fused AdamW, blocks compiled one by one."""
    torch.manual_seed(5)
    model = Gpt(size).to(setting.device, torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=setting.device.type == "cuda")
    trained = _formed(model, form)
    if compiled:
        for block in trained.blocks:
            block.compile()
    if size.words:
        x = torch.randint(0, size.words, (size.batch, size.length), device=setting.device)
    else:
        x = torch.randn(size.batch, size.length, size.width, device=setting.device, dtype=torch.bfloat16)

    def once() -> torch.Tensor:
        out = trained(x)
        loss = functional.cross_entropy(out.flatten(0, 1), x.flatten()) if size.words else out.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    started = time.perf_counter()
    for _ in range(3):
        loss = once()
    _wait(setting)
    warm = time.perf_counter() - started
    seconds = []
    for _ in range(setting.calls):
        begun = time.perf_counter()
        loss = once()
        _wait(setting)
        seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**30 if setting.device.type == "cuda" else 0.0
    tokens = size.batch * size.length
    yield {"size": size.name, "form": form, "compiled": compiled, "parameters": parameters, "tokens": tokens,
           "seconds_per_step": median(seconds), "fastest": min(seconds), "slowest": max(seconds),
           "tokens_per_second": tokens / median(seconds), "warm_up_seconds": warm, "peak_gib": peak,
           "loss": float(loss)}  # fmt: skip
    torch._dynamo.reset()


def _formed(model: nn.Module, form: str) -> nn.Module:
    library, _, recipe = form.partition(":")
    if library == "torch":
        return model
    if library == "fewbits":
        # The head stays as it is in every form.
        known = training.recipe(recipe)
        own = training.Recipe(known.name, known.cells, known.scaler, keep=("name:head",))
        return training.lower(model, own)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name(recipe)
    return convert_to_float8_training(model, config=config, module_filter_fn=lambda _, name: "head" not in name)


def _wait(setting: Setting) -> None:
    if setting.device.type == "cuda":
        torch.cuda.synchronize()


# ---- rows


def rows(setting: Setting) -> Iterator[tuple[str, Callable[[], Iterator[Numbers]]]]:
    """Name of every row and what computes it, in the order in which they matter."""
    yield "law: casts", partial(law_casts, setting)
    yield "law: operands", partial(law_operands, setting)
    yield "law: products", partial(law_products, setting)
    yield "law: accumulator", partial(law_accumulator, setting)
    for recipe in ("amp_bf16", "amp_fp16", *HARDWARE_RECIPES):
        yield f"trains: {recipe}", partial(law_trains, setting, recipe)
    forms = ["torch:bf16", *(f"fewbits:{recipe}" for recipe in HARDWARE_RECIPES)]
    if find_spec("torchao") is not None:
        forms += ["torchao:tensorwise", "torchao:rowwise"]
    for size in reversed(setting.sizes):
        for form in forms:
            yield f"speed: {size.name} {form}", partial(speed, setting, size, form, not setting.small)
    for recipe in ("fp8_mellempudi", "fp8_hybrid_delayed", "mxfp8_rceil", *training.names()):
        yield f"trains: {recipe}", partial(law_trains, setting, recipe)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("training_gpu.json"))
    options.add_argument("--device", default="cuda")
    options.add_argument("--small", action="store_true", help="tiny sizes, eager")
    options.add_argument("--dry", action="store_true", help="store nothing")
    options.add_argument("--seconds", type=float, default=115.0, help="no row begins after that many")
    options.add_argument("--calls", type=int, default=10)
    options.add_argument("--only", default="", help="a regular expression: rows whose name it finds")
    given = options.parse_args()
    started = time.perf_counter()
    device = torch.device(given.device)
    setting = Setting(device, given.small, started + given.seconds, 2 if given.small else given.calls)
    results: list[dict[str, object]] = []
    done: set[str] = set()
    for name, compute in rows(setting):
        if name in done or not re.search(given.only, name):
            continue
        done.add(name)
        begun = time.perf_counter()
        row: dict[str, object] = {"row": name}
        if begun > setting.deadline:
            row["left_out"] = "no time left"
        else:
            try:
                row["found"] = list(compute())
            except Exception as error:  # noqa: BLE001  (whatever fails, the other rows are wanted)
                row["error"] = f"{type(error).__name__}: {str(error)[:2000]}"
            row["seconds"] = time.perf_counter() - begun
        results.append(row)
        print(json.dumps(row), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if not given.dry:
            _store(given.out, setting, results)
    broken = [row["row"] for row in results if "error" in row]
    print(f"{len(results)} rows in {time.perf_counter() - started:.0f} s, {len(broken)} failed: {broken}")


def _store(path: Path, setting: Setting, results: list[dict[str, object]]) -> None:
    cuda = setting.device.type == "cuda"
    whole = {
        "command": f"python {shlex.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda),
                     "fewbits": VERSION},
        "rows": results,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(whole, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    main()
