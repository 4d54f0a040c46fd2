"""One way to train one small network, timed in blocks on request: what `training_speed.py` runs a process of each.

Imports torch alone, and fewbits or qtorch where the way is theirs, so that it runs in an environment of a peer.

    python benchmarks/training_speed_worker.py NET WAY THREADS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization

Once = Callable[[], None]
Task = tuple[nn.Module, torch.Tensor, torch.Tensor]

LEAST_CALLS = 3
PAUSE = 0.05  # seconds, after which threads that wait for more work have gone to sleep
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


class Block(nn.Module):
    """A block of a transformer: attention and a network of two layers, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) to the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.before(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


def cnn() -> Task:
    """Four convolutions with batch norm on 64 images of 32x32."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for ins, outs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
        layers += [nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return model, torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))


def transformer() -> Task:
    """Four layers of width 256 on 8 sequences of 128."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(256, 4) for _ in range(4)), nn.LayerNorm(256), nn.Linear(256, 32))
    return model, torch.randn(8, 128, 256), torch.randint(0, 32, (8 * 128,))


NETS = {"cnn": cnn, "transformer": transformer}


def plain(task: Task, low: torch.dtype | None = None, after: Once = lambda: None) -> Once:
    """A step as it is written by hand, under autocast if `low` is given; `after` is done behind the update."""
    model, x, y = task
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9)

    def once() -> None:
        with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
            out = model(x)
        functional.cross_entropy(out.float().reshape(len(y), -1), y).backward()
        optimizer.step()
        after()
        optimizer.zero_grad(set_to_none=True)

    return once


def ours(task: Task, recipe: str) -> Once:
    """A step of fewbits."""
    from fewbits import training

    model, x, y = task
    low, step = training.prepare(model, torch.optim.SGD(model.parameters(), 1e-3, 0.9), recipe)

    def once() -> None:
        step(functional.cross_entropy(low(x).reshape(len(y), -1), y))

    return once


def peer(task: Task, like: str) -> Once:
    """A step with the quantisers of qtorch around the operands that the recipe `like` casts, rounded as it says.

    qtorch has no scales for tensors, so those of fp8_hybrid_current are left out, and so is the loss scale.
    """
    from qtorch import FloatingPoint
    from qtorch.quant import Quantizer, float_quantize, quantizer

    model = task[0]
    e5m2, e4m3 = FloatingPoint(exp=5, man=2), FloatingPoint(exp=4, man=3)
    mellempudi = like == "fp8_mellempudi"

    def before() -> nn.Module:
        # The input; on the way back the error that leaves.
        return Quantizer(e5m2, e5m2, "nearest", "stochastic") if mellempudi else Quantizer(e4m3, None, "nearest")

    def behind() -> nn.Module:
        # The output; on the way back the error that arrives.
        both = Quantizer(e5m2, e5m2, "nearest", "stochastic")
        return both if mellempudi else Quantizer(None, e5m2, "nearest", "nearest")

    class Weight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            low = quantizer(e5m2, e5m2, "nearest", "stochastic") if mellempudi else quantizer(e4m3, None, "nearest")
            self.low = low

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return self.low(weight)

    found = [(name, layer) for name, layer in model.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    for name, layer in found[1:-1] if mellempudi else found:
        register_parametrization(layer, "weight", Weight())
        parent, _, last = name.rpartition(".")
        model.get_submodule(parent).add_module(last, nn.Sequential(before(), layer, behind()))

    def master() -> None:
        for parameter in model.parameters():
            parameter.data = float_quantize(parameter.data, 5, 10, "stochastic")

    return plain(task, after=master) if mellempudi else plain(task)


def way_of(net: str, way: str) -> Once:
    """One step of `net` by `way`."""
    task = NETS[net]()
    if way in ("fp32", "autocast"):
        return plain(task, torch.bfloat16 if way == "autocast" else None)
    if way.startswith("qtorch "):
        return peer(task, way.removeprefix("qtorch "))
    return ours(task, RECIPES[way])


def main() -> None:
    """Answer every line, which holds seconds, with those of each call of a block of at least so long."""
    net, way, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    once = way_of(net, way)
    for _ in range(3):
        once()
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        once()  # what was in the caches is not any more
        least, seconds = float(line), []
        while len(seconds) < LEAST_CALLS or sum(seconds) < least:
            begun = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - begun)
        time.sleep(PAUSE)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
