"""Which CUDA devices this machine has; asked of the driver's own tool, so that no framework is loaded for it."""

from __future__ import annotations

import re
import subprocess
from shutil import which

from fewbits.machine import Gpu

_LINE = re.compile(r"\s*(.+?)\s*,\s*([0-9]+)\.([0-9]+)\s*")
_SECONDS = 20


def gpus() -> tuple[Gpu, ...]:
    """The CUDA devices that the driver sees; none where there is no driver."""
    tool = which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return read_query(said.stdout) if said.returncode == 0 else ()


def read_query(text: str) -> tuple[Gpu, ...]:
    """The devices in the answer to ``nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader``.

    Lines without a capability (``[N/A]``, a message of the driver) are left out.
    """
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return tuple(Gpu(line[1], (int(line[2]), int(line[3]))) for line in found if line is not None)
