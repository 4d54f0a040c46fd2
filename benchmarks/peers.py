"""Every model of the set in every form, side by side: ``python benchmarks/peers.py --nncf-python PATH``.

Forms: float on ONNX Runtime and on OpenVINO, bf16 on OpenVINO, fewbits' result (which ``latency.py`` left in the cache
folder), ONNX Runtime's own quantiser, and NNCF, with and without accuracy control. All are timed in one run against
the faster of the two floats: batch 1, two threads, one process each, rotating blocks. Writes
``benchmarks/results/peers.json``. ``--quick`` is a smoke run: short blocks, and nothing is written to the results.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

import minilm
import peer_nncf
import peer_onnxruntime
import peer_worker
import results
from demo_member import DIGITS
from fewbits.benchmark import Candidate, compare
from fewbits.console import stderr_progress
from fewbits.data.batches import Arrays as Inputs
from fewbits.measurement import Comparison
from fewbits.models.protocol import Artifact
from fewbits.record import RunRecord
from fewbits.targets.probe import this_machine
from latency import run_folder, tune
from output_error import output, relative_error
from peer_job import Job, Made, one_line
from peer_nncf import Nncf
from peer_score import has_score, score
from peer_targets import IR_BF16, OPENVINO_BF16, open_peer
from suite import LABELS, SUITE, THREADS, Arrays, Member

MEMBERS: Mapping[str, Member] = {DIGITS.name: DIGITS, **SUITE}

FLOAT_ONNXRUNTIME = "float, ONNX Runtime"
FLOAT_OPENVINO = "float, OpenVINO"
BF16_OPENVINO = "bf16, OpenVINO"
FEWBITS = "fewbits"
CONTROL = "NNCF accuracy control"
OPENVINO = "openvino:cpu"
ONNXRUNTIME = "onnxruntime:cpu"


@dataclass(frozen=True)
class Settings:
    """Where the models are, the other tool, and how carefully to measure."""

    folder: Path
    nncf: Nncf
    quick: bool = False

    def compared(self, made: Mapping[str, Made], inputs: Inputs) -> Comparison:
        """All of `made` timed together against the first of them."""
        candidates = [Candidate(name, one.path, one.target, THREADS) for name, one in made.items()]
        with stderr_progress() as progress:
            return compare(
                candidates,
                inputs,
                rounds=6 if self.quick else 8,
                looks=1 if self.quick else 3,
                block_seconds=0.05 if self.quick else 0.25,
                progress=progress,
                worker=peer_worker.COMMAND,
            )


@dataclass(frozen=True)
class Judge:
    """Tells how good a form is: its output error, and its score where the model has a metric."""

    member: Member
    folder: Path
    scored: bool
    held_out: Arrays
    expected: NDArray[np.float64]

    @classmethod
    def of(cls, member: Member, folder: Path) -> Judge:
        """With the float original's outputs as the truth."""
        held_out = member.held_out(folder)
        expected = output(member.model(folder), held_out, THREADS)
        return cls(member, folder, has_score(member, folder), held_out, expected)

    def form(self, name: str, made: Made) -> results.Form:
        """`made` with its figures, or with the reason why it has none."""
        failed = results.Form(name, made.settings, 0, 0.0, made.failure, made.target, made.seconds)
        if made.failure:
            return failed
        if not made.path.is_file():
            return replace(failed, failure="not there: run python benchmarks/latency.py first")
        try:
            found = output(made.path, self.held_out, THREADS, made.target, open_peer)
            # Broken models exist, and scoring them is only warnings about NaN.
            value = self._score(made) if self.scored and np.isfinite(found).all() else 0.0
        except Exception as error:  # noqa: BLE001  what a foreign tool wrote may fail in any way
            return replace(failed, failure=one_line(error))
        if not np.isfinite(found).all():
            return replace(failed, failure="it runs, but its outputs are not finite")
        return results.Form(
            name=name,
            settings=made.settings,
            bytes=made.bytes,
            relative_error=relative_error(found, self.expected),
            failure="",
            target=made.target,
            seconds=made.seconds,
            evaluations=made.evaluations,
            score=value,
        )

    def _score(self, made: Made) -> float:
        with open_peer(made.target, THREADS).open(Artifact(made.path.read_bytes())) as session:
            return score(self.member, self.folder)(session)


