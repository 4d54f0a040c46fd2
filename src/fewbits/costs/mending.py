"""A file of costs that can be worked with: what is wrong with one is put aside, by one process at a time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

from fewbits.costs import database
from fewbits.costs.database import Trouble
from fewbits.costs.sharing import Sharing

_PAUSE = 0.02
_JOURNALS = ("-journal", "-wal", "-shm")


def beside(path: Path, ending: str) -> Path:
    """The file next to `path` whose name has `ending` behind its."""
    return path.with_name(path.name + ending)


def mended(path: Path, sharing: Sharing, wait: float, *, deep: bool) -> str:
    """Leave a file with our tables at `path`, held in `sharing`; what was wrong with one that is now beside it as
    ``NAME.damaged``, "" if nothing was. `deep` has every page read.

    Raises OSError if it cannot be renamed (TimeoutError if others had it open for `wait` seconds), or
    sqlite3.DatabaseError for any other trouble than damage.
    """
    until = monotonic() + wait
    aside, wrong = "", "just being repaired by another process"
    while True:
        if sharing.shared():
            wrong = _wrong(path, wait, deep=deep)
            if not wrong:
                return aside
            if sharing.alone():
                # The lock was let go for a moment, and another process may have done it.
                wrong = _wrong(path, wait, deep=deep)
                if wrong:
                    _put_aside(path)
                    aside = wrong
                continue
        if monotonic() > until:
            raise TimeoutError(f"it is {wrong}, and other processes have it open")
        sleep(_PAUSE)


def _wrong(path: Path, wait: float, *, deep: bool) -> str:
    with closing(database.connect(path, wait)) as connection:
        try:
            wrong = database.prepare(connection)
            return "damaged" if not wrong and deep and not database.is_sound(connection) else wrong
        except sqlite3.DatabaseError as error:
            if database.trouble(error) is not Trouble.DAMAGED:
                raise
            return f"damaged: {error}"


def _put_aside(path: Path) -> None:
    # A journal belongs to its file: found beside a new one, it would be played back into it.
    for ending in _JOURNALS:
        beside(path, ending).unlink(missing_ok=True)
    path.replace(beside(path, ".damaged"))
