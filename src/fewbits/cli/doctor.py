"""``fewbits doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from fewbits.cli.output import show
from fewbits.console import stderr_progress
from fewbits.report.table import paragraph, table
from fewbits.report.words import bounds, milliseconds, readable_bytes, significant

if TYPE_CHECKING:
    from fewbits.doctor import Ability, DoctorReport, RuntimeReport


def doctor(
    measure: Annotated[
        bool, typer.Option(help="Also time int8 against float on small operations (about half a minute).")
    ] = True,
) -> None:
    """Show the CPU's features, the runtimes with their versions, and what they really run."""
    from fewbits import doctor as clinic

    with stderr_progress() as progress:
        found = clinic.doctor(measure=measure, progress=progress)
    show(describe(found))


def describe(found: DoctorReport) -> str:
    """`found` as text."""
    machine = found.machine
    rows = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("features", " ".join(machine.features) or "none that matter for low precision"),
        ("memory", readable_bytes(machine.memory_bytes)),
        ("system", machine.system),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))),
    ]
    lines = table(("", ""), rows)[1:]
    for runtime in found.runtimes:
        lines += ["", *_runtime(runtime)]
    if found.how:
        lines += ["", *paragraph(f"Speed-ups are over float: {found.how}.")]
    return "\n".join(lines) + "\n"


def _runtime(runtime: RuntimeReport) -> list[str]:
    lines = [" ".join(part for part in (runtime.name, runtime.version) if part) + f": {runtime.state}"]
    if runtime.problem:
        lines += paragraph(f"  {runtime.problem}", hang="  ")
    if runtime.providers:
        lines += paragraph(f"  providers: {', '.join(runtime.providers)}", hang="  ")
    if runtime.dots:
        wrong = [dot.operands for dot in runtime.dots if dot.saturates]
        text = f"saturates for {', '.join(wrong)}: keep weights or activations to 7 bits" if wrong else "exact"
        lines += paragraph(f"  integer dot products: {text}", hang="  ")
    for operation, abilities in groupby(runtime.abilities, key=lambda ability: ability.operation):
        timed = tuple(abilities)
        lines += ["", f"  {operation}"]
        lines += [f"  {line}" for line in _abilities(timed)]
    return lines


def _abilities(abilities: Sequence[Ability]) -> list[str]:
    if not any(ability.seconds for ability in abilities):
        rows = [(ability.scheme, _precision(ability), ability.refusal or _kernels(ability)) for ability in abilities]
        return table(("scheme", "ran in", "kernels"), rows)
    timed = [
        (
            ability.scheme,
            _precision(ability),
            milliseconds(ability.seconds) if ability.seconds else "-",
            _kernels(ability),
            _gain(ability),
        )
        for ability in abilities
    ]
    return table(("scheme", "ran in", "ms", "kernels", "over float"), timed, right=(2,))


def _precision(ability: Ability) -> str:
    return "refused" if ability.refusal else ability.precision


def _kernels(ability: Ability) -> str:
    return ", ".join(ability.kernels) or "-"


def _gain(ability: Ability) -> str:
    speedup = ability.speedup
    return ability.refusal if speedup is None else f"{significant(speedup.value)}x {bounds(speedup)} {ability.verdict}"
