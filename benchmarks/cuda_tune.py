"""A ViT-B tuned on a GPU, call by call and compiled: what `fewbits.tune` answers there, and how long it takes.

Random weights; accuracy is the cosine of the outputs, 3 % may be lost. Latency is that of a call of 32 images, from and
to the CPU's memory. Stored are the outcome, what the plan has, its speed over the original with the interval, and what
every kind of layer costs in every scheme. What does not end in time is stopped, and told as stopped, with the costs
that are known by then.

    python benchmarks/cuda_tune.py --seconds 200 --out cuda_tune.json   # on a machine with a GPU
    python benchmarks/cuda_tune.py --small --target torch:cpu           # tries the script
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from transformers import ViTConfig, ViTModel

import fewbits
from fewbits.__about__ import VERSION
from fewbits.costs.cache import CostCache

RESULT = Path(__file__).parent / "results" / "cuda_tune.json"
TARGETS = ("torch:cuda", "torch:cuda:compiled")
SAMPLES = 192
BATCH = 32
RESERVE = 20.0
"""Seconds that a run may need beyond what it was given, before it is stopped."""


class StoppedError(Exception):
    """The time is over."""


@dataclass
class Told:
    """Progress, kept: seconds since the beginning, and what was said."""

    begun: float = field(default_factory=time.perf_counter)
    lines: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int | None = None) -> None:
        """A stage begins."""
        self._keep(title)

    def advance(self, note: str = "") -> None:
        """A step of it is done."""
        if note:
            self._keep(f"  {note}")

    def say(self, text: str) -> None:
        """Something worth knowing."""
        self._keep(f"  {text}")

    def _keep(self, text: str) -> None:
        line = f"{time.perf_counter() - self.begun:6.1f} s {text}"
        self.lines.append(line)
        print(line, flush=True)


def main() -> None:
    """Tune, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="*", default=TARGETS)
    parser.add_argument("--seconds", type=float, default=300.0, help="for all targets together")
    parser.add_argument("--effort", default="low")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    begun = time.perf_counter()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEWBITS_CACHE"] = folder
        for place, target in enumerate(options.target):
            left = options.seconds - (time.perf_counter() - begun)
            rows.append(tuned(target, left / (len(options.target) - place), options, Path(folder)))
            options.out.write_text(json.dumps({**taken(), "batch": options.batch, "rows": rows}, indent=1))


def taken() -> dict[str, object]:
    """Where and when."""
    on_gpu = torch.cuda.is_available()
    return {
        "command": f"python benchmarks/cuda_tune.py, fewbits {VERSION}",
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "fewbits": VERSION},
        "taken": time.strftime("%Y-%m-%d"),
    }


def tuned(target: str, seconds: float, options: argparse.Namespace, cache: Path) -> dict[str, object]:
    """One run: its answer, or that it was stopped or failed, and the costs that it measured."""
    module, batches = vit(small=options.small)
    told, begun = Told(), time.perf_counter()
    row: dict[str, object] = {"target": target, "seconds_given": seconds}
    try:
        with at_most(seconds):
            result = fewbits.tune(
                module,
                batches,
                evaluate="cosine",
                max_loss="3%",
                target=target,
                effort=options.effort,
                batch=options.batch,
                max_seconds=max(1.0, seconds - RESERVE),
                progress=told,
            )
            row |= answer(result)
    except StoppedError:
        row["outcome"] = f"stopped after {seconds:.0f} s"
    # Whatever a kernel or a compiler says, it is the outcome.
    except Exception as error:  # noqa: BLE001
        row["outcome"] = f"{type(error).__name__}: {error}"[:1000]
    row |= {"seconds": time.perf_counter() - begun, "costs": costs(cache, target), "told": told.lines}
    print(target, row["outcome"], row.get("speedup"), f"{row['seconds']:.0f} s", flush=True)
    return row


def vit(*, small: bool) -> tuple[torch.nn.Module, list[np.ndarray]]:
    """A ViT-B/16 with images, on the CPU."""
    torch.manual_seed(0)
    size = 32 if small else 224
    config = (
        ViTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, image_size=32)
        if small
        else ViTConfig()
    )
    samples = 96 if small else SAMPLES
    images = np.random.default_rng(0).standard_normal((samples, 3, size, size)).astype(np.float32)
    model = ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    return model, [images[start : start + 16] for start in range(0, samples, 16)]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises StoppedError in the main thread after so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(result: fewbits.Result) -> dict[str, object]:
    """What a finished run says, without raw blocks."""
    record, speed = result.record, result.speedup
    return {
        "outcome": str(result.outcome),
        "reason": record.reason,
        "target": result.target,
        "schemes": dict(Counter(str(result.plan.scheme(row.name)) for row in record.groups)),
        "kernels": dict(record.kernels),
        "speedup": None if speed is None else [speed.value, speed.low, speed.high],
        "latency": {} if record.latency is None else {k: one.median for k, one in record.latency.latencies.items()},
        "loss": None if record.accuracy is None else record.accuracy.loss.value,
        "bytes": [record.original_bytes, record.tuned_bytes],
        "groups": [
            {name: value for name, value in asdict(row).items() if name in ("name", "scheme", "kernel", "precision")}
            for row in record.groups
        ],
        "prediction": asdict(record.prediction),
        "notes": list(record.notes),
    }


def costs(cache: Path, target: str) -> list[dict[str, object]]:
    """Seconds of every kind of layer in every scheme: into it, computing, and back."""
    path = cache / "costs.sqlite"
    if not path.is_file():
        return []
    with CostCache.open(path) as kept:
        return [
            {
                "op": one.key.op,
                "signature": one.key.signature,
                "scheme": one.key.scheme,
                "seconds": [one.cost.entry, one.cost.compute, one.cost.exit],
                "kernel": one.cost.kernel,
                "precision": one.cost.precision,
                "refusal": one.cost.refusal,
            }
            for one in kept.rows(target=target)
        ]


if __name__ == "__main__":
    main()
