"""Does ``target="auto"`` find the runtime that serves a module best? A module is tuned for every runtime by itself and
once with "auto"; then all answers are timed side by side (one process per candidate, rotating blocks).

Accuracy is the cosine of the outputs, 3 % may be lost; weights are random, but for MiniLM, which reads the sentences of
minilm.py. Stored is the speed of every answer over that of "auto", with intervals: 1.00 is as fast, more is faster than
what "auto" gave. A run replaces the models that it was asked for.

    python benchmarks/auto_target.py                     # -> results/auto_target.json
    python benchmarks/auto_target.py --only minilm --samples 16 --dry   # only to see that it runs
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from pydantic import TypeAdapter

import fewbits
from fewbits.benchmark import Candidate, compare
from fewbits.measurement import Comparison
from fewbits.targets.probe import this_machine
from models import BUILDERS
from results import FOLDER, PACKAGES, Taken, write

RESULT = FOLDER / "auto_target.json"
MODELS = ("mobilenetv2", "resnet50", "minilm")
TARGETS = ("torch:cpu", "onnxruntime", "openvino")
AUTO = "auto"
SAMPLES = 48
BATCH = 8


@dataclass(frozen=True)
class Answer:
    """What one tuning gave: where it is served, how it ended, how many groups are low, its file, how long it took."""

    model: str
    asked: str
    target: str
    outcome: str
    loss: float
    groups: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Stored:
    """How each model was taken, all answers, and their comparison by model: "auto" is the baseline of each."""

    taken: Mapping[str, Taken]
    answers: tuple[Answer, ...]
    comparisons: Mapping[str, Comparison]


def main() -> None:
    """Tune, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--targets", nargs="*", default=TARGETS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--dry", action="store_true", help="store nothing, time nothing side by side")
    options = parser.parse_args()
    answers: list[Answer] = []
    comparisons: dict[str, Comparison] = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            candidates, inputs = [], {}
            for target in (AUTO, *options.targets):
                answer, candidate, inputs = tuned(name, target, Path(folder), options.samples)
                answers.append(answer)
                candidates.append(candidate)
                print(answer, flush=True)
            if options.dry:
                continue
            comparisons[name] = compare(candidates, inputs, rounds=options.rounds, looks=1)
        for target, speed in comparisons[name].speedups.items():
            print(f"{name}: {target} {speed.value:.3f}x of auto [{speed.low:.3f}, {speed.high:.3f}]", flush=True)
    if not options.dry:
        taken = dict.fromkeys(options.only, Taken.now(this_machine(PACKAGES)))
        stored = merged(Stored(taken, tuple(answers), comparisons), RESULT)
        write(TypeAdapter(Stored).dump_json(stored, indent=1), RESULT)


def merged(new: Stored, path: Path) -> Stored:
    """What is stored at `path`, with the models of `new` in place of their older answers."""
    if not path.is_file():
        return new
    old = TypeAdapter(Stored).validate_json(path.read_bytes())
    kept = [one for one in old.answers if one.model not in new.taken]
    # A sort keeps the order of the targets of one model.
    answers = sorted((*kept, *new.answers), key=lambda one: MODELS.index(one.model))
    return Stored({**old.taken, **new.taken}, tuple(answers), {**old.comparisons, **new.comparisons})


def tuned(name: str, target: str, folder: Path, samples: int) -> tuple[Answer, Candidate, Mapping[str, np.ndarray]]:
    """`name` tuned for `target` with so many samples: the answer, its file, one call's inputs by the names that the
    file has for them."""
    built = BUILDERS[name]()
    data = {key: np.asarray(value)[:samples] for key, value in built.inputs.items()}
    batches = [{key: value[at : at + BATCH] for key, value in data.items()} for at in range(0, samples, BATCH)]
    begun = perf_counter()
    result = fewbits.tune(
        built.module, batches, evaluate="cosine", max_loss="3%", target=target, effort="low", out=folder / target
    )
    seconds = perf_counter() - begun
    file = result.save(folder / f"{target.replace(':', '_')}{'.pt' if result.is_module else '.onnx'}")
    record = result.record
    answer = Answer(
        name,
        target,
        result.target,
        str(result.outcome),
        0.0 if record.accuracy is None else record.accuracy.loss.value,
        len(result.plan.low),
        Path(file).stat().st_size,
        seconds,
    )
    return answer, Candidate(target, Path(file), result.target), {key: value[:1] for key, value in data.items()}


if __name__ == "__main__":
    main()
