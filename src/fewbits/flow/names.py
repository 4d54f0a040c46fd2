"""What candidates of a comparison are called."""

from __future__ import annotations

from typing import Final

ORIGINAL: Final = "original"
TUNED: Final = "tuned"
