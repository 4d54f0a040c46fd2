"""Whole PyTorch models in every precision that a device offers: a ViT-B and a GPT-2, batch 1 and 32.

Every form is one plan: all products in a scheme that can have it, everything else in bf16 (fp32 beside the forms that
are named so). Random weights: what is measured is time, memory, and the error of the outputs against float32 with
float32 products. Seconds per call, median, call by call, inputs on the device. A compiled form is ``torch.compile`` as
it comes; the same call captured as a CUDA graph, which spares the launches, is a row of its own. Peers (``torchao``,
``torch`` for a module in bf16) are the same model in bf16 with its layers converted, compiled with the same settings.

    python benchmarks/torch_models.py --device cuda --out torch_models.json     # begins no row after 130 s
    python benchmarks/torch_models.py --device cuda --compiled-first --peers --into old.json --out new.json
    python benchmarks/torch_models.py --device cpu --small                      # tries the script
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, ViTConfig, ViTModel
from transformers.pytorch_utils import Conv1D

from fewbits.__about__ import VERSION
from fewbits.eligibility import module_obstacle
from fewbits.formats.scheme import BF16, FP32, Scheme
from fewbits.grouping import group
from fewbits.models.pytorch.converted import Converted, size_of
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan

FP8_TOKENS = "w:fp8_e4m3/channel a:fp8_e4m3/token dynamic"
INT8_TOKENS = "w:int8r/channel a:int8r/token dynamic"
INT8_WEIGHT = "w:int8r/channel"
INT4_WEIGHT = "w:uint4/g128@0"
FORMS: Mapping[str, tuple[str, ...]] = {
    "cuda": (
        "fp32",
        "tf32",
        "bf16",
        "fp16",
        FP8_TOKENS,
        "w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic",
        INT8_TOKENS,
        INT8_WEIGHT,
        INT4_WEIGHT,
    ),
    "cpu": ("fp32", "bf16", "w:int8r/channel a:uint8/tensor dynamic", INT8_WEIGHT, INT4_WEIGHT),
}
PEERS = (
    "torch: bf16",
    "torchao: fp8 per token",
    "torchao: int8 per token",
    "torchao: int4 g128",
    "torchao: int8 weights",
)
COMPILED = ("bf16", FP8_TOKENS, INT8_TOKENS, *PEERS[:3], INT4_WEIGHT, INT8_WEIGHT, *PEERS[3:], "fp32", "tf32")
"""What is compiled, the most telling first."""
TOGETHER = 6
BATCHES = (1, 32)
CAPTURED = 3
"""Calls before a graph is captured: what compiles or packs at first has done so."""


@dataclass(frozen=True)
class Row:
    """One form of one model: `seconds` of every call; `bytes` of its weights, `peak` of the device while it runs;
    `graphs`: the compiled call as a CUDA graph."""

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
    graphs: bool = False
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """One row to be taken, with its graph if it is `compiled`."""

    model: str
    batch: int
    form: str
    compiled: bool


@dataclass
class Bench:
    """What rows have in common, made when it is first asked for."""

    device: str
    small: bool
    calls: int
    modules: dict[str, nn.Module] = field(default_factory=dict)
    models: dict[str, TorchModel] = field(default_factory=dict)
    converted: dict[tuple[str, str], Converted] = field(default_factory=dict)
    inputs: dict[tuple[str, int], dict[str, torch.Tensor]] = field(default_factory=dict)
    references: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    def prepare(self, name: str, batch: int) -> None:
        """The module of `name`, with inputs of `batch` samples and what it gives in float32."""
        if name not in self.modules:
            torch.manual_seed(0)
            self.modules[name] = MODELS[name](self.small)[0].eval().to(self.device)
        if (name, batch) not in self.inputs:
            torch.manual_seed(batch)
            given = MODELS[name](self.small, built=False)[1](batch)
            self.inputs[name, batch] = {key: value.to(self.device) for key, value in given.items()}
            with torch.no_grad():
                found = self.modules[name](**self.inputs[name, batch]).last_hidden_state
            self.references[name, batch] = found

    def form(self, name: str, form: str) -> Converted:
        """The model `name` with its products in `form`."""
        if name not in self.models:
            self.prepare(name, 3)
            self.models[name] = TorchModel.of(self.modules[name], self.inputs[name, 3])
        if (name, form) not in self.converted:
            model = self.models[name]
            self.converted[name, form] = model.module(plan_for(model, Scheme.parse(form)))
        return self.converted[name, form]


def vit(small: bool, *, built: bool = True) -> tuple[nn.Module, Callable[[int], dict[str, torch.Tensor]]]:
    """A ViT-B/16 on 224 x 224."""
    size = 32 if small else 224
    config = (
        ViTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, image_size=32)
        if small
        else ViTConfig()
    )
    model = ViTModel(config, add_pooling_layer=False) if built else nn.Identity()
    return model, lambda batch: {"pixel_values": torch.randn(batch, 3, size, size)}


def gpt2(small: bool, *, built: bool = True) -> tuple[nn.Module, Callable[[int], dict[str, torch.Tensor]]]:
    """A GPT-2 of 124 million weights, 256 tokens."""
    config = GPT2Config(n_embd=128, n_layer=2, n_head=4, use_cache=False) if small else GPT2Config(use_cache=False)
    length = 16 if small else 256
    model = GPT2Model(config) if built else nn.Identity()
    return model, lambda batch: {"input_ids": torch.randint(0, config.vocab_size, (batch, length))}


MODELS = {"gpt2": gpt2, "vit_b": vit}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=130.0, help="no row begins after that many")
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--only", nargs="*", choices=tuple(MODELS), default=tuple(MODELS), help="these models")
    parser.add_argument("--forms", nargs="*", help="these forms, in this order")
    parser.add_argument("--batches", nargs="*", type=int, default=BATCHES)
    parser.add_argument("--compiled-first", action="store_true", help="compiled rows before the eager ones")
    parser.add_argument("--peers", action="store_true", help="torchao beside (compiled)")
    parser.add_argument("--into", type=Path, help="rows of this file are kept, where they are not taken again")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    if options.device == "cuda":
        # The newer names (fp32_precision) leave flags behind that torch.export refuses.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench(options.device, options.small, options.calls)
    taken: list[Row] = []
    longest = 0.0
    for wanted in order(options):
        # What compiles takes about as long as the longest one before it.
        if time.perf_counter() - start + (longest if wanted.compiled else 0.0) > options.seconds:
            continue
        begun = time.perf_counter()
        for row in rows_of(bench, wanted):
            taken.append(row)
            show(row)
            if options.out is not None:
                options.out.write_text(json.dumps(stored(options, taken), indent=1))
        longest = max(longest, time.perf_counter() - begun) if wanted.compiled else longest


def order(options: argparse.Namespace) -> Iterator[Wanted]:
    """The rows to be taken, the most telling first."""
    batches = sorted(options.batches, reverse=True)
    eager = [form for form in options.forms or FORMS[options.device] if form not in PEERS]
    low = [form for form in options.forms or COMPILED if form not in PEERS or options.peers]
    low = [form for form in low if form in PEERS or form in FORMS[options.device]]
    # Six forms that compare with each other, model by model, before all others.
    blocks = [(eager, False), (low[:TOGETHER], True), (low[TOGETHER:], True)]
    for forms, compiled in (*blocks[1:], blocks[0]) if options.compiled_first else blocks:
        for batch in batches:
            for name in options.only:
                yield from (Wanted(name, batch, form, compiled) for form in forms)


def show(row: Row) -> None:
    """A line for a person."""
    how = "graphs" if row.graphs else "compiled" if row.compiled else "eager"
    shown = f"{median(row.seconds) * 1e3:9.3f} ms" if row.seconds else row.failure[:150]
    print(
        f"{row.model:6} {row.batch:3} {row.form:46} {how:8} {shown} error {row.relative_error:.2g}, "
        f"{row.bytes / 1e6:.0f} MB, {row.groups} groups, compiled in {row.compile_seconds:.0f} s",
        flush=True,
    )


def stored(options: argparse.Namespace, taken: Sequence[Row]) -> object:
    """What is written: rows, and where they were taken; those of an older file of the same device and versions."""
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "fewbits": VERSION}
    own = [asdict(row) for row in taken]
    head = {"command": " ".join(sys.argv), "device": name, "versions": versions, "taken": time.strftime("%Y-%m-%d")}
    kept: list[dict[str, Any]] = []
    if options.into is not None and options.into.is_file():
        old = json.loads(options.into.read_text())
        if (old["device"], old["versions"]) == (name, versions):
            kept = [row for row in old["rows"] if key(row) not in set(map(key, own))]
            head["earlier"] = [*old.get("earlier", ()), {"command": old["command"], "taken": old["taken"]}]
        else:
            print(f"{options.into} is of another device or other versions: its rows are not taken over", flush=True)
    return {**head, "rows": [*kept, *own]}


def key(row: Mapping[str, Any]) -> tuple[object, ...]:
    """What tells a stored row from others."""
    return row["model"], row["batch"], row["form"], row["compiled"], row.get("graphs", False)


def rows_of(bench: Bench, wanted: Wanted) -> Iterator[Row]:
    """The row, and that of its graph."""
    row = Row(wanted.model, wanted.batch, wanted.form, wanted.compiled)
    try:
        bench.prepare(wanted.model, wanted.batch)
        call, groups, size = peer_call(bench, wanted) if wanted.form in PEERS else own_call(bench, wanted)
        row = replace(row, groups=groups, bytes=size)
        torch._dynamo.reset()
        with torch.inference_mode():
            fast = torch.compile(call, dynamic=False) if wanted.compiled else call
            begun = time.perf_counter()
            outputs = fast()
            spent = time.perf_counter() - begun if wanted.compiled else 0.0
            yield measured(bench, replace(row, compile_seconds=spent), fast, outputs)
            if wanted.compiled and bench.device == "cuda":
                yield captured(bench, replace(row, graphs=True), fast)
    # Whatever a kernel or a compiler says, it is a row of the table.
    except Exception as error:  # noqa: BLE001
        yield replace(row, failure=f"{type(error).__name__}: {error}"[:400])


def measured(bench: Bench, row: Row, call: Callable[[], torch.Tensor], outputs: torch.Tensor) -> Row:
    """`row` with time, memory, and the error of `outputs`."""
    on_gpu = bench.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(call, bench.calls, bench.device)
    reference = bench.references[row.model, row.batch]
    error = float((outputs.float() - reference).norm() / reference.norm())
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return replace(row, seconds=seconds, relative_error=error, peak=peak)


def captured(bench: Bench, row: Row, call: Callable[[], torch.Tensor]) -> Row:
    """`row` of the call as a CUDA graph, which reads and writes the same memory every time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(CAPTURED):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    graph.replay()
    torch.cuda.synchronize()

    def replayed() -> torch.Tensor:
        graph.replay()
        return outputs

    return measured(bench, row, replayed, outputs)


