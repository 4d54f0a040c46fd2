"""Results on standard output, everything else on standard error."""

from __future__ import annotations

import shutil
import sys

from fewbits.errors import StorageError

_NARROW, _USUAL, _WIDE = 72, 100, 120


def columns() -> int:
    """How wide a result may be: as the terminal, within reason; 100 where there is none."""
    return min(max(shutil.get_terminal_size((_USUAL, 24)).columns, _NARROW), _WIDE)


def show(text: str) -> None:
    """A result. Raises StorageError if it cannot be written."""
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        # A full disk or a closed pipe shows here, where the command line still answers for it.
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What Python still holds would fail again, and louder, while it shuts down.
        sys.stdout = None
        raise StorageError(f"could not write the result to standard output: {error.strerror or error}") from error


def tell(text: str) -> None:
    """A word to the person, not part of the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(text: str) -> None:
    """What is wrong."""
    tell(f"error: {text}")
