"""Standard output kept clean while a compiled library works."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

_OUT: Final = 1
_ONE_AT_A_TIME: Final = Lock()
_C: Final = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what is written to file descriptor 1.

    The HiGHS of scipy 1.17 prints lines of debugging ("transformNewIntegerFeasibleSolution") for some solutions, past
    Python and whatever `disp` says (a bare printf: no option of HiGHS reaches it), into the output of a command that
    prints JSON; it says nothing else. C's buffer is flushed on both ways, since what lies there would come out later.
    Does nothing where descriptor 1 is closed.

    The descriptor belongs to the whole process: a second thread waits until the first is out, and what a third prints
    in the meantime is lost.
    """
    with _ONE_AT_A_TIME:
        yield from _redirected()


def _redirected() -> Iterator[None]:
    _C.fflush(None)
    try:
        kept = os.dup(_OUT)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _OUT)
        yield
    finally:
        _C.fflush(None)
        os.dup2(kept, _OUT)
        os.close(kept)
        os.close(nowhere)
