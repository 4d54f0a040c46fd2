"""One process of a training in several: what `tests/training/test_processes.py` starts.

    python training_worker.py RANK PROCESSES FOLDER

Trains small nets by several ways of spreading them and writes their weights to FOLDER/way.RANK.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fewbits import training
from fewbits.training.communication import rounded_all_reduce

STEPS = 4


def net() -> nn.Sequential:
    torch.manual_seed(0)
    last = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU(), *last)


def batches(rank: int, processes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The share of every global batch of 32 that a process gets."""
    random = torch.Generator().manual_seed(1)
    whole = [torch.randn(32, 16, generator=random) for _ in range(STEPS)]
    share = slice(rank * 32 // processes, (rank + 1) * 32 // processes)
    return [(x[share], x[share, :10].argmax(1)) for x in whole]


def train(model: nn.Module, step: training.Step, rank: int, processes: int) -> list[str]:
    found = []
    for index, (x, y) in enumerate(batches(rank, processes)):
        loss = nn.functional.cross_entropy(model(x), y)
        # The third step overflows in the last process alone: all must skip it.
        bad = index == 2 and rank == processes - 1
        found.append(str(step(loss * float("inf") if bad else loss).outcome))
    return found


def spread(recipe: str, way: str, rank: int, processes: int) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights after the training, whole, and what its steps did."""
    model = net()
    if way == "fsdp":
        low = training.lower(model, training.recipe(recipe), rank=rank)
        fully_shard(low[3])
        fully_shard(low)
        step = training.Step(low, torch.optim.SGD(low.parameters(), 0.1), clip_norm=1.0)
        outcomes = train(low, step, rank, processes)
        model = low
    elif way == "single":
        low, step = training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), recipe, clip_norm=1.0)
        outcomes = train(low, step, rank, processes)
    else:
        low, step = training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), recipe, clip_norm=1.0)
        parallel = DistributedDataParallel(low)
        if way == "rounded":
            parallel.register_comm_hook(step.recipe, rounded_all_reduce)
        outcomes = train(parallel, step, rank, processes)
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in model.state_dict().items()
    }, outcomes


def main() -> None:
    rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    if processes > 1:
        store = distributed.FileStore(str(folder / "store"), processes)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    ways = ("ddp", "fsdp", "rounded") if processes > 1 else ("single",)
    found = {
        f"{recipe} {way}": spread(recipe, way, rank, processes)
        for recipe in ("fp32", "fp8_hybrid_current", "fp8_mellempudi", "bf16_pure")
        for way in ways
    }
    torch.save(found, folder / f"{processes}.{rank}.pt")
    if processes > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
