"""The tables of measured costs in SQLite, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from enum import Enum
from math import isfinite
from pathlib import Path

from fewbits.costs.key import CostRow, RegionCost, RegionKey

MEMORY = Path(":memory:")
SCHEMA_VERSION = 1
APPLICATION = 0x66626974  # "fbit": what `file` and other programs tell a database by

_CREATE = """
CREATE TABLE costs (
  op TEXT NOT NULL, signature TEXT NOT NULL, scheme TEXT NOT NULL, neighbours TEXT NOT NULL,
  target TEXT NOT NULL, target_version TEXT NOT NULL, cpu TEXT NOT NULL, features TEXT NOT NULL,
  threads INTEGER NOT NULL,
  entry REAL NOT NULL, compute REAL NOT NULL, exit REAL NOT NULL,
  kernel TEXT NOT NULL, precision TEXT NOT NULL, refusal TEXT NOT NULL, taken TEXT NOT NULL,
  PRIMARY KEY (op, signature, scheme, neighbours, target, target_version, cpu, features, threads)
) WITHOUT ROWID
"""
_PUT = f"INSERT OR REPLACE INTO costs VALUES ({', '.join('?' * 16)})"
_COST = "SELECT entry, compute, exit, kernel, precision, refusal, taken FROM costs "
_GET = _COST + (
    "WHERE op = ? AND signature = ? AND scheme = ? AND neighbours = ? AND target = ? AND target_version = ? "
    "AND cpu = ? AND features = ? AND threads = ?"
)
_ALL = (
    "SELECT op, signature, scheme, neighbours, target, target_version, cpu, features, threads, "
    "entry, compute, exit, kernel, precision, refusal, taken FROM costs "
    "ORDER BY target, target_version, cpu, features, threads, scheme, op, signature, neighbours"
)

Value = str | int | float | bytes | None
"""What a damaged file may hold in any column."""


class Trouble(Enum):
    """What an error of SQLite means for the file."""

    DAMAGED = "damaged"
    LOCKED = "locked"
    UNUSABLE = "unusable"


def trouble(error: sqlite3.DatabaseError) -> Trouble:
    """What `error`, raised by a statement of this file, means."""
    # The low byte is the primary result code.
    code = error.sqlite_errorcode & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return Trouble.LOCKED
    # The statements are fixed, so that an error in one (no such column) says that the tables are not those made here.
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)
    return Trouble.DAMAGED if code in damage else Trouble.UNUSABLE


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection to `path`, which waits `timeout` seconds for locks. Raises sqlite3.DatabaseError.

    The journal is SQLite's rollback journal, not a write-ahead log: transactions here are a few rows, and a log that
    several hosts share over a network file system, as home directories are, loses data.
    """
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    # A damaged text must not raise while it is read: it matches nothing.
    connection.text_factory = _text
    return connection


def prepare(connection: sqlite3.Connection) -> str:
    """Make the tables in a new file. "" if they are there now, otherwise what the file is instead.

    Raises sqlite3.DatabaseError.
    """
    connection.execute("PRAGMA synchronous = NORMAL")
    if _is_new(connection):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have been faster.
            if _is_new(connection):
                connection.execute(_CREATE)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if _pragma(connection, "application_id") != APPLICATION:
        return "a database of another program"
    version = _pragma(connection, "user_version")
    if version != SCHEMA_VERSION:
        return f"of version {version}, and this fewbits reads version {SCHEMA_VERSION}"
    return ""


def is_sound(connection: sqlite3.Connection) -> bool:
    """Whether every page of the file can be read. Raises sqlite3.DatabaseError."""
    return [tuple(row) for row in connection.execute("PRAGMA quick_check(1)")] == [("ok",)]


def insert(connection: sqlite3.Connection, costs: Mapping[RegionKey, RegionCost]) -> None:
    """Write all of `costs`, or none. Raises sqlite3.DatabaseError."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_PUT, [(*astuple(key), *astuple(cost)) for key, cost in costs.items()])


def select(connection: sqlite3.Connection, keys: Iterable[RegionKey]) -> dict[RegionKey, RegionCost]:
    """The costs of those of `keys` that are there. Raises sqlite3.DatabaseError."""
    found = {}
    with connection:
        # One transaction: the file is locked and checked once, not for every key.
        connection.execute("BEGIN")
        for key in keys:
            for row in connection.execute(_GET, astuple(key)):
                if _is_cost(row):
                    found[key] = RegionCost(*row)
    return found


def select_all(connection: sqlite3.Connection) -> Iterator[CostRow]:
    """Every row, by target, machine, scheme and region. Raises sqlite3.DatabaseError."""
    for row in connection.execute(_ALL):
        key, cost = row[:9], row[9:]
        if all(isinstance(text, str) for text in key[:8]) and isinstance(key[8], int) and _is_cost(cost):
            yield CostRow(RegionKey(*key), RegionCost(*cost))


def delete(connection: sqlite3.Connection, targets: Iterable[str]) -> int:
    """Drop the rows of `targets`; how many there were. Raises sqlite3.DatabaseError."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        return sum(connection.execute("DELETE FROM costs WHERE target = ?", (name,)).rowcount for name in targets)


def _is_new(connection: sqlite3.Connection) -> bool:
    return not any(_pragma(connection, name) for name in ("schema_version", "user_version", "application_id"))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_cost(row: tuple[Value, ...]) -> bool:
    """Whether `row` holds the fields of a cost; SQLite does not see every damage."""
    seconds, texts = row[:3], row[3:]
    return all(isinstance(one, float) and isfinite(one) for one in seconds) and all(isinstance(t, str) for t in texts)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
