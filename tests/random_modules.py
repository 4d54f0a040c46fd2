"""Random PyTorch modules for laws: layers, functions and joints, wired at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

WIDTH: Final = 8
"""Every tensor is (samples, WIDTH, WIDTH), so that any function can stand behind any other."""


class Attention(nn.Module):
    """Attention over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self.all(x).view(x.shape[0], WIDTH, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(queries, keys, values)
        return found.transpose(1, 2).reshape(x.shape)


_LAYERS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "plain linear": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "conv": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
    "grouped conv": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=4, bias=False),
    "transposed conv": lambda: nn.ConvTranspose1d(WIDTH, WIDTH, 3, padding=1),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "attention": Attention,
    "max pool": lambda: nn.MaxPool1d(3, 1, 1),
    "average pool": lambda: nn.AvgPool1d(3, 1, 1),
    "relu": lambda: nn.ReLU(inplace=True),
}
_FUNCTIONS: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "clip": lambda x: x.clamp(-1, 1),
    "softmax": lambda x: functional.softmax(x, -1, dtype=torch.float32) * WIDTH,
    "root mean square": lambda x: x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 0.1),
    "scale": lambda x: x * 0.5 + 0.25,
    "transpose": lambda x: x.transpose(1, 2),
    "reshape": lambda x: x.reshape(x.shape[0], -1).view(x.shape[0], WIDTH, WIDTH),
    "split": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
}
_JOINTS: Final[Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "add": torch.add,
    "add in place": lambda x, y: x.clone().add_(y),
    "gate": lambda x, y: x * torch.sigmoid(y),
    "product": lambda x, y: (x * y).clamp(-4, 4),
    "cat": lambda x, y: torch.cat([x[..., : WIDTH // 2], y[..., WIDTH // 2 :]], -1),
    "matmul": lambda x, y: torch.matmul(x, y) / WIDTH,
}


@dataclass(frozen=True)
class Step:
    """What is done to the tensors at `places`, counted from the last."""

    name: str
    places: tuple[int, ...]


class Wired(nn.Module):
    """`steps` one after the other; the last two tensors are given back."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleDict({
            str(place): _LAYERS[step.name]() for place, step in enumerate(steps) if step.name in _LAYERS
        })  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(samples, WIDTH, WIDTH) to two of the same shape."""
        tensors = [x, x * 0.5]
        for place, step in enumerate(self.steps):
            first, *rest = (tensors[-1 - back] for back in step.places)
            if step.name in _LAYERS:
                # Some layers work in place.
                tensors.append(self.layers[str(place)](first.clone()))
            elif step.name in _FUNCTIONS:
                tensors.append(_FUNCTIONS[step.name](first))
            else:
                tensors.append(_JOINTS[step.name](first, *rest))
        return tensors[-1], tensors[-2]

    def extra_repr(self) -> str:
        """The steps: what hypothesis shows of a module that breaks a law."""
        return "; ".join(f"{step.name} {step.places}" for step in self.steps)


@st.composite
def modules(draw: st.DrawFn, most: int = 8) -> Wired:
    """Up to `most` steps over recent tensors, with weights and statistics of batch norms at random."""
    steps = []
    for place in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from([*_LAYERS, *_FUNCTIONS, *_JOINTS]))
        recent = st.integers(0, min(place + 1, 2))
        steps.append(Step(name, tuple(draw(recent) for _ in range(2 if name in _JOINTS else 1))))
    torch.manual_seed(draw(st.integers(0, 1000)))
    module = Wired(tuple(steps)).eval()
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm1d):
            inner.running_mean.normal_(0, 0.3)
            inner.running_var.uniform_(0.5, 2)
    return module
