"""PyTorch's profiler as this project uses it."""

from __future__ import annotations

import os
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

_LOG_LEVEL: Final = "KINETO_LOG_LEVEL"
_SILENT: Final = "99"
"""Above all that it has: its library tells standard error when a profile begins and ends (torch 2.13)."""


def profiled(device: str) -> profile:
    """A profiler of operators with the shapes of what they read; on ``cuda`` of what they launch, too."""
    # Read at the first profile of a process; whoever has set it wants to see something.
    os.environ.setdefault(_LOG_LEVEL, _SILENT)
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")]
    return profile(activities=activities, record_shapes=True, acc_events=True)


def wait(device: str) -> None:
    """Until the device has done what was launched."""
    if device == "cuda":
        torch.cuda.synchronize()