def measure(member: Member, settings: Settings) -> results.SideBySide:
    """All forms of `member`, timed together."""
    folder, one = settings.folder, member.one(settings.folder)
    judge = Judge.of(member, folder)
    with TemporaryDirectory() as name:
        made = {**_faster_first(floats(member.model(folder)), one, settings), **others(member, settings, Path(name))}
        forms = tuple(judge.form(form, how) for form, how in made.items())
        timed = {form.name: made[form.name] for form in forms if not form.failure}
        comparison = settings.compared(timed, one)
    return results.SideBySide(
        name=member.name,
        title=member.title,
        note=member.note,
        forms=forms,
        comparison=comparison,
        taken=results.Taken.now(this_machine(results.PACKAGES)),
        metric=member.metric if judge.scored else "",
        max_loss=member.max_loss if judge.scored else "",
    )


def floats(original: Path) -> Mapping[str, Made]:
    """The float32 original on both runtimes."""
    return {
        FLOAT_ONNXRUNTIME: Made("float32", original, ONNXRUNTIME),
        FLOAT_OPENVINO: Made("float32", original, OPENVINO),
    }


def _faster_first(made: Mapping[str, Made], inputs: Inputs, settings: Settings) -> Mapping[str, Made]:
    latencies = settings.compared(made, inputs).latencies
    return {name: made[name] for name in sorted(made, key=lambda name: latencies[name].median)}


def others(member: Member, settings: Settings, scratch: Path) -> Mapping[str, Made]:
    """Every form but the floats; what has to be made is written into `scratch`."""
    folder = settings.folder
    original = member.model(folder)
    found = member.calibration(folder) or member.data(folder)
    calibration = {name: array for name, array in found.items() if name != LABELS}
    made = {
        BF16_OPENVINO: Made("INFERENCE_PRECISION_HINT=bf16", original, OPENVINO_BF16),
        FEWBITS: fewbits_form(member, folder),
    }
    for name, recipe in peer_onnxruntime.RECIPES.items():
        out = scratch / f"{name.replace(' ', '-')}.onnx"
        made[name] = peer_onnxruntime.make(recipe, Job(original, out, calibration))
    per_channel = made[peer_onnxruntime.PER_CHANNEL]
    made[f"{peer_onnxruntime.PER_CHANNEL}, OpenVINO"] = replace(per_channel, target=OPENVINO)
    last = CONTROL
    for name, plain in peer_nncf.recipes(member).items():
        last = name
        made[name] = settings.nncf.make(plain, Job(original, scratch / f"{name.replace(' ', '-')}.xml", calibration))
    made[f"{last}, bf16 rest"] = replace(made[last], target=IR_BF16)
    if has_score(member, folder):
        made[CONTROL] = settings.nncf.control(member, folder, Job(original, scratch / "control.xml", calibration))
    return made


def fewbits_form(member: Member, folder: Path) -> Made:
    """What tuning left. The demo is tuned here if it has not been: it takes seconds."""
    run = run_folder(member, folder)
    if member is DIGITS and not (run / "run.json").is_file():
        tune(member, folder)
    settings, path = "fewbits.tune, see latency.json", run / "model.onnx"
    if not (run / "run.json").is_file():
        return Made(settings, path, ONNXRUNTIME)
    record = RunRecord.from_json((run / "run.json").read_bytes())
    return Made(settings, path, record.target, seconds=record.seconds, evaluations=record.evaluations)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Time every form of every model, peers beside fewbits.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where models.py put them (%(default)s)")
    parser.add_argument("--only", choices=tuple(MEMBERS), action="append", help="only this model; may be repeated")
    parser.add_argument("--nncf-python", type=Path, required=True, help="Python of an environment that has NNCF")
    parser.add_argument(
        "--control-seconds", type=float, default=1800.0, help="NNCF's accuracy control is stopped then (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="smoke run: short blocks, nothing stored")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    nncf = Nncf(arguments.nncf_python.absolute(), arguments.control_seconds)
    settings = Settings(arguments.dir.resolve(), nncf, arguments.quick)
    for name in arguments.only or MEMBERS:
        row = measure(MEMBERS[name], settings)
        print(row.title, f"against {row.comparison.baseline}")
        for form in row.forms:
            print(f"  {form.name}: {_figures(row, form)}", flush=True)
        if not arguments.quick:
            results.add_peers(row)


def _figures(row: results.SideBySide, form: results.Form) -> str:
    if form.failure:
        return form.failure
    milliseconds = row.comparison.latencies[form.name].median * 1e3
    speedup = row.comparison.speedups.get(form.name)
    figure = f" {speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]" if speedup else ""
    scored = f", {row.metric} {form.score:.4f}" if row.metric else ""
    made = f", made in {form.seconds:.1f} s, {form.evaluations} evaluations" if form.seconds else ""
    return f"{milliseconds:.3g} ms{figure}, error {form.relative_error:.3f}{scored}{made}"


if __name__ == "__main__":
    main()
