"""MiniLM as a PyTorch module, tuned with its own metric: retrieval agreement, of which 3 % may be lost.

The module is tuned for PyTorch on the CPU, compiled (or the targets that are named); then the originals, call by call
and compiled, and what tuning gave are timed side by side (one process per candidate, rotating blocks), one sentence of
64 tokens per call. Stored are agreement and loss on all sentences, what the plan has, and every speed over the original
as it runs call by call.

    python benchmarks/models.py --only minilm    # once
    python benchmarks/minilm_module.py           # -> results/minilm_module.json
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from pydantic import TypeAdapter

import fewbits
from fewbits.benchmark import Candidate, compare
from fewbits.data.batches import Arrays
from fewbits.measurement import Comparison
from fewbits.models.pytorch.model import TorchModel
from fewbits.targets.probe import this_machine
from minilm import BATCH, CACHE, TOKENS, Agreement
from models import BUILDERS
from results import FOLDER, PACKAGES, Taken, write
from torch_cpu import named

RESULT = FOLDER / "minilm_module.json"
EAGER, COMPILED = "torch:cpu", "torch:cpu:compiled"


@dataclass(frozen=True)
class Answer:
    """What one tuning gave, how long it took, and its agreement over all sentences as the target computes it."""

    target: str
    outcome: str
    schemes: Mapping[str, int]
    agreement: float
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Stored:
    """All answers, and every candidate over the original call by call."""

    taken: Taken
    answers: tuple[Answer, ...]
    comparison: Comparison


def main() -> None:
    """Tune, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=[COMPILED])
    parser.add_argument("--max-loss", default="3%")
    parser.add_argument("--effort", default="medium")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    built, agreement = BUILDERS["minilm"](), Agreement.load()
    data, calibration = list(batches("minilm")), list(batches("minilm-calibration"))
    inputs = {key: np.asarray(value)[:1] for key, value in built.inputs.items()}
    assert all(value.shape == (1, TOKENS) for value in inputs.values())
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "original.pt"
        path.write_bytes(TorchModel.of_items(built.module, data).original().content)
        candidates = [Candidate("original", path, EAGER), Candidate("original, compiled", path, COMPILED)]
        for target in options.targets:
            begun = perf_counter()
            result = fewbits.tune(
                built.module,
                data,
                calibration=calibration,
                evaluate=lambda predict: agreement(lambda given: named(predict(given))),
                max_loss=options.max_loss,
                target=target,
                effort=options.effort,
                out=Path(folder) / target.replace(":", "_"),
            )
            seconds = perf_counter() - begun
            file = Path(result.save(Path(folder) / f"{target.replace(':', '_')}.pt"))
            found = float(np.mean(agreement(lambda given, one=result: named(one.predict(given)))))
            schemes = Counter(str(result.plan.scheme(name)) for name in result.plan.low)
            answers.append(Answer(target, str(result.outcome), schemes, found, file.stat().st_size, seconds))
            candidates.append(Candidate(f"tuned, {target}", file, result.target))
            print(answers[-1], flush=True)
        comparison = compare(candidates, inputs, rounds=options.rounds, looks=1)
    for name, speed in comparison.speedups.items():
        print(f"{name}: {speed.value:.2f}x [{speed.low:.2f}, {speed.high:.2f}]")
    stored = Stored(Taken.now(this_machine(PACKAGES)), tuple(answers), comparison)
    write(TypeAdapter(Stored).dump_json(stored, indent=1), RESULT)


def batches(name: str) -> Iterator[Arrays]:
    """The sentences of a file in batches, each cut to its longest, as they are served."""
    with np.load(CACHE / f"{name}.npz") as found:
        ids, mask = found["input_ids"], found["attention_mask"]
    for at in range(0, len(ids), BATCH):
        longest = int(mask[at : at + BATCH].sum(axis=1).max())
        yield {"input_ids": ids[at : at + BATCH, :longest], "attention_mask": mask[at : at + BATCH, :longest]}


if __name__ == "__main__":
    main()