def own_call(bench: Bench, wanted: Wanted) -> tuple[Callable[[], torch.Tensor], int, int]:
    """A call of the form, how many groups are in its scheme, and the bytes of its weights."""
    module = bench.form(wanted.model, wanted.form)
    flat, graph = module.call.flat((), bench.inputs[wanted.model, wanted.batch]), module.graph_module
    groups = sum(scheme == wanted.form for scheme in module.schemes.values())
    return lambda: graph(*flat)[0], groups, size_of(module)


def peer_call(bench: Bench, wanted: Wanted) -> tuple[Callable[[], torch.Tensor], int, int]:
    """The same of a peer. torchao converts ``nn.Linear`` alone, so layers that compute the same become some."""
    module = copy.deepcopy(bench.modules[wanted.model])
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                setattr(parent, name, as_linear(child))
    module = module.to(torch.bfloat16)
    if wanted.form.startswith("torchao"):
        quantise(module, wanted.form)
    inputs = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in bench.inputs[wanted.model, wanted.batch].items()
    }
    layers = sum(isinstance(one, nn.Linear) for one in module.modules())
    return lambda: module(**inputs).last_hidden_state, layers, sum(map(bytes_of, module.parameters()))


def quantise(module: nn.Module, form: str) -> None:
    """`module` in place, by torchao, which only this needs. Its changes of the compiler's settings are left out, so
    that all rows have the same."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    same = {"set_inductor_config": False}
    configs = {
        "torchao: fp8 per token": lambda: Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), **same),
        "torchao: int8 per token": lambda: Int8DynamicActivationInt8WeightConfig(**same),
        "torchao: int8 weights": lambda: Int8WeightOnlyConfig(**same),
        "torchao: int4 g128": lambda: Int4WeightOnlyConfig(128, int4_packing_format="tile_packed_to_4d", **same),
    }
    quantize_(module, configs[form]())


def as_linear(layer: Conv1D) -> nn.Linear:
    """What GPT-2 calls Conv1D, as the linear layer that it is."""
    depth, columns = layer.weight.shape
    made = nn.Linear(depth, columns, device=layer.weight.device)
    with torch.no_grad():
        made.weight.copy_(layer.weight.t())
        made.bias.copy_(layer.bias)
    return made


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of `tensor`, or of those that it is made of."""
    if type(tensor) in (torch.Tensor, nn.Parameter):
        return tensor.numel() * tensor.element_size()
    inner, _ = tensor.__tensor_flatten__()
    return sum(bytes_of(getattr(tensor, name)) for name in inner)


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
