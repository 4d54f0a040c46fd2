"""Measured costs, kept from run to run in one file that many processes share.

A cache never ends a run: where the file cannot be used, costs are kept in memory and `CostCache.remarks` says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from fewbits.costs import database
from fewbits.costs.database import MEMORY, Trouble
from fewbits.costs.key import CostRow, RegionCost, RegionKey
from fewbits.costs.mending import beside, mended
from fewbits.costs.sharing import Sharing
from fewbits.errors import StorageError, UsageError

Found = TypeVar("Found")

WAIT = 10.0
"""Seconds that a process waits for others before it goes on without the file."""


class CostCache:
    """Region → cost. Open it with `CostCache.open`, in a ``with`` statement; one thread at a time may use it."""

    def __init__(self, path: Path, wait: float) -> None:
        self._path = path
        self._wait = wait
        self._remarks: list[str] = []
        self._put: dict[RegionKey, RegionCost] = {}
        self._in_memory = False
        self._mended = False
        self._resources = ExitStack()
        self._connection = self._connect(deep=False)

    @classmethod
    def open(cls, path: Path, *, wait: float = WAIT) -> Self:
        """The costs at `path`, made if there is no file.

        A file that is damaged, of another version or another program's is renamed to ``NAME.damaged`` and begun anew.
        Where there is no file to be had (read-only place, full disk, locked for more than `wait` seconds), costs are
        kept in memory from there on. Either is said in `remarks`; neither raises.
        """
        return cls(path, wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; nothing may follow."""
        self._resources.close()

    @property
    def path(self) -> Path:
        """The file that was asked for."""
        return self._path

    @property
    def in_memory(self) -> bool:
        """Whether what is put is lost in the end."""
        return self._in_memory

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know about the file; empty if all is well."""
        return tuple(self._remarks)

    def get_many(self, keys: Iterable[RegionKey]) -> Mapping[RegionKey, RegionCost]:
        """The costs of those of `keys` that are known; the others are absent."""
        wanted = tuple(keys)
        return self._run(lambda connection: database.select(connection, wanted))

    def put(self, key: RegionKey, cost: RegionCost) -> None:
        """Keep `cost`, in place of what was known of `key`."""
        self.put_many({key: cost})

    def put_many(self, costs: Mapping[RegionKey, RegionCost]) -> None:
        """Keep all of `costs`, in one transaction."""
        self._run(lambda connection: database.insert(connection, costs))
        self._put.update(costs)

    def rows(self, *, target: str = "", scheme: str = "") -> tuple[CostRow, ...]:
        """Every row whose target and scheme are the given texts, or match them as shell wildcards; "" matches all.

        Ordered by target, version, machine, scheme and region.
        """
        found = self._run(lambda connection: tuple(database.select_all(connection)))
        return tuple(row for row in found if _fits(target, row.key.target) and _fits(scheme, row.key.scheme))

    def clear(self, *, target: str = "", everything: bool = False) -> int:
        """Forget the rows of the targets that `rows` would show, or with `everything` all of them; how many there were.

        Raises UsageError if neither or both are given.
        """
        if bool(target) == everything:
            raise UsageError("name the target whose costs are to be forgotten, or ask for everything; one of the two")

        def drop(connection: sqlite3.Connection) -> int:
            targets = {row.key.target for row in database.select_all(connection)}
            dropped = database.delete(connection, [name for name in targets if _fits(target, name)])
            # Gives the space back; where somebody is reading just now, the next one does.
            with suppress(sqlite3.OperationalError):
                connection.execute("VACUUM")
            return dropped

        dropped = self._run(drop)
        self._put = {key: cost for key, cost in self._put.items() if not _fits(target, key.target)}
        return dropped

    def _run(self, action: Callable[[sqlite3.Connection], Found]) -> Found:
        """What `action` gives, on the file, on the file begun anew, or at last in memory."""
        while True:
            try:
                return action(self._connection)
            except sqlite3.DatabaseError as error:
                if self._in_memory:
                    raise StorageError(f"costs cannot be kept in memory: {error}; free some of it") from error
                self._resources.close()
                # Once: a disk that spoils every file is not worth a second.
                if database.trouble(error) is Trouble.DAMAGED and not self._mended:
                    self._mended = True
                    self._connection = self._connect(deep=True)
                else:
                    self._connection = self._memory(_reason(error, self._wait))

    def _connect(self, *, deep: bool) -> sqlite3.Connection:
        """The file, or memory in place of it, with all that this cache was given so far."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            sharing = self._resources.enter_context(closing(Sharing(beside(self._path, ".lock"))))
            wrong = mended(self._path, sharing, self._wait, deep=deep)
            connection = self._resources.enter_context(closing(database.connect(self._path, self._wait)))
            if self._put:
                database.insert(connection, self._put)
        except sqlite3.DatabaseError as error:
            return self._memory(_reason(error, self._wait))
        except OSError as error:
            return self._memory(error.strerror or str(error))
        if wrong:
            kept = beside(self._path, ".damaged").name
            self._remarks.append(f"The stored costs in {self._path} were {wrong}. Begun anew; the old file is {kept}.")
        return connection

    def _memory(self, why: str) -> sqlite3.Connection:
        """Open memory in place of the file, which cannot be used because of `why`."""
        self._remarks.append(
            f"The stored costs in {self._path} cannot be used ({why}). Measured costs are kept for this run only."
        )
        self._resources.close()
        self._in_memory = True
        connection = self._resources.enter_context(closing(database.connect(MEMORY, self._wait)))
        database.prepare(connection)
        database.insert(connection, self._put)
        return connection


def _reason(error: sqlite3.DatabaseError, wait: float) -> str:
    if database.trouble(error) is Trouble.LOCKED:
        return f"another process has had it locked for more than {wait:g} s"
    return str(error)


def _fits(pattern: str, text: str) -> bool:
    return not pattern or text == pattern or fnmatchcase(text, pattern)
