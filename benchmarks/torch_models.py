"""Whole PyTorch models in every precision that a device offers: a ViT-B and a GPT-2, batch 1 and 32.

Every form is one plan: all products in a scheme that can have it, everything else in bf16 (fp32 beside the forms that
are named so). Random weights: what is measured is time, memory, and the error of the outputs against float32 with
float32 products. Seconds per call, median, call by call, inputs on the device; a compiled form stands beside the eager
one as far as the time allows.

    python benchmarks/torch_models.py --device cuda --out torch_models.json     # stops beginning rows after 130 s
    python benchmarks/torch_models.py --device cpu --small                      # tries the script
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, ViTConfig, ViTModel

from fewbits.__about__ import VERSION
from fewbits.eligibility import module_obstacle
from fewbits.formats.scheme import BF16, FP32, Scheme
from fewbits.grouping import group
from fewbits.models.pytorch.converted import Converted, size_of
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan

FORMS: Mapping[str, tuple[str, ...]] = {
    "cuda": (
        "fp32",
        "tf32",
        "bf16",
        "fp16",
        "w:fp8_e4m3/channel a:fp8_e4m3/token dynamic",
        "w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic",
        "w:int8r/channel a:int8r/token dynamic",
        "w:int8r/channel",
        "w:uint4/g128@0",
    ),
    "cpu": ("fp32", "bf16", "w:int8r/channel a:uint8/tensor dynamic", "w:int8r/channel", "w:uint4/g128@0"),
}
COMPILED = ("bf16", "w:fp8_e4m3/channel a:fp8_e4m3/token dynamic", "w:int8r/channel a:int8r/token dynamic", "fp32")


@dataclass(frozen=True)
class Row:
    """One form of one model: `seconds` of every call; `bytes` of its weights, `peak` of the device while it runs."""

    model: str
    batch: int
    form: str
    compiled: bool
    groups: int = 0
    seconds: tuple[float, ...] = ()
    relative_error: float = 0.0
    bytes: int = 0
    peak: int = 0
    failure: str = ""


def vit(small: bool) -> tuple[nn.Module, Callable[[int], dict[str, torch.Tensor]]]:
    """A ViT-B/16 on 224 x 224."""
    size = 32 if small else 224
    config = (
        ViTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, image_size=32)
        if small
        else ViTConfig()
    )
    model = ViTModel(config, add_pooling_layer=False)
    return model, lambda batch: {"pixel_values": torch.randn(batch, 3, size, size)}


def gpt2(small: bool) -> tuple[nn.Module, Callable[[int], dict[str, torch.Tensor]]]:
    """A GPT-2 of 124 million weights, 256 tokens."""
    config = GPT2Config(n_embd=128, n_layer=2, n_head=4, use_cache=False) if small else GPT2Config(use_cache=False)
    length = 16 if small else 256
    return GPT2Model(config), lambda batch: {"input_ids": torch.randint(0, config.vocab_size, (batch, length))}


MODELS = {"vit_b": vit, "gpt2": gpt2}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=130.0, help="no row begins after that many")
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(0)
    if options.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: list[Row] = []
    for row in measured(options.device, options.small, options.calls, lambda: time.perf_counter() - start, options):
        rows.append(row)
        shown = f"{median(row.seconds) * 1e3:9.3f} ms" if row.seconds else row.failure[:150]
        print(
            f"{row.model:6} {row.batch:3} {row.form:46} {'compiled' if row.compiled else 'eager':8} {shown} "
            f"error {row.relative_error:.2g}, {row.bytes / 1e6:.0f} MB, {row.groups} groups",
            flush=True,
        )
        if options.out is not None:
            options.out.write_text(json.dumps(stored(options.device, rows), indent=1))


def stored(device: str, rows: list[Row]) -> object:
    """What is written: rows, and where they were taken."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "command": " ".join(sys.argv),
        "device": name,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "fewbits": VERSION},
        "taken": time.strftime("%Y-%m-%d"),
        "rows": [asdict(row) for row in rows],
    }


def measured(
    device: str, small: bool, calls: int, spent: Callable[[], float], options: argparse.Namespace
) -> Iterator[Row]:
    """Eager forms of all models first, then the compiled ones that matter most."""
    made: dict[tuple[str, str], Converted] = {}
    references: dict[tuple[str, int], torch.Tensor] = {}
    inputs: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    for name, build in MODELS.items():
        module, example = build(small)
        module = module.eval().to(device)
        given = {key: value.to(device) for key, value in example(3).items()}
        model = TorchModel.of(module, given)
        for batch in (1, 32):
            inputs[name, batch] = {key: value.to(device) for key, value in example(batch).items()}
            with torch.no_grad():
                references[name, batch] = module(**inputs[name, batch]).last_hidden_state
        for form in FORMS[device]:
            if spent() > options.seconds:
                continue
            try:
                made[name, form] = model.module(plan_for(model, Scheme.parse(form)))
            # Whatever a kernel says, it is a row of the table.
            except Exception as error:  # noqa: BLE001
                yield Row(name, 0, form, compiled=False, failure=f"{type(error).__name__}: {error}"[:400])
                continue
            for batch in (1, 32):
                yield row_of(name, batch, form, made[name, form], inputs, references, calls, device, compiled=False)
    for form in COMPILED:
        for name in MODELS:
            for batch in (1, 32):
                if (name, form) in made and spent() < options.seconds:
                    yield row_of(name, batch, form, made[name, form], inputs, references, calls, device, compiled=True)


def plan_for(model: TorchModel, scheme: Scheme) -> Plan:
    """All products in `scheme`, as far as they can; what is around them in bf16, unless the scheme is a float."""
    around = scheme if scheme.is_cast and str(scheme) != "tf32" else FP32 if str(scheme) in ("fp32", "tf32") else BF16
    choices = {}
    for made in group(model.graph):
        wanted = next((one for one in (scheme, around) if not module_obstacle(model.graph, made, one)), FP32)
        # Tables, sums and attention are no products of weights.
        wanted = around if not made.weight and not module_obstacle(model.graph, made, around) else wanted
        choices[made.name] = Choice(str(wanted), "benchmark")
    return Plan(model.sha256, choices, {})


def row_of(
    name: str,
    batch: int,
    form: str,
    module: Converted,
    inputs: Mapping[tuple[str, int], dict[str, torch.Tensor]],
    references: Mapping[tuple[str, int], torch.Tensor],
    calls: int,
    device: str,
    *,
    compiled: bool,
) -> Row:
    """Run one form."""
    given, groups = inputs[name, batch], sum(scheme == form for scheme in module.schemes.values())
    try:
        flat = module.call.flat((), given)
        call = torch.compile(module.graph_module, dynamic=False) if compiled else module.graph_module
        with torch.inference_mode():
            outputs = call(*flat)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = timed(lambda: call(*flat), calls, device)
        reference = references[name, batch]
        error = float((outputs[0].float() - reference).norm() / reference.norm())
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        return Row(name, batch, form, compiled, groups, seconds, error, size_of(module), peak)
    # As above.
    except Exception as error:  # noqa: BLE001
        return Row(name, batch, form, compiled, groups, failure=f"{type(error).__name__}: {error}"[:400])


def timed(call: Callable[[], object], calls: int, device: str) -> tuple[float, ...]:
    """Seconds of each call, after some that warm up."""
    taken = []
    for place in range(calls + 5):
        before = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if place >= 5:
            taken.append(time.perf_counter() - before)
    return tuple(taken)


if __name__ == "__main__":
    main()
