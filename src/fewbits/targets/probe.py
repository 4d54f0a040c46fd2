"""What this machine is: CPU, features, cores, memory, versions. Read from the system, never guessed."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fewbits.errors import UsageError
from fewbits.machine import Machine

FEATURES = (
    "avx2",
    "f16c",
    "avx512f",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "dotprod",
    "i8mm",
    "bf16",
    "asimdhp",
    "sve",
)
"""The features that matter for low precision, by the names that Linux gives them (``dotprod`` for ``asimddp``).

``asimdhp`` is fp16 arithmetic of ARM; x86 says ``avx512_fp16``.
"""

_SYNONYMS = {
    "asimddp": "dotprod",
    "avx2.0": "avx2",
    "hw.optional.arm.feat_dotprod": "dotprod",
    "hw.optional.arm.feat_i8mm": "i8mm",
    "hw.optional.arm.feat_bf16": "bf16",
    "hw.optional.arm.feat_fp16": "asimdhp",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
}


def features_among(flags: Iterable[str]) -> tuple[str, ...]:
    """The members of FEATURES that `flags` of the system name, in the order of FEATURES."""
    named = {_SYNONYMS.get(flag.lower(), flag.lower()) for flag in flags}
    return tuple(feature for feature in FEATURES if feature in named)


def read_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """CPU model ("" where the text has none, as on ARM) and FEATURES, from the text of ``/proc/cpuinfo``."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        # The first processor speaks for all.
        fields.setdefault(key.strip().lower(), value.strip())
    flags = f"{fields.get('flags', '')} {fields.get('features', '')}".split()
    return fields.get("model name", ""), features_among(flags)


def read_sysctl(text: str) -> tuple[str, tuple[str, ...]]:
    """CPU model and FEATURES, from the ``key: value`` lines of macOS's ``sysctl machdep.cpu hw.optional``."""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    listed = f"{fields.get('machdep.cpu.features', '')} {fields.get('machdep.cpu.leaf7_features', '')}".split()
    return fields.get("machdep.cpu.brand_string", ""), features_among(
        [*listed, *(key for key, value in fields.items() if value == "1")]
    )


def quota_cores(cpu_max: str) -> float:
    """The cores that a control group may use, from the text of its ``cpu.max`` (cgroup v2); infinite without limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf


def available_cores() -> int:
    """The cores that this process may use: its affinity, and the quota of its control group (a container's limit)."""
    # Absent outside Linux; the platform test is one that type checkers understand.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(quota_cores(_text(Path("/sys/fs/cgroup/cpu.max"))), cores))))


def checked_threads(threads: int, cores: int | None = None) -> int:
    """`threads` if it is between 1 and `cores` (default: those available), all cores for 0.

    Raises:
        UsageError: negative, or more than there are cores: more threads than cores fight each other, and
            every latency would be that fight's.
    """
    cores = available_cores() if cores is None else cores
    if not 0 <= threads <= cores:
        plural = "core is" if cores == 1 else "cores are"
        raise UsageError(
            f"{threads} threads asked for, but {cores} {plural} available; give 1 to {cores}, or 0 for all"
        )
    return threads or cores


def threads_of_stream(threads: int, streams: int, cores: int | None = None) -> int:
    """The threads of each of `streams` calls at the same time: `threads` (0: every core) shared out, at least one.

    Raises:
        UsageError: as `checked_threads`, and fewer than one stream.
    """
    if streams < 1:
        raise UsageError(f"{streams} streams asked for; give 1 or more")
    return max(1, checked_threads(threads, cores) // streams)


def this_machine(packages: Sequence[str] = ()) -> Machine:
    """This machine, with the versions of Python and of those `packages` that are installed."""
    cpu, features = _cpu()
    return Machine(
        cpu=cpu or platform.processor() or platform.machine() or "unknown",
        cores=available_cores(),
        features=features,
        memory_bytes=_memory_bytes(),
        system=platform.platform(),
        versions={"python": platform.python_version(), **versions(packages)},
    )


def versions(packages: Iterable[str]) -> Mapping[str, str]:
    """Installed version by package; what is not installed is absent."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> tuple[str, tuple[str, ...]]:
    if sys.platform == "darwin":
        command = ["sysctl", "machdep.cpu", "hw.optional"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return "", ()
        return read_sysctl(said.stdout)
    return read_cpuinfo(_text(Path("/proc/cpuinfo")))


def _memory_bytes() -> int:
    if sys.platform == "win32":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
