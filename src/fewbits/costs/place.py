"""Where the measured costs of a user lie."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

FILE = "costs.sqlite"


def default_path(environment: Mapping[str, str], home: Path, platform: str = sys.platform) -> Path:
    """The file of measured costs: below ``FEWBITS_CACHE``, otherwise in the user's cache folder of `platform`.

    That is ``$XDG_CACHE_HOME/fewbits`` where it is set to an absolute path (the XDG base directory specification has
    relative ones ignored), ``%LOCALAPPDATA%/fewbits/Cache`` on Windows, ``~/Library/Caches/fewbits`` on macOS,
    ``~/.cache/fewbits`` elsewhere.
    """
    if own := environment.get("FEWBITS_CACHE", ""):
        return Path(own) / FILE
    if (xdg := Path(environment.get("XDG_CACHE_HOME", ""))).is_absolute():
        return xdg / "fewbits" / FILE
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fewbits" / "Cache" / FILE
    if platform == "darwin":
        return home / "Library" / "Caches" / "fewbits" / FILE
    return home / ".cache" / "fewbits" / FILE
