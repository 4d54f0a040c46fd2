"""The benchmark without a clock, so that what a run decides does not depend on how busy the machine is.

As a program, ``python timing.py SPEED WORDS...`` is the command line WORDS with every latency made up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fewbits.benchmark import Candidate
from fewbits.data.batches import Array
from fewbits.measurement import Comparison, Interval, Latency

STAGES = ("accepting", "placing", "screening", "benching")


@dataclass
class Timing:
    """Stands in for `fewbits.benchmark.compare`: each candidate but the first is `speed` times as fast as the first,
    those named in `speeds` as fast as said there, each within five percent.

    `asked` remembers the names of the candidates of each comparison.
    """

    speed: float = 2.0
    # What screening leaves gains nothing over what was placed.
    speeds: Mapping[str, float] = field(default_factory=lambda: {"screened": 1.0})
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def compare(self, candidates: Sequence[Candidate], inputs: Mapping[str, Array], **options: object) -> Comparison:
        """See `fewbits.benchmark.compare`."""
        assert all(candidate.model.is_file() for candidate in candidates)
        assert inputs
        names = tuple(candidate.name for candidate in candidates)
        self.asked.append(names)
        speeds = {name: self.speeds.get(name, self.speed) for name in names[1:]}
        seconds = {names[0]: 0.002, **{name: 0.002 / speed for name, speed in speeds.items()}}
        return Comparison(
            baseline=names[0],
            latencies={name: Latency(name, second, ((second,) * 3,) * 8) for name, second in seconds.items()},
            speedups={name: Interval(speed, speed * 0.95, speed * 1.05) for name, speed in speeds.items()},
            how="made up",
        )

    def install(self, put: Callable[[str, object], None]) -> Timing:
        """Let every stage measure with this; `put` sets an attribute by its dotted name."""
        for stage in STAGES:
            put(f"fewbits.flow.{stage}.compare", self.compare)
        return self


def _put_for_good(name: str, value: object) -> None:
    import importlib

    module, _, attribute = name.rpartition(".")
    setattr(importlib.import_module(module), attribute, value)


if __name__ == "__main__":
    from fewbits.cli import main

    Timing(float(sys.argv[1])).install(_put_for_good)
    main(sys.argv[2:])
