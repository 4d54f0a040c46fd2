"""What candidates of a comparison are called."""

from __future__ import annotations

from typing import Final

ORIGINAL: Final = "original"
TUNED: Final = "tuned"
SHARED = ("baseline", "floats")
"""Stages that all representations of a model have in common: its score, and the timing of the original everywhere."""
