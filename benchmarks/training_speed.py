"""What emulated low precision costs in training on the CPU, side by side in one process, form after form in turn.

Forms: fp32; hand-written ``torch.autocast``; recipes of fewbits; qtorch, where installed (its ``Quantizer`` around
every layer with a product: 5 exponent and 2 mantissa bits, nearest forward and stochastic backward). A figure is the
median over rounds of the ratio to fp32 (to autocast for ``amp_bf16``) with its smallest and largest round.

    python benchmarks/training_speed.py [--rounds 15] [--threads 2] [--out benchmarks/results/training_speed.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization

from fewbits import training

Once = Callable[[], None]

FP16 = (
    "recipe: fp16; weight forward: fp16; activation forward: fp16; error backward: fp16 nonsaturate; "
    "error output: fp16 nonsaturate; scaler: {}"
)
RECIPES = {
    "fp8_hybrid_current": "fp8_hybrid_current",
    "fp8_mellempudi": "fp8_mellempudi",
    "mxfp8_rceil": "mxfp8_rceil",
    "amp_bf16": "amp_bf16",
    "fp16 dynamic": FP16.format("dynamic"),
    "fp16 layer_adaptive": FP16.format("layer_adaptive period=1000"),
}
COMPARED = {"amp_bf16": "autocast", "fp16 layer_adaptive": "fp16 dynamic"}


def cnn() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Four convolutions with batch norm on 32x32 images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for ins, outs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
        layers += [nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return model, torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))


def transformer() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Four layers of width 256 on sequences of 128."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(256, 32))
    return model, torch.randn(8, 128, 256), torch.randint(0, 32, (8 * 128,))


NETS = {"cnn": cnn, "transformer": transformer}


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor, low: torch.dtype | None) -> Once:
    """A step as it is written by hand, under autocast if `low` is given."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9)

    def once() -> None:
        with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
            out = model(x)
        functional.cross_entropy(out.float().reshape(len(y), -1), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor, recipe: str) -> Once:
    """A step of fewbits."""
    low, step = training.prepare(model, torch.optim.SGD(model.parameters(), 1e-3, 0.9), recipe)

    def once() -> None:
        step(functional.cross_entropy(low(x).reshape(len(y), -1), y))

    return once


def peer(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Once:
    """A step with qtorch: weights, inputs and gradients of layers with products in E5M2."""
    from qtorch import FloatingPoint
    from qtorch.quant import Quantizer, quantizer

    eight = FloatingPoint(exp=5, man=2)
    nearest = quantizer(forward_number=eight, forward_rounding="nearest")

    class Weight(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + (nearest(weight) - weight).detach()

    def around(layer: nn.Module) -> nn.Module:
        register_parametrization(layer, "weight", Weight())
        both = Quantizer(eight, eight, "nearest", "stochastic")
        return nn.Sequential(Quantizer(eight, eight, "nearest", "stochastic"), layer, both)

    for name, layer in list(model.named_modules()):
        if type(layer) in (nn.Linear, nn.Conv2d):
            parent, _, last = name.rpartition(".")
            model.get_submodule(parent).add_module(last, around(layer))
    return plain(model, x, y, None)


def forms(net: str) -> dict[str, Once]:
    """Form → one step of it, each with a model of its own."""
    make = NETS[net]
    found = {"fp32": plain(*make(), None), "autocast": plain(*make(), torch.bfloat16)}
    found |= {name: ours(*make(), recipe) for name, recipe in RECIPES.items()}
    # Attention of torch reads the weights of its projections itself, so that qtorch's layers do not fit around them.
    if find_spec("qtorch") is not None and net == "cnn":
        found["qtorch"] = peer(*make())
    return found


def measure(once: dict[str, Once], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every form; forms take turns, in another order each round."""
    seconds: dict[str, list[float]] = {name: [] for name in once}
    for call in once.values():
        for _ in range(2):
            call()
    names = list(once)
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            begun = time.perf_counter()
            once[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, object] = {}
    for net in NETS:
        seconds = measure(forms(net), given.rounds)
        rows = {}
        for name, mine in seconds.items():
            against = COMPARED.get(name, "fp32")
            ratios = [a / b for a, b in zip(mine, seconds[against], strict=True)]
            rows[name] = {"median_seconds": median(mine), "against": against, "ratio": median(ratios),
                          "least": min(ratios), "most": max(ratios), "raw": mine}  # fmt: skip
            print(f"{net:<12} {name:<20} {median(mine) * 1e3:9.1f} ms   {median(ratios):6.2f} x {against} "
                  f"[{min(ratios):.2f}, {max(ratios):.2f}]")  # fmt: skip
        found[net] = rows
    if given.out is not None:
        packages = [name for name in ("fewbits", "torch", "numpy", "numba", "qtorch") if find_spec(name) is not None]
        whole = {"command": f"python {shlex.join(sys.argv)}", "date": time.strftime("%Y-%m-%d"),
                 "machine": platform.processor(), "threads": given.threads,
                 "versions": {name: version(name) for name in packages}, "nets": found}  # fmt: skip
        given.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
